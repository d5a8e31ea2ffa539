"""A process of its own for what computes: a crash of the device's driver, or a kill for want of memory, takes it alone.

It is forked from a server process that has torch and the engine loaded already (multiprocessing's forkserver), so that
replacing a dead one takes a fraction of a second. It lives from task to task and keeps what it has loaded. It ends with
its parent, however that ends.

A task is a function that can be imported, called as `task(*arguments, tell)`. `tell(message)` sends the message to the
parent and does not wait for it.
"""

import contextlib
import ctypes
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, TypeAlias

from tuning.errors import TuningError

POLL_SECONDS = 0.1  # how soon a wish is followed while the child is busy
END_SECONDS = 2.0  # patience with a process that was killed
_PRELOADED = "tuning.computing"
_PACKAGES = ("engine", "storage", "tuning")

Tell: TypeAlias = Callable[[Any], None]


class ChildDied(TuningError):
    """The process that computed is gone: killed by the system, or crashed."""

    def __init__(self, code: int | None) -> None:
        self.killed = code == -signal.SIGKILL  # what the kernel does to a process when memory runs out
        super().__init__(f"The process that computed {_death(code)}.")


class Stopped(Exception):
    """The parent wants no more of this task; raised by `tell` to unwind it."""


class Child:
    """One process for tasks. For one thread at a time."""

    def __init__(self) -> None:
        """Nothing is started yet."""
        self._process: ForkServerProcess | None = None
        self._connection: Connection | None = None
        self._serial = 0
        self._started = 0

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def prepare(self) -> None:
        """Begin to load in the background what a process is forked from, so that the first one need not wait."""
        _context()
        forkserver.ensure_running()

    def start(self) -> int:
        """See to it that there is a process; answers how many there were, so that a new one can be told."""
        if self._process is None or not self._process.is_alive():
            self.kill()
            context = _context()
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, _levels()), daemon=True)
            process.start()
            self._process = process
            theirs.close()  # so that the process's end is the end of the line
            self._connection = ours
            self._started += 1
        return self._started

    def run(
        self,
        task: Callable[..., Any],
        *arguments: Any,
        on_message: Callable[[Any], bool],
        check: Callable[[], None],
        grace_seconds: float = 0.0,
    ) -> Any:
        """Run a task in the process that was started, and answer what it returns; None where it was stopped.

        Args:
            on_message: given each message in order; once it answers False the task is asked to stop, and what it still
                says is not heard. What it raises ends the process.
            check: called some times a second; what it raises ends the process, in the middle of whatever it does.
            grace_seconds: for the task to unwind in before that.
        Raises:
            ChildDied: it crashed or was killed.
            Exception: what the task raised; `traceback_of` tells where.
        """
        try:
            if self._connection is None:
                raise EOFError
            self._serial += 1
            self._connection.send((self._serial, task, arguments))
            return self._listen(self._connection, on_message, check)
        except (BrokenPipeError, ConnectionResetError, EOFError):
            code = self._code()
            self.kill()
            check()  # who is asked to end may see its process end first
            raise ChildDied(code) from None
        except _Raised as raised:
            raise raised.error from None
        except BaseException:
            if not self._unwinds(grace_seconds):
                self.kill()
            raise

    def kill(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()
            process.join(END_SECONDS)
            with contextlib.suppress(
                ValueError
            ):  # waits for a device a moment longer; the kernel sees to its end
                process.close()

    def _listen(
        self, connection: Connection, on_message: Callable[[Any], bool], check: Callable[[], None]
    ) -> Any:
        wanted = True
        while True:
            check()
            if not connection.poll(POLL_SECONDS):
                continue
            kind, content = connection.recv()
            if kind == "told":
                if wanted and not on_message(content):
                    wanted = False
                    connection.send((self._serial, None, ()))
            elif kind == "logged":
                content.thread = (
                    threading.get_ident()
                )  # which tells the study's log that it is about the study
                logging.getLogger(content.name).handle(content)
            elif kind == "raised":
                raise _Raised(content)
            else:
                return content

    def _unwinds(self, seconds: float) -> bool:
        """Whether the task comes to an end by itself when it is asked to."""
        deadline = time.monotonic() + seconds
        try:
            if seconds and self._connection is not None:
                self._connection.send((self._serial, None, ()))
            while self._connection is not None and (left := deadline - time.monotonic()) > 0:
                if self._connection.poll(left) and self._connection.recv()[0] in ("done", "raised"):
                    return True
        except (OSError, EOFError):
            return False
        return False

    def _code(self) -> int | None:
        if self._process is None:
            return None
        self._process.join(END_SECONDS)
        return self._process.exitcode


class _Raised(Exception):
    """Carries what a task raised past the handlers for what goes wrong with its process."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def traceback_of(error: BaseException) -> str:
    """Where an error came from: in the child where it was raised there."""
    notes = getattr(error, "__notes__", None)
    return "".join(notes) if notes else "".join(traceback.format_exception(error))


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    return context


def _death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    if name == "SIGKILL":
        return "was killed by the system, as happens when memory runs out (SIGKILL)"
    return f"crashed ({name})"


def _levels() -> dict[str, int]:
    return {name: logging.getLogger(name).getEffectiveLevel() for name in _PACKAGES}


def _serve(connection: Connection, levels: dict[str, int]) -> None:
    """What the process does: task after task, until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its processes itself
    _end_with_parent()
    _send_logs(connection, levels)
    while True:
        try:
            serial, task, arguments = connection.recv()
        except (EOFError, OSError):
            return
        if task is None:  # a wish to stop that came after the end
            continue
        try:
            answer = ("done", task(*arguments, _teller(connection, serial)))
        except Stopped:
            answer = ("done", None)
        except Exception as error:
            answer = ("raised", _portable(error))
        try:
            connection.send(answer)
        except OSError:
            return


def _teller(connection: Connection, serial: int) -> Tell:
    def tell(message: Any) -> None:
        connection.send(("told", message))
        while connection.poll():
            if connection.recv()[0] == serial:
                raise Stopped

    return tell


def _portable(error: Exception) -> Exception:
    """An error that can be sent: itself where that works, with its traceback as a note."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own bytes)
    except Exception:
        again = None
    if type(again) is type(error) and str(again) == str(error):
        return error
    plain = RuntimeError(f"{type(error).__name__}: {error}")
    plain.add_note("".join(error.__notes__))
    return plain


class _Sender(logging.Handler):
    """Sends records to the parent, whose handlers know where they belong."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        with contextlib.suppress(OSError):
            self._connection.send(("logged", record))


def _send_logs(connection: Connection, levels: dict[str, int]) -> None:
    for name, level in levels.items():
        ours = logging.getLogger(name)
        ours.setLevel(level)
        ours.handlers = [_Sender(connection)]
        ours.propagate = False


def _end_with_parent() -> None:
    """Have the kernel end this process with the server that forked it, which ends with the worker."""
    if sys.platform == "linux":
        server, pr_set_pdeathsig = os.getppid(), 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() in (0, 1) and server not in (0, 1):  # it was gone before it could be asked
            os._exit(1)
