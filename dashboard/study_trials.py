"""The trials of a study as charts and tables take them; nothing here draws or reads a database."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from dashboard import wording
from dashboard.charts import Span, TrialPoint
from storage.records import Worker
from tuning.queries import TrialRecord


def points(trials: Sequence[TrialRecord]) -> list[TrialPoint]:
    """Each trial for the charts; one that runs or was pruned has the value of its last epoch."""
    return [
        TrialPoint(
            number=trial.number,
            state=trial.state,
            value=last_value(trial),
            label=wording.configuration(trial.params) + (" (the paper's)" if trial.from_paper else ""),
            curve=trial.intermediate,
            params=trial.params,
            latency_ms=trial.latency_ms,
            within_limits=trial.within_limits,
        )
        for trial in trials
    ]


def spans(trials: Sequence[TrialRecord], moment: datetime) -> list[Span]:
    """When each trial ran and on what; one that runs reaches to `moment`."""
    found = []
    for trial in trials:
        seconds = seconds_so_far(trial, moment)
        if trial.started_at is not None and seconds is not None:
            found.append(
                Span(
                    number=trial.number,
                    state=trial.state,
                    worker=place(trial),
                    began=trial.started_at,
                    seconds=seconds,
                )
            )
    return found


def last_value(trial: TrialRecord) -> float | None:
    """The objective after the last epoch that a trial has told, or its value once it has one."""
    if trial.value is not None or not trial.intermediate:
        return trial.value
    return trial.intermediate[max(trial.intermediate)]


def seconds_so_far(trial: TrialRecord, moment: datetime) -> float | None:
    """How long a trial ran, or has been running; None where it never began."""
    if trial.duration_seconds is not None or trial.started_at is None or trial.state != "running":
        return trial.duration_seconds
    return (moment - trial.started_at).total_seconds()


def place(trial: TrialRecord) -> str:
    """Who ran a trial and on what: 'host-4711-ab12cd · cpu'."""
    return " · ".join(part for part in (trial.worker, trial.device) if part) or "worker not told"


def device_of(worker: Worker) -> str:
    """'cuda:0', or 'cpu, 2 threads'."""
    if worker.threads is None or not worker.device.startswith("cpu"):
        return worker.device
    return f"{worker.device}, {wording.plural(worker.threads, 'thread')}"


def best_number(trials: Sequence[TrialRecord]) -> int | None:
    """The completed trial of the highest value that keeps all limits; the earliest of equals."""
    values: Mapping[int, float] = {
        trial.number: trial.value
        for trial in trials
        if trial.state == "completed" and trial.value is not None and trial.within_limits
    }
    return max(values, key=lambda number: (values[number], -number), default=None)
