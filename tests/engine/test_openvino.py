"""The compiled detector beside the one it was compiled from."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "scripts" / "compare_compiled.py"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the openvino extra is not installed"
)


def compared(changes: dict[str, Any], dtype: str = "float32") -> dict[str, Any]:
    command = [sys.executable, SCRIPT, json.dumps(changes), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resize": "crop", "layers": [1, 2, 3]},
        {"feature_dim": 48, "members": 1},
        {"adaptor_activation": "leaky_relu", "discriminator_depth": 2, "members": 2},
    ],
)
def test_compiled_detector_scores_as_its_original(changes: dict[str, Any]) -> None:
    for ours, theirs, maps in compared(changes)["pairs"]:
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)
        assert maps < 1e-3


def test_only_a_detector_in_fp32_on_the_cpu_is_compiled() -> None:
    error = compared({}, "bfloat16")["error"]
    assert "in torch.bfloat16" in error
    assert "precision fp32" in error
