"""Exported files beside the detector that they were made from; the runtimes live in processes of their own."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import exporting
from engine.errors import ExportUnavailable
from engine.geometry import on_canvas, resized_in_order

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "scripts" / "compare_exports.py"
SIZES = [[70, 90], [48, 48], [64, 96], [300, 200], [150, 400]]
CHANGES: dict[str, dict[str, Any]] = {
    "default": {},
    "letterbox": {"resize": "letterbox"},
    "crop": {"resize": "crop", "layers": [1, 2, 3]},
    "pooled": {"feature_dim": 48, "members": 1},
    "deep": {"adaptor_activation": "leaky_relu", "discriminator_depth": 2, "members": 2},
}


def needs(kind: str) -> None:
    missing = [name for name in exporting.PACKAGES[kind] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def compared(kind: str, changes: dict[str, Any], sizes: list[list[int]], folder: Path) -> dict[str, Any]:
    command = [sys.executable, SCRIPT, kind, json.dumps(changes), json.dumps(sizes), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["default", "letterbox", "crop"])
def test_export_answers_as_its_original_for_pictures_of_any_size(
    kind: str, name: str, tmp_path: Path
) -> None:
    needs(kind)
    found = compared(kind, CHANGES[name], SIZES, tmp_path)
    for answer in found["answers"]:
        ours, theirs = answer["score"]
        # Pillow may resize one of these along the other side first, one grey level apart here and there.
        assert abs(ours - theirs) < 0.03 * answer["spread"]
        assert answer["map"] < 0.03 * answer["spread"]
        assert answer["threshold"] == found["inside"]
        assert answer["reject"] == (theirs > found["inside"])


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["default", "pooled", "deep"])
def test_pictures_of_one_size_leave_only_rounding(kind: str, name: str, tmp_path: Path) -> None:
    needs(kind)
    found = compared(kind, CHANGES[name], [[128, 80]] * 3, tmp_path)
    for answer in found["answers"]:
        ours, theirs = answer["score"]
        assert abs(ours - theirs) < 0.003 * answer["spread"]
        assert answer["map"] < 0.01 * answer["spread"]


@pytest.mark.parametrize("resize", ["squash", "letterbox", "crop"])
@pytest.mark.parametrize("size", [(128, 80), (80, 128), (40, 300), (300, 40)])
def test_one_of_two_orders_is_pillows(size: tuple[int, int], resize: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    wanted, rows_first, columns_first = resized_in_order(picture, (64, 96), resize)
    assert (wanted == rows_first).all() or (wanted == columns_first).all()
    if resize != "letterbox":  # which has bars beside
        assert (wanted == on_canvas(picture, (64, 96), resize)).all()


@pytest.mark.parametrize("threshold", [0.1, -0.1, 0.30000001192092896, 1e-9])
def test_threshold_in_float32_rejects_the_same_scores(threshold: float) -> None:
    needs("onnx")
    from onnx import TensorProto, helper

    from engine.onnx_graph import THRESHOLD

    constant = helper.make_tensor(THRESHOLD, TensorProto.FLOAT, [], [0.0])
    model = helper.make_model(helper.make_graph([], "g", [], [], [constant]))
    inside = np.float32(exporting.set_threshold(model, threshold))
    near = np.float32(threshold)
    for score in (np.nextafter(near, np.float32(-9)), near, np.nextafter(near, np.float32(9))):
        assert (score > inside) == (float(score) > threshold)


def test_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(exporting.PACKAGES, "onnx", ("onnx_of_nobody",))
    with pytest.raises(ExportUnavailable, match=r"needs onnx_of_nobody, which is not installed.*pip install"):
        exporting.require("onnx")
