"""Distillation with the real parts, small: the shipped backbone teaches a fresh one on drawn pictures."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from engine.backbones.drawnet import MEAN, STD, Drawnet
from engine.backbones.resolve import resolve_backbone
from engine.features import FeatureExtractor
from training import distil
from training.crops import Crops, held_out
from training.drawing.scenes import VERSION, draw

CPU = torch.device("cpu")
PER_SHARD = 10


@pytest.fixture(scope="module")
def teacher():
    return FeatureExtractor(resolve_backbone("drawnet"), distil.STAGES, CPU)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """Three shards of ten pictures; the third is held out."""
    folder = tmp_path_factory.mktemp("pool")
    for shard in range(3):
        pictures = [draw(0, shard * PER_SHARD + i, 64) for i in range(PER_SHARD)]
        np.save(folder / f"{VERSION}-0-64-{shard:04d}.npy", np.stack(pictures))
    return folder


@pytest.fixture
def recipe(monkeypatch):
    """Ten steps: one warms up, and a round through the pool takes five."""
    monkeypatch.setattr(distil, "CHECKPOINT_STEPS", 4)
    return distil.Recipe(
        teacher="drawnet", teacher_digest="d", drawings=VERSION, pool_seed=0, pool_size=64, steps=10, batch=4,
        learning_rate=1e-3, weight_decay=0.0, seed=0,
    )  # fmt: skip


def test_stopped_run_goes_on_to_the_same_weights(tmp_path, drawings, recipe, teacher, monkeypatch):
    """Batches follow from the step alone, so a run that is cut off between checkpoints ends as one that is not."""
    distil.Run(drawings, tmp_path / "whole", teacher, recipe).train()
    cut = distil.Run(drawings, tmp_path / "cut", teacher, recipe)
    step = cut._step

    def step_until_the_sixth(crops):
        if cut.done == 6:
            raise KeyboardInterrupt
        return step(crops)

    monkeypatch.setattr(cut, "_step", step_until_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    again = distil.Run(drawings, tmp_path / "cut", teacher, recipe)
    assert again.done == 4
    again.train()
    for run in ("whole", "cut"):
        distil.export(tmp_path / run, tmp_path / f"drawnet.{run}.safetensors")
    whole, resumed = (load_file(tmp_path / f"drawnet.{run}.safetensors") for run in ("whole", "cut"))
    assert whole.keys() == resumed.keys()
    for key, values in whole.items():
        torch.testing.assert_close(values, resumed[key], rtol=0, atol=0)


def test_exported_backbone_gives_the_students_maps_on_the_teachers_scale(tmp_path, drawings, recipe, teacher):
    run = distil.Run(drawings, tmp_path / "run", teacher, replace(recipe, steps=4))
    run.train()
    file = tmp_path / "drawnet.mine.safetensors"
    distil.export(tmp_path / "run", file)
    extractor = FeatureExtractor(resolve_backbone("auto", file), distil.STAGES, CPU)
    picture = torch.rand(1, 3, 64, 64)
    run.net.eval()
    with torch.no_grad():
        own = run.net(distil.normalise(picture, MEAN, STD))
    exported = extractor(distil.normalise(picture, extractor.mean, extractor.std))
    for stage, values in zip(distil.STAGES, own, strict=True):
        mean, std = (run.scale.state[f"{key}{stage}"].view(1, -1, 1, 1) for key in ("mean", "std"))
        torch.testing.assert_close(exported[stage], values * std + mean, rtol=2e-2, atol=2e-2)
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["done"] == "4"
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [4]


def test_teacher_of_other_widths_gives_a_backbone_of_these_widths(tmp_path, drawings, recipe, tiny_weights):
    teacher = FeatureExtractor(resolve_backbone("auto", tiny_weights), distil.STAGES, CPU)
    distil.Run(drawings, tmp_path / "run", teacher, replace(recipe, steps=1)).train()
    file = tmp_path / "drawnet.mine.safetensors"
    distil.export(tmp_path / "run", file)
    extractor = FeatureExtractor(resolve_backbone("auto", file), (2, 3), CPU)
    assert extractor.channels == {stage: teacher.channels[stage] for stage in (2, 3)}
    assert extractor.channels != {2: 128, 3: 256}
    for stage, values in extractor(torch.zeros(1, 3, 64, 64)).items():
        assert values.shape[1] == teacher.channels[stage]


def test_loss_is_1_for_the_teachers_mean_and_0_for_the_teacher(drawings, recipe, teacher):
    scale = distil.Scale.measure(teacher, held_out(drawings, recipe, size=64))
    for pictures in held_out(drawings, recipe, size=64):
        for stage, values in distil.teach(teacher, pictures).items():
            normalised = scale(stage, values)
            assert abs(float(normalised.square().mean()) - 1) < 0.01
            assert abs(float(normalised.mean())) < 0.01

    class Mimic(torch.nn.Module):
        def forward(self, images):
            return [scale(stage, values) for stage, values in teacher(images).items()]

    pictures = next(held_out(drawings, recipe, size=64))
    assert distil.losses(Mimic(), teacher, scale, pictures).max() < 1e-6


def test_teacher_gets_pictures_as_it_was_trained_on_them(teacher, monkeypatch):
    monkeypatch.setattr(teacher, "mean", (0.0, 0.0, 0.0))
    monkeypatch.setattr(teacher, "std", (1.0, 1.0, 1.0))
    picture = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(distil.teach(teacher, picture)[2], teacher(picture)[2])


def test_loss_that_is_not_finite_ends_the_run_with_the_remedy(tmp_path, drawings, recipe, teacher):
    run = distil.Run(drawings, tmp_path / "run", teacher, replace(recipe, learning_rate=1e30))
    with pytest.raises(SystemExit, match="Lower --learning-rate"):
        run.train()


def test_run_with_another_recipe_is_not_continued(tmp_path, drawings, recipe, teacher):
    short = replace(recipe, steps=1)
    distil.Run(drawings, tmp_path / "run", teacher, short).train()
    with pytest.raises(SystemExit, match="Use another folder"):
        distil.Run(drawings, tmp_path / "run", teacher, replace(short, learning_rate=1.0))


def test_every_drawing_but_those_held_out_is_seen_once_a_round(drawings, recipe):
    threads = torch.get_num_threads()
    crops = Crops(drawings, recipe)
    assert crops.pictures == 2 * PER_SHARD
    assert crops[0].shape[:2] == (4, 3)
    torch.testing.assert_close(crops[3], Crops(drawings, recipe)[3], rtol=0, atol=0)
    assert torch.get_num_threads() == threads  # here no loader's process was started


def test_pool_smaller_than_a_batch_is_refused(drawings, recipe):
    with pytest.raises(SystemExit, match="20 drawings to train on and a batch takes 64"):
        Crops(drawings, replace(recipe, batch=64))


def test_backbone_can_not_teach_itself(drawings, tmp_path, monkeypatch):
    arguments = ["distil", str(drawings), str(tmp_path / "run"), "--teacher", "drawnet"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="its own teacher"):
        distil.main()


def test_export_without_a_run_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="no checkpoint"):
        distil.export(tmp_path, tmp_path / "drawnet.mine.safetensors")


def test_untrained_students_start_alike():
    first, second = (torch.manual_seed(0) and Drawnet(norm=True) for _ in range(2))
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
