"""What every command shares: the workspace, exit codes, errors as one line, progress on stderr, JSON on stdout."""

import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum, IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer

from dashboard.wording import size

if TYPE_CHECKING:
    from storage.settings import Settings
    from storage.workspace import Workspace

P = ParamSpec("P")
R = TypeVar("R")

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A progress bar: called itself it counts, and tells what it counts; `of_bytes` tells sizes."""

    counting: Progress
    of_bytes: Progress

    def __call__(self, done: int, total: int, what: str) -> None:
        self.counting(done, total, what)


class ExitCode(IntEnum):
    """What the exit code of a command says; docs/cli.md lists the same."""

    OK = 0
    ERROR = 1  # one line on stderr says what, which rule, and what to do
    USAGE = 2  # an option or argument is missing or can not be read
    NOTHING = 3  # the dataset, version, picture, study, model or champion that was named does not exist
    FAILED = 4  # the study that was followed failed
    CANCELLED = 5  # the study that was followed was cancelled
    PAUSED = 6  # the study that was followed was paused
    DIFFERENT = 7  # a trial that was trained again is not equal to what was recorded
    INTERRUPTED = 130  # Ctrl-C; a followed study goes on


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Turn our errors into one line on stderr and an exit code."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        from dashboard.errors import DashboardError
        from engine.errors import EngineError
        from storage import errors as storage_errors
        from tuning import errors as tuning_errors

        missing = (
            storage_errors.DatasetNotFound,
            storage_errors.VersionNotFound,
            storage_errors.StudyNotFound,
            storage_errors.ModelNotFound,
            storage_errors.RunNotFound,
            tuning_errors.TrialNotFound,
            storage_errors.ApiKeyNotFound,
            tuning_errors.NoChampion,
            tuning_errors.PictureNotFound,
        )
        try:
            return function(*args, **kwargs)
        except (EngineError, storage_errors.StorageError, tuning_errors.TuningError, DashboardError) as error:
            say(f"error: {error}")
            raise typer.Exit(ExitCode.NOTHING if isinstance(error, missing) else ExitCode.ERROR) from error

    return wrapper


def open_workspace(settings: "Settings | None" = None) -> "Workspace":
    """The workspace of `--home`, `SIMPLENET_HOME` or `~/.simplenet`.

    Args:
        settings: those that the environment and the file give, where not given.
    """
    from storage.workspace import open_workspace

    return open_workspace(settings)


def read_settings(given: "Mapping[str, Any] | None" = None) -> "Settings":
    """The settings, without opening an installation.

    Args:
        given: settings by name that win over all others.
    """
    from storage.settings import Settings

    return Settings(**(given or {}))


def say(message: str) -> None:
    """A line for people, on stderr: stdout belongs to the answer."""
    typer.echo(message, err=True)


def answer(value: Any, *, as_json: bool, text: str) -> None:
    """The answer of a command on stdout: as JSON, or as text for people."""
    typer.echo(json.dumps(plain(value), indent=2, ensure_ascii=False) if as_json else text)


def plain(value: Any) -> Any:
    """Records, enums, times, paths and mappings as JSON types.

    Raises:
        TypeError: a value has no JSON form; a record should then be reduced before.
    """
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as aligned columns, plain enough to be cut and pasted."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(lines)


@contextmanager
def progress_bar(title: str, unit: str = "picture") -> Iterator[Bar]:
    """A progress bar on stderr: `with progress_bar("Reading") as progress: progress(done, total, "what")`.

    Where stderr is no terminal, a line is written at the start and every tenth of the way.

    Args:
        title: what is done: 'Reading'.
        unit: what is counted; 'Reading picture 14,064 of 183,525'.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Rich

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[what]}"),
            TimeRemainingColumn(),
        )
        with Rich(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None, what="")

            def update(amount: str, done: int, total: int, what: str) -> None:
                # A name in brackets would be read as a colour.
                bar.update(task, completed=done, total=total or None, description=amount, what=_cut(what))

            yield _bar(title, unit, update)
        return
    reported = ("", -1, -1)

    def write(amount: str, done: int, total: int, what: str) -> None:
        nonlocal reported
        tenth = (amount.split()[0], total, 10 * done // total if total else 0)
        if tenth != reported:
            reported = tenth
            say(f"{amount} ({what})" if what else amount)

    yield _bar(title, unit, write)


def _bar(title: str, unit: str, show: Callable[[str, int, int, str], None]) -> Bar:
    counted = f"{title} {unit}".strip()

    def counting(done: int, total: int, what: str) -> None:
        show(f"{counted} {done:,} of {total:,}" if total else title, done, total, what)

    def of_bytes(done: int, total: int, what: str) -> None:
        show(f"Unpacking {size(done)} of {size(total)}" if total else title, done, total, what)

    return Bar(counting=counting, of_bytes=of_bytes)


def _cut(what: str) -> str:
    from rich.markup import escape

    return escape(what[:60])
