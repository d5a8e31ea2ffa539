"""What a run must tell of where it was made, so that it can be repeated and a difference explained."""

import hashlib
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

import engine

PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16"}


@lru_cache(maxsize=1)
def code_version() -> str:
    """Version of the product and a digest of all that computes: '0.1.0+engine.3f2a1b4c5d6e'.

    A change of the engine that nobody has given a number yet shows all the same.
    """
    try:
        number = version("simplenet-automl")
    except PackageNotFoundError:  # run from a checkout
        number = "0"
    folder = Path(engine.__file__).parent
    content = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        content.update(str(file.relative_to(folder)).encode())
        content.update(file.read_bytes())
    return f"{number}+engine.{content.hexdigest()[:12]}"


def device_name(device: torch.device) -> str:
    """What the processor calls itself: 'NVIDIA H100', 'Intel(R) Xeon(R) …', or its kind where it does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # another system than Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def surroundings(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Everything beside data and configuration that a trial's last digits may depend on."""
    return {
        "code_version": code_version(),
        "torch": torch.__version__,
        "device": str(device),
        "device_name": device_name(device),
        "precision": PRECISIONS.get(dtype, str(dtype)),
        "threads": str(torch.get_num_threads()),
    }


def weights_digest(model: nn.Module) -> str:
    """SHA-256 (hex) over the names, shapes and values of a network's weights, wherever it lies."""
    content = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        content.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        content.update(values.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()
