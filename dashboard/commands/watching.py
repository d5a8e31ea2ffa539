"""Following a study on the terminal until it ends, and seeing to it that a worker runs it."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dashboard import wording
from dashboard.commands import reporting
from dashboard.errors import WorkersDie

if TYPE_CHECKING:
    from storage.records import Study
    from storage.workspace import Workspace

POLL_SECONDS = 0.5
WORKER_SECONDS = 45.0  # between two looks for a live worker; longer than one takes to start and be heard of
MAX_STARTS = 3


def follow(workspace: "Workspace", study: "Study") -> "Study":
    """Show the study's progress until it ends or pauses; answers its last state.

    Raises:
        WorkersDie: no worker that was started for it stays alive.
    """
    from storage import studies
    from storage.records import StudyState

    looked_at, starts, backbone = -WORKER_SECONDS, 0, ""
    with _display() as show:
        while True:
            with workspace.session() as session:
                study = studies.get_study(session, study.id)
            if study.progress.get("backbone", backbone) != backbone:
                backbone = study.progress["backbone"]
                reporting.say(wording.backbone(backbone, study.progress.get("stronger_backbone")))
            show(study)
            if study.state.finished or study.state is StudyState.PAUSED:
                return study
            if time.monotonic() - looked_at >= WORKER_SECONDS:
                looked_at = time.monotonic()
                starts += _start_worker_if_none(workspace, study, starts)
            time.sleep(POLL_SECONDS)


def _start_worker_if_none(workspace: "Workspace", study: "Study", starts: int) -> bool:
    """Start a worker where none is alive, the first time or after one has died; answers whether it did."""
    from tuning.queries import worker_alive
    from tuning.supervisor import ensure_worker

    if worker_alive(workspace):
        return False
    if starts == MAX_STARTS:
        raise WorkersDie(
            f"{starts} workers were started for study {study.id} and none stayed alive. Read their log in "
            f"{workspace.settings.logs_folder}, mend what it says, then run: simplenet worker --study {study.id}"
        )
    ensure_worker(workspace, study.id)
    return True


class _display:  # noqa: N801 (reads as a phrase: `with _display() as show`)
    """A bar of epochs over all trials on a terminal, a line per step elsewhere; on stderr."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._last = ""

    def __enter__(self) -> Callable[["Study"], None]:
        if not sys.stderr.isatty():
            return self._write
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._task = self._bar.add_task("waiting for a worker", total=None)
        return self._draw

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _draw(self, study: "Study") -> None:
        from dashboard.following import fraction_done, status_line

        done = fraction_done(study)
        total = None if done is None else 1.0  # without a known end the bar swings
        self._bar.update(self._task, description=status_line(study), completed=done or 0.0, total=total)

    def _write(self, study: "Study") -> None:
        from dashboard.following import status_line

        line = status_line(study, with_epoch=False)
        if line != self._last:
            self._last = line
            reporting.say(line)
