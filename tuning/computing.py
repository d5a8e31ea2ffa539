"""What is computed for studies, as tasks of a `tuning.child`: backbones, features, trials, champions.

The process keeps what it has loaded of one study; `load` comes before everything else that is asked for it.
"""

import gc
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from optuna.trial import FrozenTrial
from PIL.Image import Image as PictureFile

from engine.backbones.resolve import Backbone, Source, resolve_backbone
from engine.checkpoint import save_head
from engine.config import SimpleNetConfig
from engine.devices import resolve_device, resolve_precision
from engine.features import FeatureExtractor, fitted
from storage import studies
from storage.database import create_database
from storage.records import Study
from storage.room import told_when_full
from storage.settings import Settings
from storage.tracking import Tracking
from storage.workspace import Session, Workspace, attach
from tuning.backbones import wanted_backbone
from tuning.champion import make_candidate
from tuning.child import Tell
from tuning.context import CandidateContext, Holder, ReadyBackbone, StudySetup
from tuning.examples import draw_examples
from tuning.features import cached_features
from tuning.provenance import surroundings, weights_digest
from tuning.spec import StudySpec
from tuning.trial import Findings, TrialData, TrialResult

logger = logging.getLogger(__name__)

RunTrial = Callable[..., TrialResult]  # as `tuning.trial.run_trial`


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of one trial; its head lies in the folder that was given."""

    findings: Findings
    head_digest: str
    examples: tuple[tuple[str, PictureFile], ...]  # heatmaps of some validation pictures, by key


class _Loaded:
    """A study as this process has it: networks on the device, features opened."""

    def __init__(self, setup: StudySetup) -> None:
        self.setup = setup
        self.workspace = _workspace(setup.settings)
        self.device = resolve_device(setup.settings.device)
        self.extractors = {
            name: _extractor(setup.settings, setup.spec, backbone)
            for name, backbone in setup.backbones.items()
        }
        self.data: dict[str, TrialData] = {}

    def close(self) -> None:
        self.workspace.close()


_loaded: _Loaded | None = None


def resolve(
    settings: Settings, spec: StudySpec, names: Mapping[str, str], tell: Tell
) -> dict[str, ReadyBackbone]:
    """Find the backbones of a study and build them, fetching weights that are still on a hub.

    Args:
        names: what "auto" came to when the study began; empty at its beginning.
        tell: given {"fetching": …} before a download.
    Raises:
        EngineError: a backbone or the device is not to be had here.
    """
    device = resolve_device(settings.device)
    ready = {}
    for wanted in spec.backbones:
        file = spec.weights_of(wanted)
        name, weights = wanted_backbone(settings, wanted, Path(file) if file else None)
        if name == "auto" and weights is None:
            name = names.get(wanted, "auto")

        def say_download(source: Source) -> None:
            tell({"fetching": source.text})

        backbone = resolve_backbone(name, weights, device, on_download=say_download)
        extractor = _extractor(settings, spec, backbone)
        ready[wanted] = ReadyBackbone(
            backbone=backbone,
            stages=tuple(extractor.stages),
            base=_base(spec, extractor),
            device=str(device),
            surroundings=surroundings(device, extractor.dtype),
        )
    return ready


def load(setup: StudySetup, tell: Tell) -> None:
    """Load a study: the features of its unsealed pictures under each backbone, from the cache or computed into it.

    Args:
        tell: given {"phase": "features", "done": …, "total": …}.
    Raises:
        EngineError, StorageError: a picture or the cache can't be read or written.
    """
    global _loaded
    if _loaded is not None:
        _loaded.close()
        _loaded = None
        gc.collect()
        torch.cuda.empty_cache()  # nothing happens where no GPU was used
    loaded = _Loaded(setup)
    pictures = (*setup.pictures.unsealed, *setup.pictures.turned(setup.spec.mirrors))
    total = len(pictures) * len(loaded.extractors)
    for number, (name, extractor) in enumerate(loaded.extractors.items()):
        before = number * len(pictures)

        def on_batch(done: int, _total: int, before: int = before) -> None:
            tell({"phase": "features", "done": before + done, "total": total})

        base = _base(setup.spec, extractor)
        with told_when_full(setup.settings.features_folder):
            cached = cached_features(
                loaded.workspace,
                setup.version,
                pictures,
                extractor,
                height=base.height,
                width=base.width,
                resize=base.resize,
                on_batch=on_batch,
            )
        loaded.data[name] = TrialData(
            workspace=loaded.workspace,
            pictures=setup.pictures,
            cached=cached,
            objective=setup.spec.objective,
            false_reject_rate=setup.spec.false_reject_rate,
            backbone=extractor.backbone,
            device=loaded.device,
        )
    _loaded = loaded


def train_trial(
    backbone: str, config: SimpleNetConfig, smaller: int, head: Path, run: RunTrial, tell: Tell
) -> Trained:
    """Train and judge one configuration, and save its head.

    Args:
        backbone: which of the study's, by the name that its specification gives.
        smaller: what is scored at once is divided by this, where memory ran out before.
        head: folder to save it in.
        run: `tuning.trial.run_trial`, or what a test puts in its place.
        tell: given (epoch, epochs, loss, value) after each epoch; the value is None where it can't be compared.
    Raises:
        DiskFull: the head can't be saved.
        EngineError, RuntimeError, MemoryError: from the training.
    """
    loaded = _of_study()
    data = loaded.data[backbone]
    data = replace(data, score_patches=max(1, data.score_patches // smaller))
    result = run(data, config, seeds=loaded.setup.spec.seeds, on_epoch=lambda *about: tell(about))
    with told_when_full(loaded.workspace.settings.checkpoints_folder):
        save_head(head, result.head, config)
    return Trained(
        findings=result.findings,
        head_digest=weights_digest(result.head),
        examples=tuple(draw_examples(data, config, result)),
    )


def candidate(study: Study, hold: dict[str, Any], backbone: str, best: FrozenTrial, tell: Tell) -> None:
    """Make the best trial a champion candidate; every step of it can be repeated.

    Args:
        hold: the study's lease; every write names it.
        tell: given ("progress", at once, {…}).
    Raises:
        LeaseLost: another worker has the study by now.
        EngineError, StorageError, TuningError: it can't be made.
    """
    with told_when_full(_of_study().setup.settings.home):
        make_candidate(*candidate_context(_Told(study, hold, tell), backbone), best)


def candidate_context(holder: Holder, backbone: str) -> tuple[CandidateContext, TrialData]:
    """What it takes to make a candidate of a trial of the loaded study.

    Args:
        backbone: the trial's, by the name that the study's specification gives.
    """
    loaded = _of_study()
    setup = loaded.setup
    context = CandidateContext(
        workspace=loaded.workspace,
        tracking=Tracking(setup.settings),
        lease=holder,
        spec=setup.spec,
        version=setup.version,
        pictures=setup.pictures,
        extractor=loaded.extractors[backbone],
    )
    return context, loaded.data[backbone]


class _Told:
    """A study's holder in another process: what is reported is told there, and a wish ends this process."""

    def __init__(self, study: Study, hold: dict[str, Any], tell: Tell) -> None:
        self.study = study
        self._hold = hold
        self._tell = tell

    def fence(self, session: Session) -> None:
        """Refuse to write once another worker has the study."""
        studies.check_held(session, **self._hold)

    def check(self) -> None:
        """The parent ends this process instead."""

    def report(self, progress: Mapping[str, Any], *, at_once: bool = False) -> None:
        """Tell the parent."""
        self._tell((dict(progress), at_once))


def _of_study() -> _Loaded:
    if _loaded is None:
        raise RuntimeError("nothing is loaded; call load first")
    return _loaded


def _workspace(settings: Settings) -> Workspace:
    return attach(settings, create_database(settings.database_url))


def _extractor(settings: Settings, spec: StudySpec, backbone: Backbone) -> FeatureExtractor:
    device = resolve_device(settings.device)
    stages = sorted({stage for choice in spec.layers for stage in choice})
    return FeatureExtractor(backbone, stages, device, resolve_precision(settings.precision, device))


def _base(spec: StudySpec, extractor: FeatureExtractor) -> SimpleNetConfig:
    base = SimpleNetConfig(
        backbone=extractor.backbone.name,
        height=spec.height,
        width=spec.width,
        resize=spec.resize,
        epochs=spec.epochs,
        seed=spec.seed,
    )
    return fitted(base, extractor)
