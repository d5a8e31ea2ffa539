"""`simplenet threshold` over a real champion: everything that decides follows, MLflow shows it, the history stays."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import Result

from dashboard.commands.reporting import ExitCode
from storage.settings import Settings
from storage.tracking import Tracking

pytestmark = pytest.mark.slow

Simplenet = Callable[..., Result]


def _json(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _refused(result: Result, code: ExitCode = ExitCode.ERROR) -> str:
    assert result.exit_code == code, result.output
    return next(line for line in result.stderr.splitlines() if line.startswith("error: "))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "part.png"
    Image.new("RGB", (64, 64), (120, 120, 120)).save(path)
    return path


def test_show_tells_what_the_model_was_made_with(simplenet: Simplenet, studied_home: Path) -> None:
    shown = _json(simplenet("threshold", "parts", "--json"))
    assert shown["point"]["source"] == "calibration"
    assert shown["history"] == [shown["point"]]
    assert "set by the study" in simplenet("threshold", "parts", "--show").stdout


def test_everything_that_decides_follows_a_new_threshold(
    simplenet: Simplenet, own_studied_home: Path, picture: Path, tmp_path: Path
) -> None:
    score = _json(simplenet("score", "parts", picture, "--json"))[0]["score"]
    for threshold, decision in ((score + 1, "accept"), (score - 1, "reject")):
        done = _json(simplenet("threshold", "parts", "--value", threshold, "--why", "to see it", "--json"))
        assert done["point"]["threshold"] == threshold
        scored = _json(simplenet("score", "parts", picture, "--json"))[0]
        assert (scored["threshold"], scored["decision"]) == (threshold, decision)
        simplenet("heatmaps", "parts", "--out", tmp_path / "maps")
        with (tmp_path / "maps" / "index.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert {float(row["threshold"]) for row in rows} == {threshold}
        assert all((float(row["score"]) > threshold) == (row["decision"] == "reject") for row in rows)


def test_model_version_in_mlflow_carries_the_operating_point(
    simplenet: Simplenet, own_studied_home: Path
) -> None:
    done = _json(simplenet("threshold", "parts", "--f1", "--why", "as other tools do", "--json"))
    tags = Tracking(Settings(home=own_studied_home)).client.get_model_version("parts", "1").tags
    assert float(tags["operating_point"]) == done["point"]["threshold"]
    assert (tags["operating_point.source"], tags["operating_point.why"]) == ("f1", "as other tools do")


def test_each_way_is_recorded_with_its_wish_and_its_consequences(
    simplenet: Simplenet, own_studied_home: Path
) -> None:
    rate = _json(
        simplenet("threshold", "parts", "--false-reject-rate", "0.1", "--why", "less waste", "--json")
    )
    assert rate["point"]["parameters"]["rate"] == 0.1
    costs = _json(
        simplenet("threshold", "parts", "--costs", "50", "1", "0.01", "--why", "escapes hurt", "--json")
    )
    assert costs["point"]["parameters"] == {
        "escape_cost": 50,
        "false_reject_cost": 1,
        "defect_rate": 0.01,
    }
    assert set(costs["point"]["figures"]) == {"validation", "test"}
    assert costs["point"]["who"]
    history = _json(simplenet("threshold", "parts", "--json"))["history"]
    assert [point["source"] for point in history] == ["cost", "false_reject", "calibration"]


def test_back_to_an_earlier_point_and_to_the_first(simplenet: Simplenet, own_studied_home: Path) -> None:
    own = _json(simplenet("threshold", "parts", "--json"))["point"]["threshold"]
    first = _json(simplenet("threshold", "parts", "--value", "1.5", "--why", "a", "--json"))["point"]
    simplenet("threshold", "parts", "--value", "2.5", "--why", "b")
    back = _json(simplenet("threshold", "parts", "--back", first["id"], "--json"))["point"]
    assert (back["threshold"], back["restores_id"]) == (1.5, first["id"])
    assert _json(simplenet("threshold", "parts", "--back", "0", "--json"))["point"]["threshold"] == own


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--f1",), "--why"),
        (("--f1", "--value", "1", "--why", "x"), "--f1 and --value exclude each other"),
        (("--false-reject-rate", "0.001", "--why", "x"), "needs at least 999 calibration images; you have"),
        (("--false-reject-rate", "1.5", "--why", "x"), "must be above 0 and below 1"),
        (("--costs", "-1", "1", "0.1", "--why", "x"), "must be a number of at least 0"),
        (("--costs", "1", "1", "1.1", "--why", "x"), "must be between 0 and 1"),
        (("--value", "nan", "--why", "x"), "finite"),
        (("--back", "99"), "no operating point 99"),
    ],
)
def test_what_can_not_be_is_refused_and_changes_nothing(
    simplenet: Simplenet, studied_home: Path, options: tuple[str, ...], said: str
) -> None:
    assert said in _refused(simplenet("threshold", "parts", *options))
    assert len(_json(simplenet("threshold", "parts", "--json"))["history"]) == 1


def test_unknown_dataset_and_model_exit_with_their_code(simplenet: Simplenet, studied_home: Path) -> None:
    assert "'part'" in _refused(simplenet("threshold", "part", "--f1", "--why", "x"), ExitCode.NOTHING)
    assert "no model version 9" in _refused(simplenet("threshold", "parts", "--model", "9"), ExitCode.NOTHING)
