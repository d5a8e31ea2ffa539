"""What pages keep in memory between runs: only what never changes once it is known, so nothing shown is ever stale."""

from typing import TYPE_CHECKING

import streamlit as st

from dashboard import display, overview
from dashboard.session import workspace
from dashboard.thumbnails import address
from engine.images import RGB, decode
from storage import datasets, models
from storage.records import DatasetVersion, ImageRecord, Model, Role
from tuning import queries
from tuning.versions import Comparison, compare_images

if TYPE_CHECKING:
    from tuning.backbones import BackboneStatus, OfferedBackbone
    from tuning.batches import Batch, Results
    from tuning.comparison import ModelComparison
    from tuning.estimate import Estimate
    from tuning.operating_points import Evidence


def thumbnail_url(digest: str, mask_digest: str | None = None) -> str:
    """Where the browser gets a small copy of a picture, with the outline of its mask if one is given."""
    return address(workspace().settings, digest, mask_digest)


@st.cache_resource(max_entries=16, show_spinner=False)
def images(version_id: int) -> tuple[ImageRecord, ...]:
    """All images of a dataset version, which never changes; shared by all visitors, for there may be 20,000."""
    with workspace().session() as session:
        return tuple(datasets.list_images(session, version_id))


@st.cache_resource(max_entries=256, show_spinner=False)
def strip(version_id: int) -> tuple[ImageRecord, ...]:
    """The few pictures that stand for a version, which never changes; not all of it is read for them."""
    with workspace().session() as session:
        return tuple(overview.strip(datasets.first_images(session, version_id, overview.STRIP_LENGTH)))


@st.cache_resource(max_entries=8, show_spinner=False)
def comparison(before_id: int, after_id: int) -> Comparison:
    """What is different between two dataset versions, which never change."""
    return compare_images(images(before_id), images(after_id))


@st.cache_data(max_entries=64, show_spinner=False)
def version(version_id: int) -> DatasetVersion:
    """A dataset version, which never changes."""
    with workspace().session() as session:
        return datasets.get_version(session, version_id)


@st.cache_resource(max_entries=32, show_spinner=False)
def pixels(digest: str, name: str) -> RGB:
    """A picture as (H, W, 3) uint8, read-only."""
    decoded = decode(workspace().blobs.get(digest), name)
    decoded.setflags(write=False)
    return decoded


@st.cache_resource(max_entries=32, show_spinner=False)
def shown(digest: str, name: str) -> RGB:
    """A picture made small enough for a screen, (h, w, 3) uint8, read-only; the whole of a large one is not kept."""
    small = display.shrunk(decode(workspace().blobs.get(digest), name))
    small.setflags(write=False)
    return small


@st.cache_data(max_entries=256, show_spinner="Asking MLflow where the runs are …")
def experiment_url(dataset_name: str) -> str:
    """Address of a dataset's runs in the MLflow UI; append '/' and a run's id for one run."""
    return queries.experiment_url(workspace(), dataset_name)


@st.cache_data(ttl=60, max_entries=16, show_spinner="Looking for a backbone …")
def backbone(name: str, weights: str | None) -> "BackboneStatus":
    """Whether a study could start here, on what, and what a stronger backbone would need.

    Asked again after a minute, for people mend what is missing.
    """
    from pathlib import Path

    from tuning.backbones import backbone_status

    return backbone_status(workspace(), name, Path(weights) if weights else None)


@st.cache_data(ttl=60, show_spinner=False)
def offered_backbones() -> "list[OfferedBackbone]":
    """The backbones to choose from."""
    from tuning import backbones

    return backbones.offered_backbones(workspace().settings)


@st.cache_resource(max_entries=16, show_spinner="Comparing on the sealed pictures …")
def model_comparison(model_id: int, other_id: int) -> "ModelComparison":
    """Two models on the same pictures; neither ever changes."""
    from tuning.comparison import compare_models

    with workspace().session() as session:
        pair = models.get_model(session, model_id), models.get_model(session, other_id)
    return compare_models(workspace(), *pair)


@st.cache_resource(max_entries=8, show_spinner=False)
def batch_results(
    _batch: "Batch",
    batch_id: str,  # noqa: ARG001 (the key, as is the next)
    stamp: tuple[int, int],  # noqa: ARG001
) -> "Results":
    """What came of a batch's pictures by the time of its stamp."""
    from tuning import batches

    return batches.results(_batch)


@st.cache_resource(show_spinner=False)
def scores_by_model() -> dict[int, dict[str, float]]:
    """The scores of each model by its id and the pictures' pixel digests, which never change; filled by the pages."""
    return {}


@st.cache_data(ttl=60, max_entries=64, show_spinner=False)
def study_estimate(version_id: int, spec: str, *, measure: bool) -> "Estimate | None":
    """How long a study would take here, asked again after a minute: trials that end meanwhile tell more.

    Args:
        spec: of the study, as JSON.
    """
    import json

    from tuning.estimate import estimate
    from tuning.spec import StudySpec

    return estimate(workspace(), version(version_id), StudySpec.from_json(json.loads(spec)), measure=measure)


def study_speed(spec: str) -> None:
    """Measure this machine for a study of this specification, given as JSON; some seconds, and kept on disk."""
    import json

    from tuning.spec import StudySpec
    from tuning.speed import measured_speed

    measured_speed(workspace().settings, StudySpec.from_json(json.loads(spec)))


@st.cache_data(ttl=60, max_entries=16, show_spinner=False)
def common_layers(backbones: tuple[str, ...], weights: str | None) -> tuple[tuple[int, ...], ...]:
    """The choices of layers that all of several backbones have."""
    from tuning import backbones as known

    return known.common_layers(workspace().settings, backbones, weights)


@st.cache_resource(max_entries=16, show_spinner=False)
def pictures_by_role(
    _model: Model,
    model_id: int,  # noqa: ARG001 (the key, as is the next)
    latest_version_id: int,  # noqa: ARG001
) -> dict[str, list[ImageRecord]]:
    """The pictures of a model's version by role, labelled as the latest version knows, and those added since."""
    from tuning import operating_points
    from tuning.scoring import ADDED

    found: dict[str, list[ImageRecord]] = {role.value: [] for role in Role}
    for image in operating_points.images_of(workspace(), _model):
        found[image.role.value].append(image)
    found[ADDED] = list(operating_points.added_since(workspace(), _model))
    return found


@st.cache_resource(max_entries=16, show_spinner="Scoring the validation and test pictures …")
def evidence(
    _model: Model,
    model_id: int,  # noqa: ARG001 (the key, as is the next)
    latest_version_id: int,  # noqa: ARG001
) -> "Evidence":
    """What a model's threshold is chosen by; only corrections of the dataset change it."""
    from tuning import operating_points

    return operating_points.evidence(workspace(), _model)
