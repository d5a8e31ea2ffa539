import pytest
import torch

from engine import devices
from engine.devices import resolve_device, resolve_precision
from engine.errors import DeviceUnavailable


def test_auto_finds_a_device_that_computes() -> None:
    device = resolve_device("auto")
    assert torch.ones(2, device=device).sum().item() == 2


def test_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["tpu", "", "cuda:x", "meta"])
def test_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(DeviceUnavailable, match="choose auto, cpu"):
        resolve_device(name)


def test_absent_cuda_device_is_refused() -> None:
    with pytest.raises(DeviceUnavailable, match="CUDA devices"):
        resolve_device("cuda:99")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has MPS")
def test_absent_mps_is_refused() -> None:
    with pytest.raises(DeviceUnavailable, match="Apple"):
        resolve_device("mps")


def test_named_precisions() -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("fp32", cpu) is torch.float32
    assert resolve_precision("bf16", cpu) is torch.bfloat16


def test_auto_precision_is_bf16_only_where_the_processor_has_it() -> None:
    cpu = torch.device("cpu")
    flags = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = file.read()
    except OSError:
        pytest.skip("this system does not list its processor's instructions")
    has = "amx_bf16" in flags or "avx512_bf16" in flags
    assert resolve_precision("auto", cpu) is (torch.bfloat16 if has else torch.float32)


def test_auto_precision_without_a_public_question_agrees() -> None:
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch has only the older question")
    capabilities = torch.cpu.get_capabilities()
    assert bool(capabilities.get("avx512_bf16")) == torch.cpu._is_avx512_bf16_supported()


def test_auto_precision_on_mps_is_fp32() -> None:
    assert resolve_precision("auto", torch.device("mps")) is torch.float32


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(DeviceUnavailable, match="choose auto, fp32 or bf16"):
        devices.resolve_precision("fp8", torch.device("cpu"))
