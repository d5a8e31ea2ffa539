"""How long a study will take on this machine, before it starts: from trials that ran here, else from a measurement."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from math import ceil
from statistics import fmean

from optuna.trial import FrozenTrial, TrialState

from engine.config import SimpleNetConfig
from engine.devices import resolve_device
from engine.errors import EngineError
from engine.geometry import MIRRORS
from storage import datasets, studies
from storage.records import DatasetVersion, Role
from storage.workspace import Workspace
from tuning import trial_times
from tuning.budget import own
from tuning.search import trials_of
from tuning.spec import MAX_TRIALS, Pruner, Range, Sampler, StudySpec, Values
from tuning.speed import Speed, measured_speed

STUDIES_LOOKED_AT = 20  # the latest
LEAST_TRIALS = 4  # that tell more than a measurement
ALIKE = 2.0  # so many times more or fewer pictures are still alike
RUN_SECONDS = 1.5  # of a trial beside training and scoring: figures with intervals, Optuna, MLflow
REGISTER_SECONDS = 10.0  # to register a model in MLflow
# Share of the epochs that trials run on average; guesses that the first trials on a machine replace.
KEPT_EPOCHS = {Pruner.NONE: 1.0, Pruner.MEDIAN: 0.8, Pruner.HYPERBAND: 0.6}
PATIENT = 2.0  # a study that ends by patience tries so many times as many configurations, about


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds that a study will take, and how that is known."""

    features: float  # less where they are cached already
    trials: float  # all of them, one after the other
    champion: float
    count: int  # trials reckoned with
    from_trials: int  # trials of this installation that it is reckoned from; 0: measured

    @property
    def seconds(self) -> float:
        """From the moment that a worker takes the study to its model."""
        return self.features + self.trials + self.champion


def estimate(
    workspace: Workspace, version: DatasetVersion, spec: StudySpec, *, measure: bool = True
) -> Estimate | None:
    """Estimate a study of a dataset version, one trial after the other.

    Takes some seconds where this device, backbone and size were never measured.

    Args:
        measure: whether to measure where nothing is known.
    Returns:
        None where it can't be known: see `tuning.speed.measured_speed`.
    """
    speed = measured_speed(workspace.settings, spec, measure=measure)
    if speed is None:
        return None
    count = {role: version.count(role=role) for role in Role}
    # Where nothing is labelled anomalous, every normal picture gets a twin with a planted defect.
    held_out = 1 if version.has_defects else 2
    validation, test = held_out * count[Role.VALIDATION], held_out * count[Role.TEST]
    seen = count[Role.TRAIN] + count[Role.CALIBRATION] + validation
    # Turned over in every way that some trial asks for; a trial takes its own ways.
    ways = [MIRRORS[mirror] for mirror in spec.mirrors] or [()]
    read = seen + count[Role.TRAIN] * len({way for some in ways for way in some})
    learned = seen + count[Role.TRAIN] * fmean(map(len, ways))
    past = _past_seconds(workspace, version, spec)
    one = (
        fmean(past) * _work(spec)
        if past
        else _trial_seconds(speed, spec, learned, validation, count[Role.CALIBRATION])
    )
    trials = expected_trials(spec)
    searched = trials * one
    if spec.minutes is not None and searched > 60 * spec.minutes:
        trials = max(1, ceil(60 * spec.minutes / one))
        searched = trials * one
    judged = count[Role.CALIBRATION] + validation + test
    return Estimate(
        features=read * speed.picture,
        trials=searched,
        champion=judged * (speed.picture + speed.aggregate + speed.score + speed.map) + REGISTER_SECONDS,
        count=trials,
        from_trials=len(past),
    )


def expected_trials(spec: StudySpec) -> int:
    """How many trials a study will run if time does not end it."""
    most = spec.trials or MAX_TRIALS
    if spec.sampler is Sampler.GRID:
        most = min(most, spec.grid_size)
    return most if spec.patience is None else min(most, ceil(PATIENT * spec.patience))


def _trial_seconds(speed: Speed, spec: StudySpec, seen: float, validation: int, calibration: int) -> float:
    default = SimpleNetConfig()
    epoch = default.steps_per_epoch * speed.step * _relative(spec) + validation * speed.score
    if spec.objective.needs_masks:
        epoch += validation * speed.map
    trained = spec.seeds * spec.epochs * epoch * KEPT_EPOCHS[spec.pruner]
    ended = seen * speed.aggregate + (validation + calibration) * (speed.score + speed.map)
    return trained + ended + RUN_SECONDS


def _past_seconds(workspace: Workspace, version: DatasetVersion, spec: StudySpec) -> list[float]:
    """Seconds per unit of work that trials alike took here, pruned and failed ones included; empty for too few."""
    try:
        device = str(resolve_device(workspace.settings.device))
    except EngineError:
        return []
    with workspace.session() as session:
        latest = islice(studies.list_studies(session), STUDIES_LOOKED_AT)
        known = [(row, datasets.get_version(session, row.dataset_version_id)) for row in latest]
    seconds: list[float] = []
    for row, pictures in known:
        ratio = pictures.count() / max(1, version.count())
        if row.progress.get("device") != device or not 1 / ALIKE <= ratio <= ALIKE:
            continue
        of = StudySpec.from_json(row.spec)
        same = ("height", "width", "resize", "pruner", "backbones", "weights")
        if all(getattr(of, name) == getattr(spec, name) for name in same):
            trials = trials_of(workspace.settings.optuna_url, row.id)
            seconds += [took / _work(of) for took in _durations(trials)]
    return seconds if len(seconds) >= LEAST_TRIALS else []


def _durations(trials: Iterable[FrozenTrial]) -> list[float]:
    return [
        seconds
        for trial in own(trials)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        and (seconds := trial_times.seconds(trial)) is not None
    ]


def _work(spec: StudySpec) -> float:
    """What a trial of a study costs on average, in any unit."""
    return spec.seeds * spec.epochs * _relative(spec)


def _relative(spec: StudySpec) -> float:
    """How much longer an epoch's training takes than with the engine's default settings, on average."""
    factor = 1.0
    for name in ("steps_per_epoch", "members", "batch_patches"):
        if name in spec.knobs:
            factor *= _mean(spec.knobs[name], spec) / getattr(SimpleNetConfig, name)
    return factor


def _mean(values: Values, spec: StudySpec) -> float:
    return fmean(values.values(spec.grid_steps) if isinstance(values, Range) else values)
