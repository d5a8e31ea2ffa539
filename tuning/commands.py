"""What people can ask for: one plain function per wish, called by pages and the command line alike."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from engine.backbones.resolve import SHIPPED, at_hand
from engine.errors import EngineError
from engine.features import stages_of
from storage import datasets, models, policies, studies
from storage.errors import ModelNotFound
from storage.events import record_event
from storage.records import (
    Dataset,
    DatasetVersion,
    Model,
    Promotion,
    PromotionPolicy,
    PromotionRule,
    Study,
    Wanted,
    now,
)
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning.backbones import backbone_status, wanted_backbone
from tuning.closing import close_study
from tuning.errors import BadSpec, NoFormerChampion, WeightsMissing
from tuning.ingest import IngestReport, ingest_folder
from tuning.jobs import Progress
from tuning.pictures import check_objective, study_pictures
from tuning.presets import preset_spec
from tuning.spec import StudySpec

__all__ = [
    "DEMO_DATASET",
    "IngestReport",
    "Progress",
    "delete_dataset",
    "demo_study_spec",
    "ingest_folder",
    "launch_study",
    "load_demo",
    "promote",
    "rename_version",
    "restore_dataset",
    "rollback",
    "set_promotion_policy",
    "start_demo",
    "want",
    "withdraw_champion",
]

DEMO_DATASET = "demo-plates"
WITHDREW = "withdrew the champion"  # how these events begin
MADE_CANDIDATE = "made a candidate of"


def load_demo(workspace: Workspace, *, progress: Progress | None = None) -> IngestReport:
    """Draw the demo pictures and make them a dataset version; the same version where it exists already."""
    from engine.demo import draw_demo

    folder = Path(tempfile.mkdtemp(prefix="demo-", dir=workspace.settings.home))
    try:
        draw: Callable[[int, int], None] | None = None
        if progress is not None:
            shown = progress

            def draw(done: int, total: int) -> None:
                shown(done, total, "drawing the demo pictures")

        draw_demo(folder / DEMO_DATASET, progress=draw)
        return ingest_folder(workspace, folder / DEMO_DATASET, DEMO_DATASET, progress=progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def demo_study_spec() -> StudySpec:
    """The study that the first run launches: its champion is there within 5 minutes on 2 CPU cores."""
    return preset_spec("quick")


def start_demo(workspace: Workspace, *, progress: Progress | None = None) -> Study | None:
    """Load the demo and launch its study, if the installation has no dataset yet.

    Returns:
        The study; None where there is a dataset already, which is then left alone.
    Raises:
        WeightsMissing: the demo is loaded, but no backbone is at hand; the next call launches the study.
    """
    with workspace.session() as session:
        known = datasets.list_datasets(session)
        queued = studies.list_studies(session)
    # A crash between the two steps leaves the demo without its study: that is still the first run.
    others = [dataset for dataset in known if dataset.name != DEMO_DATASET]
    if queued or others:
        return None
    load_demo(workspace, progress=progress)
    backbone = backbone_status(workspace)
    if not backbone.ready:
        raise WeightsMissing(
            f"The demo's pictures are loaded, but its study has no backbone. {backbone.text}"
        )
    return launch_study(workspace, DEMO_DATASET, demo_study_spec(), name="first study")


def launch_study(
    workspace: Workspace,
    dataset_name: str,
    spec: StudySpec,
    *,
    name: str | None = None,
    version_id: int | None = None,
) -> Study:
    """Queue a study of a dataset. A worker takes it from there.

    Args:
        name: for people; None: the dataset's name and a number.
        version_id: of the dataset; None: its latest.
    Raises:
        DatasetNotFound: there is no such dataset.
        DatasetTooSmall, BadSpec: the dataset can't carry such a study; said now, not by a failed study.
    """
    with workspace.session() as session:
        if version_id is None:
            version = datasets.latest_version(session, dataset_name)
        else:
            version = datasets.get_version(session, version_id)
        pictures = study_pictures(datasets.list_images(session, version.id))
        check_objective(spec, pictures, dataset_name)
        if spec.weights is not None and not Path(spec.weights).is_file():
            raise BadSpec(
                f"Weights file '{spec.weights}' does not exist. Give the path of a .safetensors file."
            )
        for backbone in spec.backbones:
            _check_backbone(workspace, spec, backbone)
        if spec.follows is not None:
            _check_follows(spec, version, studies.get_study(session, spec.follows))
        number = len(studies.list_studies(session, dataset=dataset_name)) + 1
        return studies.create_study(
            session,
            name=name or f"{dataset_name} {number}",
            dataset_version_id=version.id,
            spec=spec.to_json(),
            now=now(),
            priority=spec.priority,
        )


def _check_follows(spec: StudySpec, version: DatasetVersion, other: Study) -> None:
    """Refuse to start from trials whose values can't be compared with the new ones."""
    theirs = StudySpec.from_json(other.spec)
    differs = [
        name
        for name in ("objective", "height", "width", "resize", "epochs", "seeds")
        if getattr(spec, name) != getattr(theirs, name)
    ]
    if other.dataset_version_id != version.id:
        differs.insert(0, "dataset version")
    if differs:
        raise BadSpec(
            f"A study can't start from the trials of study '{other.name}' ({other.id}): {', '.join(differs)} differ, "
            "so their values can't be compared. Make them equal, or start without it."
        )


def _check_backbone(workspace: Workspace, spec: StudySpec, backbone: str) -> None:
    """Refuse an unknown backbone, a file that can't be read, and layers that the backbone lacks.

    Whether a hub has the weights is the worker's to ask.
    """
    file = spec.weights_of(backbone)
    name, weights = wanted_backbone(workspace.settings, backbone, Path(file) if file else None)
    if name != "auto" or weights is not None:
        try:
            at_hand(name, weights)
        except EngineError as error:
            raise BadSpec(str(error)) from error
    if name == "auto":  # without a file: where it is not the shipped one, it is one with more stages
        name = SHIPPED if weights is None else at_hand(name, weights).name
    has = stages_of(name)
    lacking = sorted({stage for choice in spec.layers for stage in choice} - set(has))
    if lacking:
        raise BadSpec(
            f"Layer {lacking[0]}: backbone '{name}' has {', '.join(map(str, has))}. "
            "Choose among them, or name a backbone that has it."
        )


def want(workspace: Workspace, study_id: int, wanted: Wanted) -> Study:
    """Ask for a study to run on, pause or be cancelled; its worker follows within a heartbeat.

    Raises:
        StudyNotFound, StudyFinished: there is nothing to steer.
    """
    with workspace.session() as session:
        study = studies.set_wanted(session, study_id, wanted, studies.common_clock(session, now()))
    if study.state.finished:  # no worker holds it, so nobody else would end its trials and runs
        close_study(workspace, Tracking(workspace.settings), study)
    return study


def promote(workspace: Workspace, dataset_name: str, version: int, *, who: str, why: str) -> Promotion | None:
    """Make a registered version the dataset's champion, by a person's decision.

    May be repeated: where a crash or an outage came between the record and MLflow's alias, the alias is set again.

    Returns:
        The record; None where the version was the champion already.
    Raises:
        DatasetNotFound, ModelNotFound: there is no such version.
        TrackingError: MLflow can't be reached; the version is recorded as champion, MLflow still serves the old one.
    """
    from tuning.champion import promote_model
    from tuning.predictor import chosen_model

    model = chosen_model(workspace, dataset_name, version)
    return promote_model(workspace, Tracking(workspace.settings), model, who=who, why=why)


def rollback(workspace: Workspace, dataset_name: str, *, who: str, why: str = "") -> Model:
    """Make the champion before the present one champion again; after a withdrawal, the one that was withdrawn.

    Done twice it is undone. The record says that it was a rollback, and from which version.

    Returns:
        The model that serves now.
    Raises:
        DatasetNotFound: there is no such dataset.
        NoFormerChampion: there is nothing to go back to.
        TrackingError: as `promote`.
    """
    with workspace.session() as session:
        datasets.get_dataset(session, dataset_name)
        serving = models.champion(session, dataset_name)
        former = models.previous_champion(session, dataset_name)
    if former is None:
        raise NoFormerChampion(
            f"Dataset '{dataset_name}' never had another champion; there is nothing to go back to. Promote a version."
        )
    what = "rollback" if serving is None else f"rollback from version {serving.version}"
    reason = f"{what}: {why}" if why else what
    promote(workspace, dataset_name, former.version, who=who, why=reason)
    with workspace.session() as session:
        return models.get_model(session, former.id)


def set_promotion_policy(
    workspace: Workspace, dataset_name: str, rule: PromotionRule, *, who: str
) -> PromotionPolicy:
    """Say whether the dataset's studies may promote their models.

    Raises:
        DatasetNotFound: there is no such dataset.
    """
    with workspace.session() as session:
        return policies.set_promotion_policy(session, dataset_name, rule, who=who, now=now())


def rename_version(workspace: Workspace, name: str, number: int, title: str, *, who: str) -> DatasetVersion:
    """Call a version something that people remember; an empty title takes the name away.

    Raises:
        DatasetNotFound, VersionNotFound: there is no such version.
        BadVersion: the title is too long.
    """
    with workspace.session() as session:
        version = datasets.numbered_version(session, name, number)
        named = datasets.name_version(session, version.id, title)
        what = (
            f"called version {number} '{named.title}'"
            if named.title
            else f"took the name of version {number} away"
        )
        if named.title != version.title:
            record_event(session, version.dataset_id, what, who=who, now=now())
    return named


def delete_dataset(workspace: Workspace, name: str, *, who: str) -> None:
    """Set a dataset aside; `restore_dataset` brings it back as it was.

    Raises:
        DatasetNotFound: there is no such dataset.
        DatasetInUse: a champion serves or a study has not ended.
    """
    with workspace.session() as session:
        dataset = datasets.get_dataset(session, name)
        datasets.delete_dataset(session, name, now=now())
        record_event(session, dataset.id, "deleted the dataset", who=who, now=now())


def restore_dataset(workspace: Workspace, name: str, *, who: str) -> Dataset:
    """Bring a deleted dataset back; one that isn't deleted stays as it is.

    Raises:
        DatasetNotFound: there never was such a dataset.
    """
    with workspace.session() as session:
        deleted = {dataset.name for dataset in datasets.list_datasets(session, deleted=True)}
        dataset = datasets.restore_dataset(session, name)
        if name in deleted:
            record_event(session, dataset.id, "restored the dataset", who=who, now=now())
    return dataset


def withdraw_champion(workspace: Workspace, dataset_name: str, *, who: str, why: str) -> Model:
    """Take a dataset's champion out of service; none serves until one is promoted.

    Raises:
        DatasetNotFound, ModelNotFound: there is no such dataset, or it has no champion.
        NotChampion: somebody promoted another model meanwhile.
        TrackingError: MLflow can't be reached; nothing is changed then.
    """
    with workspace.session() as session:
        dataset = datasets.get_dataset(session, dataset_name)
        champion = models.champion(session, dataset_name)
    if champion is None:
        raise ModelNotFound(f"Dataset '{dataset_name}' has no champion. There is nothing to withdraw.")
    # Outside of any transaction, for MLflow may take long to answer; and first, so that a crash leaves the champion on
    # record, to be withdrawn again.
    Tracking(workspace.settings).clear_champion(dataset_name, champion.version)
    with workspace.session() as session:
        model = models.retire(session, model_id=champion.id)
        what = f"{WITHDREW}, model version {model.version}: {why}"
        record_event(session, dataset.id, what, who=who, now=now())
    return model
