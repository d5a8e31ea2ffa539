"""A worker's hold on one study: a thread keeps the lease alive, the study asks it at every step whether to go on."""

import logging
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from storage import studies
from storage.errors import LeaseLost, StorageError
from storage.records import Study, Wanted, now
from storage.workspace import Workspace
from tuning.errors import StudyCancelled, StudyPaused

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5  # progress is written at most this often; a page refreshes no faster


class Lease:
    """Holds a claimed study while used as a context manager. Its methods are for one thread, the study's own.

    A heartbeat that fails because the database is busy is tried again at the next beat; the lease outlives a few.
    """

    def __init__(self, workspace: Workspace, study: Study, worker_id: str, stop: threading.Event) -> None:
        """Take over the hold that a claim gave.

        Args:
            study: as `studies.claim` answered it; its attempt number fences all that is written.
            stop: set when the worker process is asked to end; the study is then left for another worker.
        """
        self.workspace = workspace
        self.study = study
        self.worker_id = worker_id
        self._stop = stop
        self._released = threading.Event()
        self._wanted = Wanted.RUN
        self._lost: LeaseLost | None = None
        self._reported_at = 0.0
        self._progress: dict[str, Any] = dict(study.progress)
        self._thread = threading.Thread(target=self._beat, name=f"lease-{study.id}", daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._thread.join()

    def check(self) -> None:
        """Unwind the study if it should not go on.

        Raises:
            StudyCancelled, StudyPaused: by a person's wish.
            WorkerStopping: the worker process is to end.
            LeaseLost: another worker has the study.
        """
        if self._lost is not None:
            raise self._lost
        if self._stop.is_set():
            raise WorkerStopping(f"Worker '{self.worker_id}' was asked to end.")
        if self._wanted is Wanted.CANCEL:
            raise StudyCancelled(f"Study '{self.study.name}' was cancelled.")
        if self._wanted is Wanted.PAUSE:
            raise StudyPaused(f"Study '{self.study.name}' was paused.")

    def report(self, progress: Mapping[str, Any], *, at_once: bool = False) -> None:
        """Show how far the study is; what changes is merged into what was reported before. Also checks."""
        self.check()
        self._progress.update(progress)
        moment = time.monotonic()
        if not at_once and moment - self._reported_at < PROGRESS_SECONDS:
            return
        self._reported_at = moment
        with self.workspace.session() as session:
            studies.set_progress(
                session,
                study_id=self.study.id,
                worker_id=self.worker_id,
                attempt=self.study.attempt,
                progress=self._progress,
            )

    def _beat(self) -> None:
        settings = self.workspace.settings
        while not self._released.is_set():
            try:
                with self.workspace.session() as session:
                    self._wanted = studies.heartbeat(
                        session,
                        study_id=self.study.id,
                        worker_id=self.worker_id,
                        attempt=self.study.attempt,
                        now=now(),
                        lease_seconds=settings.lease_seconds,
                    )
                with self.workspace.session() as session:
                    studies.beat_worker(session, worker_id=self.worker_id, study_id=self.study.id, now=now())
            except LeaseLost as error:
                self._lost = error
                return
            except StorageError:
                logger.exception("heartbeat failed; trying again", extra={"study": self.study.id})
            self._released.wait(
                min(settings.heartbeat_seconds, 1.0 if self._wanted is not Wanted.RUN else 1e9)
            )


class WorkerStopping(Exception):
    """The worker process is to end: not an error, the study goes on elsewhere or later."""
