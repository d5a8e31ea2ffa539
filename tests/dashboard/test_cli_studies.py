"""Studies from the command line: what is asked for, how long it takes, and steering of those that exist."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from dashboard.commands.reporting import ExitCode
from tuning.knobs import KNOBS, SEARCHED

Simplenet = Callable[..., Result]


def answer(result: Result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refusal(result: Result, code: ExitCode = ExitCode.ERROR) -> str:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    return result.stderr


@pytest.fixture
def parts(simplenet, home, make_folder) -> None:
    """A dataset `parts`."""
    assert simplenet("ingest", make_folder(defects={"scratch": 4}), "--name", "parts").exit_code == 0


@pytest.fixture
def queued(simplenet, parts):
    """Queue a study of `parts`; answers it."""

    def launch(*options):
        return answer(simplenet("study", "parts", "--detach", "--json", *options))

    return launch


def test_study_carries_every_option(queued):
    study = queued(
        *("--preset", "thorough", "--objective", "image_auroc=0.7,aupro=0.3", "--sampler", "gp"),
        *("--pruner", "hyperband", "--seeds", 2, "--latency-ms", 25, "--priority", 3, "--tolerance", 0.01),
        *("--search", "margin=0.2..1", "--search", "final_lr=0..1:linear", "--search", "patch_size=1,3"),
        *("--search", "feature_dim=none,128", "--name", "night shift", "--trials", 7, "--grid-steps", 3),
    )
    spec = study["spec"]
    assert study["name"] == "night shift"
    assert study["priority"] == 3
    assert spec["objective"] == {"image_auroc": 0.7, "aupro": 0.3}
    assert (spec["sampler"], spec["pruner"], spec["seeds"], spec["latency_ms"]) == ("gp", "hyperband", 2, 25)
    assert (spec["trials"], spec["patience"], spec["tolerance"], spec["grid_steps"]) == (7, 25, 0.01, 3)
    assert spec["knobs"]["margin"] == {"low": 0.2, "high": 1.0, "log": True, "integer": False}
    assert spec["knobs"]["final_lr"]["log"] is False
    assert spec["knobs"]["feature_dim"] == [None, 128]


def test_preset_is_standard_unless_told_otherwise(queued):
    assert queued()["spec"]["trials"] == 20
    assert queued("--preset", "quick")["spec"]["trials"] == 8
    assert queued("--preset", "thorough")["spec"]["seeds"] == 3


@pytest.mark.parametrize("limit", ["--minutes", "--patience"])
def test_study_with_another_limit_has_no_number_of_trials_unless_given(queued, limit):
    assert queued(limit, 5)["spec"]["trials"] is None
    assert queued(limit, 5, "--trials", 4)["spec"]["trials"] == 4
    assert queued(limit, 5, "--preset", "thorough")["spec"]["trials"] is None


def test_several_backbones_are_searched_on_the_layers_that_they_share(queued):
    spec = queued("--backbone", "drawnet", "--backbone", "resnet18")["spec"]
    assert spec["backbones"] == ["drawnet", "resnet18"]
    assert [1, 2, 3] in spec["layers"]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (("--objective", "aupro=much"), "--objective 'aupro=much' must be a figure"),
        (("--objective", "beauty"), "Objective 'beauty' is unknown"),
        (("--search", "margin"), "must be a setting, ="),
        (("--search", "margin=1..2:cubic"), "must be log or linear. Give margin=1..2:log"),
        (("--search", "margin=1..x"), "must be a finite number"),
        (("--search", "loss=1..2"), "'loss' has no range"),
        (("--sampler", "cmaes"), "CMA-ES learns from ranges of numbers and needs two"),
        (("--latency-ms", 0), "Latency limit of 0.0 ms"),
        (("--preset", "quick", "--like", 1), "Give one of them"),
        (("--backbone", "drawnet", "--backbone", "vit_tiny_patch16_224"), "no choice of layers in common"),
    ],
)
def test_options_that_can_not_be_meant_are_refused(simplenet, parts, options, rule):
    assert rule in refusal(simplenet("study", "parts", "--detach", *options))


def test_estimate_starts_nothing_and_is_told_as_text_and_json(simplenet, parts):
    asked = ("study", "parts", "--size", 64, "--epochs", 2, "--layers", "2", "--estimate")
    text = simplenet(*asked).stdout
    assert "on this machine: features" in text
    assert "20 trials" in text
    told = answer(simplenet(*asked, "--preset", "quick", "--json"))
    assert told["count"] == 8
    assert told["seconds"] == pytest.approx(told["features"] + told["trials"] + told["champion"])
    assert answer(simplenet("studies", "--json")) == []


def test_estimate_without_its_backbone_says_what_to_do(simplenet, parts, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = refusal(simplenet("study", "parts", "--estimate", "--backbone", "resnet34"))
    assert "backbone 'resnet34' can't be told" in said
    assert "--weights" in said


def test_study_like_another_begins_with_its_settings(simplenet, queued):
    queued("--preset", "quick", "--search", "patch_size=1,3", "--size", 64)
    spec = queued("--like", 1, "--trials", 5)["spec"]
    both = {"noise": ["gaussian", "differences"], "margin": [0.5, 1.0], "patch_size": [1, 3]}
    assert (spec["trials"], spec["height"], spec["knobs"]) == (5, 64, both)
    fixed = queued("--like", 1, "--search", "noise=gaussian")["spec"][
        "knobs"
    ]  # one value alone is not searched
    assert fixed == both | {"noise": ["gaussian"]}
    refusal(simplenet("study", "parts", "--like", 9), ExitCode.NOTHING)


def test_every_setting_is_listed_with_its_meaning(simplenet):
    told = answer(simplenet("knobs", "--json"))
    assert {one["name"] for one in told} == {*SEARCHED, *KNOBS}
    text = simplenet("knobs").stdout
    assert all(knob.meaning in text for knob in KNOBS.values())


def test_list_shows_states_and_hides_what_is_archived(simplenet, queued):
    queued("--name", "first")
    queued("--name", "second")
    simplenet("cancel", 1)
    assert answer(simplenet("studies", "archive", 1, "--json"))["archived_at"]
    assert [study["name"] for study in answer(simplenet("studies", "--json"))] == ["second"]
    assert "1 archived; see them with --archived" in simplenet("studies").stdout
    states = {study["name"]: study["state"] for study in answer(simplenet("studies", "--archived", "--json"))}
    assert states == {"first": "cancelled", "second": "queued"}
    simplenet("studies", "unarchive", 1)
    assert len(answer(simplenet("studies", "--json"))) == 2


def test_study_that_has_not_ended_is_not_archived(simplenet, queued):
    queued()
    assert "is queued, and only what has ended" in refusal(simplenet("studies", "archive", 1))


def test_rename_and_move_up(simplenet, queued):
    queued("--priority", 2)
    queued()
    assert answer(simplenet("studies", "rename", 2, "plates at night", "--json"))["name"] == "plates at night"
    assert "called nothing" in refusal(simplenet("studies", "rename", 2, " "))
    assert answer(simplenet("studies", "move-up", 2, "--json"))["priority"] == 3


def test_trials_and_configurations_are_added(simplenet, queued):
    queued("--trials", 4)
    assert answer(simplenet("studies", "add", 1, "--trials", 3, "--json"))["spec"]["trials"] == 7
    done = simplenet("studies", "enqueue", 1, "noise_std=0.1", "layers=2", "adaptor_depth=1")
    assert "noise_std 0.1, layers 2, adaptor_depth 1; it waits for a worker" in done.stdout
    assert answer(simplenet("studies", "--json"))[0]["spec"]["trials"] == 8
    for values, rule in (
        (["noise_std=9"], "lies outside of what this study searches: 0.005..0.5"),
        (["colour=red"], "'colour' is not searched"),
        (["noise_std"], "must be a setting, ="),
        (["noise_std=0.1", "noise_std=0.2"], "names 'noise_std' twice"),
    ):
        assert rule in refusal(simplenet("studies", "enqueue", 1, *values))


def test_clone_and_narrow(simplenet, own_studied_home: Path):
    again = answer(simplenet("studies", "clone", 1, "--name", "again", "--json"))
    assert (again["state"], again["name"]) == ("queued", "again")
    assert "has 2 completed trials" in refusal(simplenet("studies", "narrow", 1))
    for command in ("clone", "narrow", "archive", "unarchive", "move-up"):
        assert "no study with id 99" in refusal(simplenet("studies", command, 99), ExitCode.NOTHING)


def test_study_of_a_former_version_and_from_the_trials_of_another(simplenet, queued, make_folder):
    first = queued("--trials", 3)
    assert simplenet("ingest", make_folder("more", train=30), "--name", "parts").exit_code == 0
    latest = queued()
    assert queued("--dataset-version", 1)["dataset_version_id"] == first["dataset_version_id"]
    follower = queued("--like", 1, "--from", 1, "--noise-std", 0.01, 0.1)
    assert follower["dataset_version_id"] == first["dataset_version_id"] != latest["dataset_version_id"]
    assert (follower["spec"]["follows"], follower["spec"]["noise_std"]) == (1, [0.01, 0.1])
    launch = ("study", "parts", "--detach")
    assert "version 3; it has 1, 2" in refusal(simplenet(*launch, "--dataset-version", 3), ExitCode.NOTHING)
    told = refusal(simplenet(*launch, "--from", 1, "--size", 128))
    assert "height, width differ" in told
    assert "dataset version differ" in refusal(simplenet(*launch, "--from", 1, "--dataset-version", 2))
    refusal(simplenet(*launch, "--from", 99), ExitCode.NOTHING)
