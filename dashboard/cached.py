"""What pages keep in memory between runs: only what never changes once it is known, so nothing shown is ever stale."""

from typing import TYPE_CHECKING

import streamlit as st

from dashboard import display, overview
from dashboard.scored import ScoredPicture
from dashboard.session import workspace
from dashboard.thumbnails import address
from engine.images import RGB, decode
from storage import datasets
from storage.records import DatasetVersion, ImageRecord
from tuning import queries
from tuning.versions import Comparison, compare_images

if TYPE_CHECKING:
    from tuning.backbones import BackboneStatus, OfferedBackbone
    from tuning.estimate import Estimate


def thumbnail_url(digest: str) -> str:
    """Where the browser gets a small copy of a picture."""
    return address(workspace().settings, digest)


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


@st.cache_resource(show_spinner=False)
def scores_by_model() -> dict[int, list[ScoredPicture]]:
    """The scored test pictures of each model by its id, filled by the heatmap page once all have a score."""
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
