"""Which processor computes, and in which precision."""

import torch

from engine.errors import DeviceUnavailable


def resolve_device(name: str) -> torch.device:
    """Turn a setting into a device that exists on this machine.

    Args:
        name: "auto" (CUDA, else MPS, else CPU), "cpu", "cuda", "cuda:<index>" or "mps".
    Raises:
        DeviceUnavailable: the name is unknown, or this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise DeviceUnavailable(f"Device {name!r} is unknown; choose auto, cpu, cuda, cuda:<index> or mps.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(
            f"Device {name!r} is not here; this machine has {torch.cuda.device_count()} CUDA devices. "
            "Choose auto or cpu, or install a driver and a torch built for it."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceUnavailable("Device 'mps' is not here; it needs an Apple processor. Choose auto or cpu.")
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Turn a setting into the number format in which the backbone runs.

    Args:
        name: "fp32", "bf16", or "auto": bf16 where the processor multiplies in it, else fp32.
    Raises:
        DeviceUnavailable: the name is unknown.
    """
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if name == "auto":
        return torch.bfloat16 if _multiplies_bf16(device) else torch.float32
    if name not in formats:
        raise DeviceUnavailable(f"Precision {name!r} is unknown; choose auto, fp32 or bf16.")
    return formats[name]


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # Without these instructions bf16 is emulated and slower than fp32. torch < 2.10 has no public
        # question.
        if hasattr(torch.cpu, "get_capabilities"):
            capabilities = torch.cpu.get_capabilities()
            return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
        return bool(torch.cpu._is_avx512_bf16_supported())
    return False
