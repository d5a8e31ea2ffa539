"""Which weights file serves which backbone."""

from pathlib import Path

import pytest

from storage.settings import Settings
from tuning.backbones import backbone_status, wanted_backbone

SETTING = Path("/weights/resnet18.tv_in1k.safetensors")
GIVEN = Path("/weights/mine.safetensors")


@pytest.mark.parametrize(
    ("setting", "wish", "given", "expected"),
    [
        ("auto", "auto", None, ("auto", SETTING)),
        ("auto", "resnet18", None, ("resnet18", SETTING)),
        ("auto", "resnet34", None, ("resnet34", None)),
        ("auto", "resnet34", GIVEN, ("resnet34", GIVEN)),
        ("resnet18", "auto", None, ("resnet18", SETTING)),
        ("resnet34", "auto", None, ("resnet34", SETTING)),
        ("resnet18", "resnet34", None, ("resnet34", None)),
    ],
)
def test_file_of_the_setting_serves_its_own_backbone_only(tmp_path, setting, wish, given, expected):
    settings = Settings(home=tmp_path, backbone=setting, weights=SETTING)
    assert wanted_backbone(settings, wish, given) == expected


def test_status_names_the_file(workspace):
    status = backbone_status(workspace)
    assert status.ready
    assert status.name == "test_resnet"
    assert "test_resnet.safetensors" in status.text


def test_status_says_what_to_do_where_there_is_none(workspace, tmp_path):
    status = backbone_status(workspace, weights=tmp_path / "test_resnet.nowhere.safetensors")
    assert not status.ready
    assert "nowhere.safetensors" in status.text
    assert "SIMPLENET_WEIGHTS" in status.text


def test_licence_of_a_file_is_that_of_the_pretraining_it_is_named_after(
    resnet18_weights, tiny_weights, tmp_path
):
    from engine.features import resolve_backbone

    assert resolve_backbone("auto", resnet18_weights).licence == "bsd-3-clause"
    assert resolve_backbone("auto", tiny_weights).licence is None
    other = tmp_path / "resnet18.of_my_own.safetensors"
    other.write_bytes(resnet18_weights.read_bytes())
    assert resolve_backbone("auto", other).licence is None
