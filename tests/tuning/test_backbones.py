"""Which weights file serves which backbone."""

import dataclasses
from pathlib import Path

import pytest

from engine.backbones.resolve import SHIPPED, resolve_backbone
from storage.settings import Settings
from tuning.backbones import backbone_status, offered_backbones, wanted_backbone

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
        ("auto", SHIPPED, None, (SHIPPED, None)),
    ],
)
def test_file_of_the_setting_serves_its_own_backbone_only(tmp_path, setting, wish, given, expected):
    settings = Settings(home=tmp_path, backbone=setting, weights=SETTING)
    assert wanted_backbone(settings, wish, given) == expected


def test_status_names_the_file(workspace, tiny_weights):
    status = backbone_status(workspace, weights=tiny_weights)
    assert status.ready
    assert status.name == "test_resnet"
    assert status.text == "test_resnet from file test_resnet.safetensors, licence unknown"
    assert status.stronger is None  # somebody chose it


def test_without_a_wish_the_shipped_backbone_serves_and_a_stronger_one_is_described(workspace):
    status = backbone_status(workspace)
    assert status.ready
    assert status.name == SHIPPED
    assert "licence bsd-3-clause" in status.text
    assert "SIMPLENET_WEIGHTS" in status.stronger


def test_device_of_the_worker_need_not_be_here(workspace):
    """One setting may serve a dashboard without a GPU and a worker with one."""
    elsewhere = dataclasses.replace(
        workspace, settings=workspace.settings.model_copy(update={"device": "cuda:7"})
    )
    assert backbone_status(elsewhere).ready
    assert backbone_status(elsewhere).name == SHIPPED


def test_offers_survive_a_setting_whose_file_is_gone(workspace, tmp_path):
    settings = workspace.settings.model_copy(update={"weights": tmp_path / "resnet18.gone.safetensors"})
    offers = {offer.name: offer for offer in offered_backbones(settings)}
    assert offers[SHIPPED].origin is not None
    assert offers["resnet18.tv_in1k"].origin is None
    assert all(offer.licence for offer in offers.values())


def test_setting_names_the_backbone_and_a_wish_for_the_shipped_one_overrules_it(workspace, tiny_weights):
    settings = workspace.settings.model_copy(update={"weights": tiny_weights})
    with_setting = dataclasses.replace(workspace, settings=settings)
    assert backbone_status(with_setting).name == "test_resnet"
    assert backbone_status(with_setting, SHIPPED).name == SHIPPED


def test_status_says_what_to_do_where_there_is_none(workspace, tmp_path):
    status = backbone_status(workspace, weights=tmp_path / "test_resnet.nowhere.safetensors")
    assert not status.ready
    assert "nowhere.safetensors" in status.text
    assert "SIMPLENET_WEIGHTS" in status.text


def test_licence_of_a_file_is_that_of_the_pretraining_it_is_named_after(
    resnet18_weights, tiny_weights, tmp_path
):
    assert resolve_backbone("auto", resnet18_weights).licence == "bsd-3-clause"
    assert resolve_backbone("auto", tiny_weights).licence is None
    other = tmp_path / "resnet18.of_my_own.safetensors"
    other.write_bytes(resnet18_weights.read_bytes())
    assert resolve_backbone("auto", other).licence is None
