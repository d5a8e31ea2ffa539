"""Running an exported file, as its user would: without the detector that it was made from."""

import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.checkpoint import load
from engine.errors import BadCheckpoint
from engine.images import RGB


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an exported model says of a picture."""

    score: float
    threshold: float
    reject: bool
    anomaly_map: npt.NDArray[np.float32]  # (H, W) in the picture's own pixels


Scorer = Callable[[RGB], Answer]


def open_onnx(file: Path) -> Scorer:
    """An ONNX export under onnxruntime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # another model waits for the cores
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = ["score", "threshold", "reject", "anomaly_map"]

    def score(image: RGB) -> Answer:
        return _answer(*session.run(names, {"image": image}))

    return score


def open_openvino(file: Path) -> Scorer:
    """An OpenVINO export on the CPU, in fp32: where a processor has bf16, OpenVINO takes that unless told."""
    import openvino

    with zipfile.ZipFile(file) as archive:
        model = openvino.Core().read_model(archive.read("model.xml"), archive.read("model.bin"))
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.compile_model(model, "CPU", hints)

    def score(image: RGB) -> Answer:
        answered = compiled(image)
        return _answer(*(answered[name] for name in ("score", "threshold", "reject", "anomaly_map")))

    return score


def open_safetensors(file: Path, folder: Path) -> Scorer:
    """A zip of the checkpoint with the engine's code, unpacked into an empty folder.

    Raises:
        BadCheckpoint: it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
    detector = load(folder / "checkpoint")
    calibration = detector.calibration
    if calibration is None:
        raise BadCheckpoint(f"'{file}' holds no threshold. Export a calibrated model.")

    def score(image: RGB) -> Answer:
        scored = detector.score([image])[0]
        return Answer(
            score=scored.score,
            threshold=calibration.threshold,
            reject=calibration.rejects(scored.score),
            anomaly_map=scored.anomaly_map,
        )

    return score


def processor() -> str:
    """What this machine's processor calls itself, with the number of its cores that this process may use."""
    import os

    name = ""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    if not name:
        import platform

        name = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def _answer(
    score: npt.NDArray[np.float32],
    threshold: npt.NDArray[np.float32],
    reject: npt.NDArray[np.bool_],
    anomaly_map: npt.NDArray[np.float32],
) -> Answer:
    return Answer(
        score=float(score), threshold=float(threshold), reject=bool(reject), anomaly_map=np.array(anomaly_map)
    )
