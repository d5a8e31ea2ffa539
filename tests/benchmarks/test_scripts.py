"""The measurements run to their end on small inputs, and say what they measured."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks import cuda, gain, growth, inference, machinery, precision, study, training


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
        assert one["largest_differences_of_maps"]["naive"] < 1e-4
    assert "| naive / ours, fp32 | " in capsys.readouterr().out


SMALL = ["--size", "64", "--rounds", "1"]


def test_inference_times_openvino_beside_ours(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    file = tmp_path / "inference.json"
    inference.main([*SMALL, "--batches", "2", "--without", "naive", "--json", str(file)])
    (one,) = json.loads(file.read_text())["batches"]
    times = one["milliseconds_per_picture"]
    assert one["pictures"] == 2
    assert not any("naive" in name for name in times)
    assert one["ratios"]["ours fp32 / openvino fp32"] == times["ours fp32"] / times["openvino fp32"]
    assert one["largest_differences_of_maps"]["openvino fp32"] < 1e-4
    assert ("openvino bf16" in times) == ("ours bf16" in times)  # only where the processor multiplies in it


def test_inference_leaves_out_what_it_is_told_to(tmp_path: Path) -> None:
    file = tmp_path / "inference.json"
    inference.main([*SMALL, "--batches", "1", "--without", "naive", "openvino", "--json", str(file)])
    (one,) = json.loads(file.read_text())["batches"]
    assert {name.split()[0] for name in one["milliseconds_per_picture"]} == {"backbone", "ours"}


@pytest.mark.parametrize("batches", ["0", "1,", "eight"])
def test_batches_that_are_no_numbers_are_refused(batches: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        inference.main(["--batches", batches])
    assert f"{batches!r} must be whole numbers from 1" in capsys.readouterr().err


def test_study_tells_the_share_before_its_first_trial(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(test_normal=8, defects={"square": 8})
    few = ["--trials", "2", "--epochs", "1", "--size", "64", "--device", "cpu"]
    study.main(["--data", str(folder), *few, "--json", str(tmp_path / "study.json")])
    told = json.loads((tmp_path / "study.json").read_text())
    assert sum(told["pictures"].values()) == 40
    assert list(told["studies"]) == ["features computed", "features from the cache"]
    for one in told["studies"].values():
        phases = one["phases"]
        assert sum(phases.values()) == pytest.approx(one["seconds"])
        assert min(phases.values()) > 0
        assert phases["trials"] == pytest.approx(sum(one["trial_seconds"]))
        assert one["trial_states"] == ["completed", "completed"]
        assert one["share_before_first_trial"] == pytest.approx(
            (phases["preparing"] + phases["features"]) / one["seconds"]
        )
    assert "| share before the first trial | " in capsys.readouterr().out


def test_study_that_fails_says_why(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    lacking = tmp_path / "drawnet.safetensors"
    save_file({"nothing": torch.zeros(1)}, lacking)
    with pytest.raises(SystemExit, match=r"The study is failed: .*lacks .* parameters"):
        study.main(
            ["--data", str(make_folder()), "--size", "64", "--device", "cpu", "--weights", str(lacking)]
        )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_cuda_measures_both_heads_and_a_training(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    few = ["--batches", "1,9", "--pictures", "9", "--epochs", "1", "--device", device]
    cuda.main([*SMALL, "--backbone", "drawnet", *few, "--json", str(tmp_path / "cuda.json")])
    told = json.loads((tmp_path / "cuda.json").read_text())
    assert {row["head"] for row in told["scoring"]} == {"paper", "default"}
    assert "float32" in {row["precision"] for row in told["scoring"]}
    for row in told["scoring"]:
        assert [one["pictures"] for one in row["batches"]] == [1, 9]
        for one in row["batches"]:
            assert list(one["seconds"]) == ["backbone", "patch scores", "score and map"]
            assert min(one["seconds"].values()) > 0
            assert (one["peak_mib_of_score_and_map"] is None) == (device == "cpu")
    done = told["training"]
    assert done["seconds"] == done["feature_seconds"] + done["training_seconds"] > 0
    assert "| default | float32 | 9 | " in capsys.readouterr().out


def test_cuda_needs_the_engine_alone() -> None:
    code = "import sys, benchmarks.cuda; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.split(".")[0] for name in shown.split()}
    assert "engine" in loaded
    assert not loaded & {"storage", "tuning", "dashboard", "matplotlib", "mlflow", "optuna", "sqlalchemy"}


def test_training_sets_ours_beside_published_and_naive(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(train=9, test_normal=3, defects={"square": 3})
    few = ["--epochs", "1", "2", "--published-epochs", "3", "--naive-epochs", "2", "--seeds", "1"]
    training.main(["--data", str(folder), "--size", "64", *few, "--json", str(tmp_path / "training.json")])
    told = json.loads((tmp_path / "training.json").read_text())
    assert told["pictures"] == {"train": 9, "test": 6}
    assert list(told["settings"]) == [
        "ours, 1 epoch",
        "ours, 2 epochs",
        "ours, one member, 10 epochs",
        "published, 3 epochs, features computed once",
    ]
    for row in told["settings"].values():
        assert len(row["seconds"]) == len(row["image_auroc"]) == 1
        assert all(0 <= auroc <= 1 for auroc in row["image_auroc"])
        for later, first in zip(row["seconds"], row["seconds_with_features"], strict=True):
            assert first == later + told["feature_seconds"]
    assert min(told["settings"]["ours, 2 epochs"]["image_auroc"]) > 0.6  # the bright squares are seen
    naive = told["naive"]
    assert naive["extrapolated_training_seconds"] == 3 * naive["training_seconds_per_epoch"] > 0
    assert "| naive, 3 epochs: extrapolated from 2 |" in capsys.readouterr().out


def test_training_needs_test_pictures_of_both_labels(
    make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        training.main(["--data", str(make_folder(train=2, test_normal=1))])
    assert "lacks training pictures, or test pictures of both labels" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from Linux's /proc")
def test_growth_measures_a_point_in_a_process_of_its_own(tmp_path: Path) -> None:
    few = ["--pictures", "10", "--sides", "--backbones", "--epochs", "1", "--rounds", "1"]
    growth.main([*few, "--json", str(tmp_path / "growth.json"), "--plot", str(tmp_path / "growth.png")])
    (point,) = json.loads((tmp_path / "growth.json").read_text())["sweeps"]["pictures"]
    assert (point["pictures"], point["side"], point["backbone"]) == (10, 256, "drawnet")
    assert list(point["phases"]) == ["features", "training", "scoring"]
    assert all(phase["seconds"] > 0 for phase in point["phases"].values())
    assert all(phase["peak_mib"] > 0.9 * point["held_before_mib"] for phase in point["phases"].values())
    with Image.open(tmp_path / "growth.png") as drawn:
        assert drawn.width > 300


def test_growth_with_nothing_to_measure_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        growth.main(["--pictures", "--sides", "--backbones"])
    assert "give at least one of --pictures" in capsys.readouterr().err


def test_precision_compares_detectors_of_one_head(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_folder(train=6, test_normal=3, defects={"square": 3})
    few = ["--seeds", "1", "--epochs", "1", "--size", "64"]
    precision.main(["--data", str(folder), *few, "--json", str(tmp_path / "precision.json")])
    figures = json.loads((tmp_path / "precision.json").read_text())["figures"]
    assert list(figures)[:2] == ["fp32", "bf16"]
    for rows in figures.values():
        np.testing.assert_allclose(rows, figures["fp32"], atol=0.12)  # nine pairs of pictures: a swap is 0.11


@pytest.mark.slow
def test_model_server_tells_throughput_moves_and_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import model_server
    from engine.demo import draw_demo

    draw_demo(tmp_path / "pictures", size=64)
    small = ["--rounds", "1", "--pictures", "8", "--moves", "1", "--requests", "20", "--size", "64"]
    file = tmp_path / "model_server.json"
    model_server.main(["--data", str(tmp_path / "pictures"), *small, "--json", str(file)])
    told = json.loads(file.read_text())
    speeds = told["throughput"]["pictures_per_second"]
    assert told["throughput"]["server_over_engine"] == speeds["server"] / speeds["engine"]
    assert told["moves"]["failed"] == told["memory"]["failed"] == 0
    assert told["moves"]["requests"] > 0
    assert len(told["memory"]["mib_by_tenth"]) == 11
    assert "| server over engine, median of turns" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.postgres
def test_machinery_tells_overhead_and_gain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])  # its workers are started from the checkout
    few = ["--trials", "2", "--seconds", "1", "--workers", "2", "--naps", "2", "--epochs", "1"]
    machinery.main([*few, "--json", str(tmp_path / "machinery.json")])
    told = json.loads((tmp_path / "machinery.json").read_text())
    one, many = told["overhead"], told["sharing"]
    assert one["overhead"] == sum(one["seconds"]) / sum(one["seconds_inside_trials"]) - 1 > 0
    assert set(many["seconds"]) == {"1", "2"}
    assert many["seconds"]["1"] >= many["seconds_asleep"]
    assert "| **overhead** over the time inside |" in capsys.readouterr().out


@pytest.mark.slow
def test_gain_judges_all_on_the_same_sealed_pictures(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(train=40, test_normal=16, defects={"dent": 16})
    file = tmp_path / "gain.json"
    small = ["--seeds", "1", "--trials", "2", "--epochs", "1", "--size", "64"]
    gain.main(["--data", str(folder), *small, "--json", str(file)])
    (one,) = json.loads(file.read_text())["seeds"]
    judged = [one["paper"], one["champion"], one["label_free"]]
    assert len({model["images"] for model in judged}) == 1
    assert one["paper"]["trial"] == 1
    assert one["champion"]["objective"] >= one["paper"]["objective"]
    assert len(one["paper_protocol"]) == 3
    assert "| gain of the study |" in capsys.readouterr().out
