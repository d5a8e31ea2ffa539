"""One-class novelty on whole images: every class in turn is the normal one."""

import json

import numpy as np
import pytest
from PIL import Image

from engine.backbones.resolve import resolve_backbone
from engine.config import SimpleNetConfig
from tuning.errors import DatasetTooSmall
from tuning.novelty import novelty, read_classes

CONFIG = SimpleNetConfig(height=64, width=64, epochs=2)


@pytest.fixture
def classes_folder(tmp_path):
    """Two classes that anybody can tell apart: stripes along and across."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        for axis, name in enumerate(("along", "across")):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                stripes = np.indices((64, 64))[axis] // 4 % 2 * 120 + draw.normal(60, 10, (64, 64))
                pixels = np.clip(stripes, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


def test_each_class_is_told_from_the_other(classes_folder):
    told = []
    result = novelty(
        read_classes(classes_folder),
        CONFIG,
        backbone=resolve_backbone("drawnet"),
        seeds=(0, 1),
        device="cpu",
        precision="fp32",
        on_progress=lambda *step: told.append(step),
    )
    assert set(result.image_auroc) == {"along", "across"}
    assert all(len(values) == 2 for values in result.image_auroc.values())
    assert result.mean.mean > 0.9
    assert result.test_pictures == {"across": 4, "along": 4}
    assert (8, 8, "test pictures") in told
    assert json.loads(json.dumps(result.to_json()))["mean"]["mean"] == result.mean.mean


def test_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(DatasetTooSmall, match=r"has 0 folders.*train/<class> and test/<class>"):
        read_classes(tmp_path)


def test_class_without_test_pictures_is_named(classes_folder):
    for picture in (classes_folder / "test" / "along").iterdir():
        picture.unlink()
    with pytest.raises(DatasetTooSmall, match="Class 'along' has 6 training and 0 test pictures"):
        read_classes(classes_folder)
