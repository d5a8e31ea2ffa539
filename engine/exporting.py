"""A detector as one file that needs neither torch nor this product: ONNX, and OpenVINO made from it.

Both take a picture of any size as (H, W, 3) uint8 RGB and answer `score`, `threshold`, `reject` and `anomaly_map`: the
resizing, the network, the threshold and the way from patch scores to the map are all inside.
"""

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine import onnx_graph
from engine.errors import ExportUnavailable
from engine.features import aggregate
from engine.geometry import resized_in_order
from engine.onnx_graph import PassOrder
from engine.scoring import Detector, image_scores

PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
_SIZES_TRIED = 256  # of a dataset's pictures, to learn in which order Pillow resizes them


def require(kind: str) -> None:
    """Refuse where the packages that an export needs are not installed.

    Args:
        kind: one of PACKAGES.
    Raises:
        ExportUnavailable: naming them, and the extra that brings them.
    """
    from importlib.util import find_spec

    missing = [name for name in PACKAGES[kind] if find_spec(name) is None]
    if missing:
        extras = "onnx" if kind == "onnx" else "onnx,openvino"
        raise ExportUnavailable(
            f"An export to {kind} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            f"installed. Install the extra: pip install 'simplenet-automl[{extras}]'."
        )


def onnx_model(detector: Detector, *, order: PassOrder, by_matrix: bool) -> Any:
    """The detector as an ONNX model, its threshold still 0.

    Args:
        detector: on the CPU in fp32.
        order, by_matrix: see `engine.onnx_graph.lay_on_canvas`.
    Raises:
        ExportUnavailable: a package is missing, or torch can't trace this network.
    """
    require("openvino" if by_matrix else "onnx")
    config = detector.config
    canvas = (config.height, config.width)
    network = _Network(detector).eval()
    with torch.no_grad():
        example = torch.zeros(1, 3, *canvas)
        patches = network(example)[0].shape[
            1:
        ]  # also fills the caches of constants before anything is traced
        core = _traced(network, example)
    graph = onnx_graph.Graph()
    laid = onnx_graph.lay_on_canvas(graph, canvas, config.resize, order=order, by_matrix=by_matrix)
    graph.rename(laid, "network/canvas")
    graph.splice(core, "network/")
    onnx_graph.answer(
        graph,
        "network/patch_scores",
        "network/image_score",
        canvas=canvas,
        patches=(patches[0], patches[1]),
        resize=config.resize,
        smoothing_std=config.smoothing_std,
    )
    inputs, outputs = onnx_graph.interface()
    return graph.model("simplenet", inputs, outputs)


def set_threshold(model: Any, threshold: float) -> float:
    """Write the threshold into an ONNX model; answers the float32 that stands for it.

    It is rounded down: scores are float32, and exactly those above the threshold are above what it is rounded to.
    """
    from onnx import numpy_helper

    rounded = np.float32(threshold)
    if float(rounded) > threshold:  # as doubles: numpy would round the threshold before it compares
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    constant = next(one for one in model.graph.initializer if one.name == onnx_graph.THRESHOLD)
    constant.CopyFrom(numpy_helper.from_array(np.asarray(rounded, np.float32), onnx_graph.THRESHOLD))
    return float(rounded)


def describe(model: Any, facts: Mapping[str, Any]) -> None:
    """Keep facts with an ONNX model, as JSON by key."""
    from onnx import helper

    helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})


def openvino_zip(model: Any, facts: Mapping[str, Any]) -> bytes:
    """An ONNX model as OpenVINO's intermediate representation in fp32: a zip of `model.xml` and `model.bin`."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "model.xml"
        source.write_bytes(model.SerializeToString())
        converted = openvino.Core().read_model(source)
        for key, value in facts.items():
            converted.set_rt_info(json.dumps(value), ["simplenet", key])
        openvino.save_model(converted, target, compress_to_fp16=False)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for file in (target, target.with_suffix(".bin")):
                archive.write(file, file.name)
    return packed.getvalue()


def pass_order(sizes: Iterable[tuple[int, int]], canvas: tuple[int, int], resize: str) -> PassOrder:
    """In which order the installed Pillow resizes pictures of these (H, W).

    It takes whichever order it thinks cheaper and rounds in between, so that one of two fixed orders gives its pixels
    exactly. What most sizes take is taken for a size that is not among the first few hundred as well.
    """
    draw = np.random.default_rng(0)
    rows_first: list[tuple[int, int]] = []
    columns_first: list[tuple[int, int]] = []
    for size in list(dict.fromkeys(sizes))[:_SIZES_TRIED]:
        noise = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
        wanted, horizontal, vertical = resized_in_order(noise, canvas, resize)
        if (wanted == vertical).all() != (wanted == horizontal).all():
            (columns_first if (wanted == vertical).all() else rows_first).append(size)
    vertical_first = len(columns_first) > len(rows_first)
    return PassOrder(
        vertical_first=vertical_first, exceptions=tuple(rows_first if vertical_first else columns_first)
    )


class _Network(nn.Module):
    """A canvas of whole numbers (1, 3, H, W) float32 → patch scores (1, h, w), and the picture's score (1,)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        extractor = detector.extractor
        std = torch.tensor(extractor.std)
        # As `engine.images.preprocess`, operation by operation.
        self.register_buffer("scale", (1 / (255 * std))[:, None, None])
        self.register_buffer("shift", (torch.tensor(extractor.mean) / std)[:, None, None])
        self.extractor = extractor
        self.head = detector.model.fused()
        self.config = detector.config

    def forward(self, canvas: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        maps = self.extractor(canvas.mul(self.scale).sub(self.shift))
        features = aggregate(maps, config.layers, config.patch_size, config.feature_dim)
        scores: Tensor = self.head(features)
        return scores, image_scores(scores, config.top_patches)


def _traced(network: nn.Module, example: Tensor) -> Any:
    """Trace a network of one input; its outputs are called `patch_scores` and `image_score`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        try:
            program = torch.onnx.export(
                network,
                (example,),
                input_names=["canvas"],
                output_names=["patch_scores", "image_score"],
                opset_version=onnx_graph.OPSET,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportUnavailable(
                f"torch can't write this network as ONNX ({str(error).splitlines()[0]}). Export the model as "
                "safetensors, or train one on another backbone."
            ) from error
    assert program is not None
    return program.model_proto
