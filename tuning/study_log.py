"""What a worker says while it works on a study, also in a file of the study: its page shows the end of it."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.settings import Settings

_PACKAGES = ("engine", "storage", "tuning")


def study_log(settings: Settings, study_id: int) -> Path:
    """The file that all workers of this home append to."""
    return settings.logs_folder / f"study-{study_id}.log"


@contextmanager
def logged(settings: Settings, study_id: int, worker_id: str) -> Iterator[None]:
    """Write what this thread logs, and what is logged of the study, to the study's file as well."""
    handler = logging.FileHandler(study_log(settings, study_id), encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {worker_id}: %(message)s"))
    thread = threading.get_ident()
    handler.addFilter(lambda record: record.thread == thread or getattr(record, "study", None) == study_id)
    loggers = [logging.getLogger(name) for name in _PACKAGES]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        with suppress(OSError):  # a full disk: the last lines are lost, the study must not be
            handler.close()
