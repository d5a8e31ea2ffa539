"""The first run: the demo on an empty installation, once, and a clear word where no backbone is at hand."""

import pytest

from storage import datasets, studies
from storage.records import Label, Role
from storage.settings import Settings
from storage.workspace import open_workspace
from tuning.commands import DEMO_DATASET, start_demo
from tuning.errors import WeightsMissing
from tuning.ingest import ingest_folder


def test_demo_is_loaded_and_its_study_queued_once(workspace):
    study = start_demo(workspace)
    assert study.dataset_name == DEMO_DATASET
    with workspace.session() as session:
        version = datasets.latest_version(session, DEMO_DATASET)
    assert version.count(label=Label.NORMAL) == 60
    assert version.count(label=Label.ANOMALOUS) == 40
    assert version.count(role=Role.CALIBRATION) == 19
    assert start_demo(workspace) is None
    assert not list(workspace.settings.home.glob("demo-*"))


def test_demo_leaves_an_installation_in_use_alone(workspace, make_folder):
    ingest_folder(workspace, make_folder(), "parts")
    assert start_demo(workspace) is None
    with workspace.session() as session:
        assert [dataset.name for dataset in datasets.list_datasets(session)] == ["parts"]


def test_without_weights_the_demo_says_so_and_its_study_starts_once_there_are_some(tmp_path):
    home = tmp_path / "home"
    without = open_workspace(Settings(home=home, backbone="resnet34", weights=tmp_path / "no.safetensors"))
    with pytest.raises(WeightsMissing, match=r"demo's pictures are loaded.*SIMPLENET_WEIGHTS"):
        start_demo(without)
    with without.session() as session:
        assert studies.list_studies(session) == []
    without.close()
    now_with = open_workspace(Settings(home=home))
    assert start_demo(now_with) is not None
    now_with.close()
