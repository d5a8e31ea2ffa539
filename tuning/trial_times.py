"""When a trial ran and for how long, by what its worker noted: Optuna's own times depend on clock and time zone.

Optuna keeps naive local time of whoever wrote it. A clock that is set, summer time or a worker in another time zone
would make a trial longer or shorter than it was, and with it what a budget of minutes has left. So the worker notes
the moment of the beginning in UTC, and at the end the seconds by a clock that only grows. Trials of older programs, and
those whose worker died, have Optuna's times only.
"""

from datetime import UTC, datetime, timedelta

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial

from storage.records import now as present

# User attributes of a trial.
BEGAN = "began_at"  # UTC in ISO format, by its worker's clock
SECONDS = "seconds"  # from there to its end, by its worker's monotonic clock


def note_beginning(trial: optuna.Trial) -> None:
    """Write down that a trial begins now."""
    trial.set_user_attr(BEGAN, present().isoformat())


def note_seconds(trial: optuna.Trial, seconds: float) -> None:
    """Write down how long a trial took, before its end is told; nothing happens where somebody else has ended it."""
    try:
        trial.set_user_attr(SECONDS, seconds)
    except UpdateFinishedTrialError:
        return


def began(trial: FrozenTrial) -> datetime | None:
    """When a trial began, in UTC; None where it never did."""
    if BEGAN in trial.user_attrs:
        return datetime.fromisoformat(trial.user_attrs[BEGAN])
    return trial.datetime_start.astimezone(UTC) if trial.datetime_start else None


def seconds(trial: FrozenTrial) -> float | None:
    """How long a trial took; None where it has not ended, or never began."""
    if not trial.state.is_finished():
        return None
    known = trial.user_attrs.get(SECONDS)
    return known if known is not None or trial.duration is None else trial.duration.total_seconds()


def ended(trial: FrozenTrial) -> datetime | None:
    """When a trial ended, in UTC; None where it has not, or never began."""
    start, took = began(trial), seconds(trial)
    if start is None or took is None:
        return None
    if SECONDS not in trial.user_attrs and trial.datetime_complete is not None:
        # Optuna's duration counts from before the beginning that is noted: trials would change places by it.
        return trial.datetime_complete.astimezone(UTC)
    return start + timedelta(seconds=took)
