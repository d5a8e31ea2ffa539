"""Parts of a trial: masks at the network's size, and features that need no more memory than they must."""

import dataclasses
import json
import threading

import numpy as np
import pytest
import torch
from scipy import ndimage

from engine.config import SimpleNetConfig
from storage import datasets, models
from storage.errors import FeatureCacheError
from storage.records import Role
from tuning.commands import launch_study
from tuning.features import room
from tuning.queries import study_trials
from tuning.trial import mask_on_canvas, resized_mask, trial_config
from tuning.worker import run_worker


def test_thin_scratch_stays_one_region_when_its_mask_is_made_smaller():
    mask = np.zeros((1024, 1024), bool)
    position = np.arange(100, 900)
    mask[position, position // 2 + 50] = True
    mask[position + 1, position // 2 + 50] = True
    small = resized_mask(mask, 256, 256)
    assert ndimage.label(small, np.ones((3, 3)))[1] == 1
    assert small.sum() >= 200


@pytest.mark.parametrize("shape", [(64, 64), (100, 30), (16, 500)])
def test_every_anomalous_pixel_is_still_anomalous(shape):
    mask = np.random.default_rng(0).random(shape) < 0.02
    small = resized_mask(mask, 48, 40)
    rows, columns = np.nonzero(mask)
    assert small[rows * 48 // shape[0], columns * 40 // shape[1]].all()
    assert not resized_mask(np.zeros(shape, bool), 48, 40).any()


def test_mask_made_larger_has_no_holes():
    mask = np.zeros((16, 16), bool)
    mask[4:8, 4:8] = True
    large = resized_mask(mask, 64, 64)
    assert large.sum() == 16 * 16
    assert large[16:32, 16:32].all()


def test_point_of_the_search_space_becomes_a_configuration():
    base = SimpleNetConfig(height=64, seed=3)
    config = trial_config(base, {"noise_std": 0.02, "layers": "1+3", "adaptor_depth": 2})
    assert (config.noise_std, config.layers, config.adaptor_depth) == (0.02, (1, 3), 2)
    assert (config.height, config.seed) == (64, 3)
    searched = trial_config(base, {"noise_std": 0.02, "layers": "2", "adaptor_depth": 0, "patch_size": 5})
    assert searched.patch_size == 5


def test_mask_lies_on_the_canvas_where_the_picture_lies():
    mask = np.zeros((100, 200), bool)
    mask[40:60, 100:120] = True
    wide = mask_on_canvas(mask, SimpleNetConfig(height=64, width=64, resize="letterbox"))
    assert np.argwhere(wide).mean(0) == pytest.approx((31.5, 34.6), abs=0.6)
    assert not wide[:16].any()
    near = mask_on_canvas(mask, SimpleNetConfig(height=64, width=64, resize="crop"))
    assert near.sum() > 3 * wide.sum()


def test_features_larger_than_the_limit_lie_in_a_file_and_train_the_same_model(
    workspace, parts, make_spec, run_to_end
):
    held = run_to_end(make_spec(trials=1))
    small = workspace.settings.model_copy(update={"features_gb": 1e-6})
    study = launch_study(workspace, "parts", make_spec(trials=1))
    elsewhere = dataclasses.replace(workspace, settings=small)
    run_worker(elsewhere, worker_id="here", stop=threading.Event(), study_id=study.id)
    first, second = (study_trials(workspace, one)[0] for one in (held, study))
    assert second.state == "completed"
    assert first.value == second.value
    assert not [path for path in workspace.features.folder.iterdir() if path.is_file()]


def test_features_for_which_the_disk_has_no_room_are_an_error_with_a_way_out(workspace):
    workspace.features.folder.mkdir(parents=True, exist_ok=True)
    with pytest.raises(
        FeatureCacheError, match=r"of 1000000 pictures need 786432\.0 GB.*SIMPLENET_FEATURES_GB \(4\)"
    ):
        room(torch.Size((10**6, 1024, 1024, 375)), workspace)
    assert not list(workspace.features.folder.iterdir())


def test_turned_training_pictures_train_along(workspace, parts, make_spec, run_to_end):
    """Twice the training pictures in the cache, the same ones in validation, and other weights."""
    for mirror in ("none", "horizontal"):
        study = run_to_end(make_spec(trials=1, knobs={"mirror": (mirror,)}, layers=((2,),)))
        (trial,) = study_trials(workspace, study)
        assert trial.config["mirror"] == mirror
    with workspace.session() as session:
        turned_model, plain_model = models.list_models(session, "parts")
        train = {image.pixel_digest for image in datasets.list_images(session, parts.id, role=Role.TRAIN)}
        held = {image.pixel_digest for image in datasets.list_images(session, parts.id)} - train
    rows = [
        row
        for path in workspace.settings.features_folder.rglob("index.json")
        for row in json.loads(path.read_text())["rows"]
    ]
    turned = {row.removesuffix("+mirrored h") for row in rows if "mirrored" in row}
    assert turned == train
    assert not turned & held
    thresholds = [model.figures["calibration"]["threshold"] for model in (turned_model, plain_model)]
    assert thresholds[0] != thresholds[1]
