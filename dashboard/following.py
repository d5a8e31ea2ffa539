"""How far a study is, in words and as a fraction: one reading of its progress for pages and the command line."""

from datetime import datetime

from dashboard import wording
from storage.records import Study, StudyState


def fraction_done(study: Study) -> float | None:
    """0..1 of its trials, their epochs counted in, or of its minutes; None where only patience or a grid ends it."""
    if study.state is StudyState.COMPLETED or study.progress.get("phase") == "champion":
        return 1.0
    trials, minutes = study.spec["trials"], study.spec.get("minutes")
    parts = []
    if trials is not None:
        parts.append((ended(study) + _within(study)) / trials)
    if minutes is not None:
        parts.append(_searched(study) / (60 * minutes))
    return min(1.0, max(parts)) if parts else None


def ended(study: Study) -> int:
    """How many trials of its budget have ended, as its worker last told."""
    progress = study.progress
    if "ended" in progress:
        return int(progress["ended"])
    begun = int(progress.get("trial", 0))  # all that older workers told
    return (study.spec["trials"] or begun) if study.state is StudyState.COMPLETED else max(0, begun - 1)


def orphaned(study: Study, now: datetime) -> bool:
    """Whether the study counts as running though its worker has not been heard of for a whole lease."""
    return study.state is StudyState.RUNNING and study.lease_until is not None and study.lease_until < now


def seconds_left(study: Study) -> float | None:
    """A guess from the time spent in trials so far, or what is left of its minutes; None where nobody knows.

    No clock is read: pauses, other machines' clocks and the time since the worker last told something are left out.
    """
    progress, minutes = study.progress, study.spec.get("minutes")
    training = study.state is StudyState.RUNNING and progress.get("phase") == "training"
    if not training or progress.get("waiting_for_others"):
        return None
    known = [60 * minutes - _searched(study)] if minutes is not None else []
    by_trials = _seconds_of_trials(study)
    known += [] if by_trials is None else [by_trials]
    left = min(known, default=0.0)
    return left if left > 0 else None


def _seconds_of_trials(study: Study) -> float | None:
    """Wall time that the trials left take at the pace of those that ended; None before the first has."""
    progress, trials = study.progress, study.spec["trials"]
    if trials is None or not ended(study) or not progress.get("searched"):
        return None
    # With several workers, trials that run by now are partly done as well.
    done = ended(study) + float(progress.get("under_way", 0.0))
    elapsed, within = float(progress.get("elapsed", 0.0)), _within(study)
    left = (trials - done) * float(progress["searched"]) / done - elapsed
    present = elapsed * (1 - within) / within if within else 0.0  # it may be a slow one
    return max(left, present)


def _searched(study: Study) -> float:
    """Seconds in which trials ran, the present one included."""
    present = float(study.progress.get("elapsed", 0.0)) if study.state is StudyState.RUNNING else 0.0
    return float(study.progress.get("searched", 0.0)) + present


def _within(study: Study) -> float:
    """0..1 of the epochs of the trial that its leading worker runs."""
    epochs = int(study.progress.get("epochs") or 0) if study.state is StudyState.RUNNING else 0
    return min(1.0, int(study.progress.get("epoch", 0)) / epochs) if epochs else 0.0


def status_line(study: Study, *, with_epoch: bool = True) -> str:
    """What the study does now: '6 of 20 trials, epoch 3 of 10, best 0.940'; and what it waits for, if anything.

    It counts trials of the budget that have ended. A trial's number is Optuna's everywhere, and no such count: those
    that a study took over from another or gave up unfinished have numbers, too.
    """
    waits = study.progress.get("waiting") if study.state is StudyState.RUNNING else None
    return _doing(study, with_epoch=with_epoch) + (f"; waiting: {waits}" if waits else "")


def _doing(study: Study, *, with_epoch: bool) -> str:
    progress = study.progress
    if study.state is StudyState.QUEUED:
        return "waiting for a worker"
    if study.state is not StudyState.RUNNING:
        return _stopped(study)
    phase = progress.get("phase", "preparing")
    if phase == "preparing":
        # What is fetched is what will be used: once it is here, the backbone is known.
        fetching = progress.get("fetching") if "backbone" not in progress else None
        return f"fetching the backbone {fetching}" if fetching else "preparing"
    if phase == "features":
        if with_epoch and "total" in progress:
            return f"computing features, {progress['done']} of {progress['total']} pictures"
        return "computing features"
    if phase == "champion":
        step = progress.get("message", "making the champion candidate")
        return f"best {wording.number(progress.get('best'))}; {step}"
    if progress.get("waiting_for_others"):
        return f"other workers run the last trials, best {wording.number(progress.get('best'))}"
    parts = [trials_ended(study)]
    if (patience := study.spec.get("patience")) and "fruitless" in progress:
        parts.append(f"{progress['fruitless']} of {patience} without improvement")
    if with_epoch and progress.get("epochs"):
        parts.append(f"epoch {progress.get('epoch', 0)} of {progress['epochs']}")
    if progress.get("best") is not None:
        parts.append(f"best {wording.number(progress['best'])}")
    return ", ".join(parts)


def trials_ended(study: Study) -> str:
    """'6 of 20 trials', or '6 trials' where their number is not fixed, or another limit has ended the study."""
    trials, done = study.spec["trials"], ended(study)
    fixed = trials is not None and study.state is not StudyState.COMPLETED
    return f"{done:,} of {wording.plural(trials, 'trial')}" if fixed else wording.plural(done, "trial")


def _stopped(study: Study) -> str:
    best = study.progress.get("best")
    ending = f", best {wording.number(best)}" if best is not None else ""
    so_far = trials_ended(study)
    return (so_far if study.state is StudyState.COMPLETED else f"{study.state.value} after {so_far}") + ending
