"""The detector compiled by OpenVINO (an extra): the same numbers within rounding, faster on many CPUs."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.config import SimpleNetConfig
from engine.errors import DeviceUnavailable
from engine.features import FeatureExtractor, aggregate
from engine.images import RGB
from engine.scoring import Detector
from engine.simplenet import FusedHead


class OpenVinoDetector(Detector):
    """A detector whose way from prepared pictures to patch scores OpenVINO has compiled for this CPU.

    Args:
        detector: on the CPU, in fp32; it shares its weights until they are compiled.
        precision: "fp32", "bf16", or "auto": what OpenVINO takes on this processor.
    Raises:
        DeviceUnavailable: OpenVINO is not installed, or the detector is not on the CPU in fp32.
    """

    def __init__(self, detector: Detector, precision: str = "auto") -> None:
        try:
            import openvino
        except ImportError as error:
            raise DeviceUnavailable(
                "OpenVINO is not installed. Install the extra: pip install 'simplenet-automl[openvino]'."
            ) from error
        extractor = detector.extractor
        if extractor.device.type != "cpu" or extractor.dtype != torch.float32:
            raise DeviceUnavailable(
                f"The detector is on {extractor.device} in {extractor.dtype}; OpenVINO compiles one on the CPU in "
                "fp32. Load it with device cpu and precision fp32."
            )
        super().__init__(extractor, detector.model, detector.config, detector.calibration)
        hints: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if precision != "auto":
            hints["INFERENCE_PRECISION_HINT"] = {"fp32": "f32", "bf16": "bf16"}[precision]
        config = detector.config
        size = (config.height, config.width)
        network = _Scorer(extractor, detector.model.fused(), config).eval()
        example = torch.zeros(1, 3, *size)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer's, about shapes that are constants here
            network(example)  # fills the caches of constants, which the tracer must not take for computed
            # One picture at a time: the tracer takes the numbers of rows for constants.
            converted = openvino.convert_model(network, example_input=example, input=[1, 3, *size])
        self._compiled = openvino.compile_model(converted, "CPU", hints)

    @torch.inference_mode()
    def patch_scores(self, images: Sequence[RGB]) -> Tensor:
        """As `Detector.patch_scores`."""
        config = self.config
        prepared = self.extractor.prepare(images, config.height, config.width, config.resize)
        return torch.cat(
            [
                torch.from_numpy(self._compiled(picture.numpy())[0].copy())
                for picture in torch.split(prepared, 1)
            ]
        )


class _Scorer(nn.Module):
    """Prepared pictures (B, 3, H, W) → patch scores (B, h, w)."""

    def __init__(self, extractor: FeatureExtractor, head: FusedHead, config: SimpleNetConfig) -> None:
        super().__init__()
        self.extractor = extractor
        self.head = head
        self.config = config

    def forward(self, images: Tensor) -> Tensor:
        config = self.config
        maps = self.extractor(images)
        features = aggregate(maps, config.layers, config.patch_size, config.feature_dim)
        scores: Tensor = self.head(features)
        return scores
