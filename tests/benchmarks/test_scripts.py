"""The measurements run to their end on small inputs, and say what they measured."""

import json
from pathlib import Path

import pytest

from benchmarks import inference


@pytest.mark.parametrize("source", [[], ["--random", "--backbone", "test_resnet"]])
def test_inference_tells_times_and_ratios(
    source: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--size", "64", "--members", "2", "--width", "16", "--feature-dim", "40", "--rounds", "1"]
    inference.main([*source, *small, "--json", str(tmp_path / "results" / "inference.json")])
    told = json.loads((tmp_path / "results" / "inference.json").read_text())
    assert told["config"]["backbone"] == (source[-1] if source else "drawnet")
    assert [one["pictures"] for one in told["batches"]] == [1, 8]
    for one in told["batches"]:
        times = one["milliseconds_per_picture"]
        assert min(times.values()) > 0
        assert one["ratios"]["naive / ours, fp32"] == times["naive"] / times["ours fp32"]
        assert one["largest_difference_of_maps"] < 1e-4
    assert "| naive / ours, fp32 | " in capsys.readouterr().out
