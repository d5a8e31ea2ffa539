"""The compiled detector beside the one it was compiled from."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from engine.backbones.resolve import resolve_backbone
from engine.config import SimpleNetConfig
from engine.errors import DeviceUnavailable
from engine.features import FeatureExtractor, feature_count
from engine.openvino import OpenVinoDetector
from engine.scoring import Detector
from engine.simplenet import SimpleNet

pytest.importorskip("openvino", reason="the openvino extra is not installed")
CPU = torch.device("cpu")
MakePictures = Callable[..., list[np.ndarray]]


def detector(dtype: torch.dtype = torch.float32, **changes: object) -> Detector:
    config = SimpleNetConfig.from_json({"height": 64, "width": 96, **changes})
    extractor = FeatureExtractor(resolve_backbone("drawnet"), config.layers, CPU, dtype)
    length = feature_count(extractor.channels, config.layers, config.feature_dim)
    return Detector(extractor, SimpleNet(config, length), config)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resize": "crop", "layers": [1, 2, 3]},
        {"feature_dim": 48, "members": 1},
        {"adaptor_activation": "leaky_relu", "discriminator_depth": 2, "members": 2},
    ],
)
def test_compiled_detector_scores_as_its_original(
    make_pictures: MakePictures, changes: dict[str, object]
) -> None:
    original = detector(**changes)
    compiled = OpenVinoDetector(original, "fp32")
    pictures = [*make_pictures(2, size=(70, 90)), *make_pictures(1, size=(48, 48), seed=1)]
    for one, other in zip(original.score(pictures), compiled.score(pictures), strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-4, abs=1e-4)
        np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, rtol=1e-3, atol=1e-3)


def test_only_a_detector_in_fp32_on_the_cpu_is_compiled() -> None:
    with pytest.raises(DeviceUnavailable, match=r"in torch\.bfloat16.*precision fp32"):
        OpenVinoDetector(detector(torch.bfloat16))
