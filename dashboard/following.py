"""How far a study is, in words and as a fraction: one reading of its progress for pages and the command line."""

from datetime import datetime

from dashboard import wording
from storage.records import Study, StudyState


def fraction_done(study: Study) -> float:
    """0..1 over all trials, their epochs counted in."""
    if study.state is StudyState.COMPLETED:
        return 1.0
    progress = study.progress
    if progress.get("phase") == "champion":
        return 1.0
    trials = study.spec["trials"]
    if trials is None:  # another limit ends it, and nobody knows when
        return 0.0
    trial = int(progress.get("trial", 0))
    if trial == 0:
        return 0.0
    epochs = int(progress.get("epochs", 0))
    within = int(progress.get("epoch", 0)) / epochs if epochs else 0.0
    return min(1.0, (trial - 1 + within) / trials)


def orphaned(study: Study, now: datetime) -> bool:
    """Whether the study counts as running though its worker has not been heard of for a whole lease."""
    return study.state is StudyState.RUNNING and study.lease_until is not None and study.lease_until < now


def seconds_left(study: Study, now: datetime) -> float | None:
    """A guess from the pace so far; None before a trial has ended, or while nothing runs."""
    done = fraction_done(study)
    if study.state is not StudyState.RUNNING or study.started_at is None or not 0 < done < 1:
        return None
    if int(study.progress.get("trial", 0)) < 2:
        return None
    return (now - study.started_at).total_seconds() * (1 - done) / done


def status_line(study: Study, *, with_epoch: bool = True) -> str:
    """What the study does now: 'trial 7 of 20, epoch 3 of 10, best 0.940'; and what it waits for, if anything."""
    waits = study.progress.get("waiting") if study.state is StudyState.RUNNING else None
    return _doing(study, with_epoch=with_epoch) + (f"; waiting: {waits}" if waits else "")


def _doing(study: Study, *, with_epoch: bool) -> str:
    progress, trials = study.progress, study.spec["trials"]
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
    parts = [f"trial {progress.get('trial', 1)}" + (f" of {trials}" if trials else "")]
    if with_epoch and progress.get("epochs"):
        parts.append(f"epoch {progress.get('epoch', 0)} of {progress['epochs']}")
    if progress.get("best") is not None:
        parts.append(f"best {wording.number(progress['best'])}")
    return ", ".join(parts)


def _stopped(study: Study) -> str:
    trials = study.spec["trials"] or study.progress.get("trial", 0)
    best = study.progress.get("best")
    ending = f", best {wording.number(best)}" if best is not None else ""
    if study.state is StudyState.COMPLETED:
        return wording.plural(trials, "trial") + ending
    return f"{study.state.value} at trial {study.progress.get('trial', 0)} of {trials}{ending}"
