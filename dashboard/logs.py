"""The log of a process: one handler on stderr, set up once by whoever starts the process."""

import logging
import sys

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _WithExtras(logging.Formatter):
    """Writes the `extra={…}` of a record behind its message: 'study claimed study=3 worker=…'."""

    def format(self, record: logging.LogRecord) -> str:
        extras = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD)
        line = super().format(record)
        if not extras:
            return line
        first, separator, rest = line.partition("\n")  # a traceback follows on further lines
        return f"{first} {extras}{separator}{rest}"


def configure(level: str) -> None:
    """Send the product's own loggers to stderr, which the supervisor keeps as the process's log file."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithExtras("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for package in ("dashboard", "tuning", "storage", "engine"):
        logger = logging.getLogger(package)
        logger.setLevel(level)
        logger.handlers = [handler]
        logger.propagate = False
