"""From candidate to champion and back: who promotes, who is compared with whom, and what a crash leaves behind."""

import time

import pytest
from mlflow import MlflowClient

from storage import datasets, events, models
from storage.policies import promotion_policy
from storage.records import ModelState, PromotionRule, now
from storage.tracking import Tracking
from tuning import candidates, champion, jobs
from tuning.commands import promote, rollback, set_promotion_policy
from tuning.comparison import compare_models
from tuning.context import CandidateContext
from tuning.errors import NoFormerChampion, NotCompleted, NothingToCompare
from tuning.ingest import ingest_folder
from tuning.jobs import JobState
from tuning.pictures import study_pictures
from tuning.queries import study_trials
from tuning.sweep import sweep

pytestmark = pytest.mark.slow


def known(workspace):
    """The models of `parts` by their version."""
    with workspace.session() as session:
        return {model.version: model for model in models.list_models(session, "parts")}


def states(workspace):
    return {version: model.state.value for version, model in sorted(known(workspace).items())}


def alias(workspace):
    """The version that MLflow serves as champion."""
    client = MlflowClient(*[workspace.settings.tracking_uri] * 2)
    return int(client.get_model_version_by_alias("parts", "champion").version)


def manual(workspace):
    set_promotion_policy(workspace, "parts", PromotionRule.MANUAL, who="tester")


def ended(workspace, key, seconds=120.0):
    deadline = time.monotonic() + seconds
    while (job := jobs.status(workspace.settings, key)) and job.state is JobState.RUNNING:
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    return job


def test_by_manual_policy_every_model_waits_for_a_person(workspace, parts, make_spec, run_to_end):
    manual(workspace)
    run_to_end(make_spec(trials=1))
    assert states(workspace) == {1: "candidate"}
    assert Tracking(workspace.settings).champion_version("parts") is None
    promote(workspace, "parts", 1, who="tester", why="looks right")
    assert alias(workspace) == 1
    with workspace.session() as session:
        told = models.list_promotions(session, "parts")[0]
        assert promotion_policy(session, "parts").rule is PromotionRule.MANUAL
    assert (
        told.figures["promoted"]["test"]["image_auroc"] == known(workspace)[1].figures["test"]["image_auroc"]
    )
    assert told.figures["replaced"] is None


def test_card_says_how_long_a_picture_takes(workspace, parts, make_spec, run_to_end):
    run_to_end(make_spec(trials=1))
    latency = known(workspace)[1].figures["latency"]
    assert 0 < latency["p50_ms"] <= latency["p95_ms"]
    assert latency["pictures"] == known(workspace)[1].figures["validation"]["images"]
    assert "cores" in latency["machine"]


class Unfenced:
    """Holds nothing, and lets everything be written."""

    def fence(self, session):
        pass

    def check(self):
        pass


def test_study_that_ends_while_another_promotes_is_compared_with_the_new_champion(
    workspace, parts, make_spec, run_to_end, monkeypatch
):
    manual(workspace)
    for _ in range(2):  # equal models: seen alone, each would be promoted as the first
        run_to_end(make_spec(trials=1))
    set_promotion_policy(workspace, "parts", PromotionRule.AUTOMATIC, who="tester")
    decide, asked = champion._why_promote, []

    def meanwhile(model, reigning, comparison):
        asked.append((reigning and reigning.version, comparison and comparison["against_version"]))
        if (
            len(asked) == 1
        ):  # what the worker of another study does between this one's decision and its record
            promote(workspace, "parts", 1, who="another worker", why="first model of the dataset")
        return decide(model, reigning, comparison)

    monkeypatch.setattr(champion, "_why_promote", meanwhile)
    with workspace.session() as session:
        images = datasets.list_images(session, parts.id)
    context = CandidateContext(
        workspace=workspace,
        tracking=Tracking(workspace.settings),
        lease=Unfenced(),
        spec=make_spec(trials=1),
        version=parts,
        pictures=study_pictures(images),
        extractor=None,
    )
    champion._promote_by_policy(context, known(workspace)[2])  # here, and not in the process that computes
    assert asked == [(None, None), (1, 1)]
    assert states(workspace) == {1: "champion", 2: "candidate"}
    assert alias(workspace) == 1
    with workspace.session() as session:
        assert [one.who for one in models.list_promotions(session, "parts")] == ["another worker"]


def test_crash_between_record_and_alias_is_mended_by_the_next_worker(workspace, parts, make_spec, run_to_end):
    for _ in range(2):
        run_to_end(make_spec(trials=1))
    with workspace.session() as session:
        models.promote(session, model_id=known(workspace)[2].id, who="tester", why="crash", now=now())
    assert alias(workspace) == 1  # the old champion serves
    sweep(workspace)
    assert alias(workspace) == 2


def test_record_wins_where_two_set_the_alias_in_the_wrong_order(
    workspace, parts, make_spec, run_to_end, monkeypatch
):
    for _ in range(2):
        run_to_end(make_spec(trials=1))
    tracking, real, calls = Tracking(workspace.settings), Tracking.set_champion, []

    def slow(self, dataset_name, version):
        calls.append(version)
        if len(calls) == 1:  # another person promotes the other one before this call arrives
            promote(workspace, "parts", 2, who="another", why="?")
        real(self, dataset_name, version)

    monkeypatch.setattr(Tracking, "set_champion", slow)
    champion.settle_alias(workspace, tracking, "parts")
    assert calls == [1, 2, 2]
    assert alias(workspace) == 2


def test_rollback_goes_to_the_champion_before_and_back(workspace, parts, make_spec, run_to_end):
    run_to_end(make_spec(trials=1))
    with pytest.raises(NoFormerChampion, match="never had another champion"):
        rollback(workspace, "parts", who="tester")
    run_to_end(make_spec(trials=1))
    promote(workspace, "parts", 2, who="tester", why="to try it")
    assert rollback(workspace, "parts", who="tester", why="too many rejects").version == 1
    assert alias(workspace) == 1
    assert rollback(workspace, "parts", who="tester").state is ModelState.CHAMPION
    assert alias(workspace) == 2
    with workspace.session() as session:
        told = [one.why for one in models.list_promotions(session, "parts")]
    assert told[:2] == ["rollback from version 1", "rollback from version 2: too many rejects"]


def test_any_completed_trial_becomes_a_candidate_and_the_reading_is_recorded(
    workspace, parts, make_spec, run_to_end
):
    study = run_to_end(make_spec(trials=3))
    other = next(
        trial.number
        for trial in study_trials(workspace, study)
        if trial.state == "completed" and trial.number != known(workspace)[1].trial_number
    )
    assert candidates.sealed_readings(workspace, parts.id) == 1
    key = candidates.job_key(study.id, other)
    candidates.start_candidate(workspace, study.id, other, who="tester")
    job = ended(workspace, key)
    assert (job.state, job.result) == (JobState.DONE, {"version": 2}), job.error
    made = known(workspace)[2]
    assert (made.state, made.trial_number) == (ModelState.CANDIDATE, other)
    assert made.figures["comparison"]["against_version"] == 1
    assert candidates.sealed_readings(workspace, parts.id) == 2
    with workspace.session() as session:
        event = events.list_events(session, "parts")[0]
    assert event.what == (
        f"made a candidate of trial {other + 1} of study '{study.name}', model version 2: "
        "reading 2 of the sealed test pictures of dataset version 1"
    )
    # Asked again it is the same model, and nothing is read.
    again = candidates.make(workspace, study.id, other, who="tester", progress=lambda *_: None)
    assert again.version == 2
    assert candidates.sealed_readings(workspace, parts.id) == 2

    found = compare_models(workspace, made, known(workspace)[1])
    assert found.low <= found.difference <= found.high
    assert found.difference == pytest.approx(
        made.figures["test"]["image_auroc"] - known(workspace)[1].figures["test"]["image_auroc"]
    )
    assert all(one.decision != one.other_decision for one in found.disagreements)
    with pytest.raises(NotCompleted, match=r"Trial 99 .* is not completed.*Completed are 1"):
        candidates.start_candidate(workspace, study.id, 98, who="tester")


def test_candidate_job_that_was_killed_goes_on(workspace, parts, make_spec, run_to_end, kill_job):
    study = run_to_end(make_spec(trials=2))
    other = next(
        trial.number
        for trial in study_trials(workspace, study)
        if trial.state == "completed" and trial.number != known(workspace)[1].trial_number
    )
    key = candidates.job_key(study.id, other)
    candidates.start_candidate(workspace, study.id, other, who="tester")
    deadline = time.monotonic() + 60
    while not (job := jobs.status(workspace.settings, key)).text.startswith(("registering", "sealed")):
        assert job.state is JobState.RUNNING, job.error
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill_job("tuning.candidates", study.id, other, "tester")
    assert ended(workspace, key).state is JobState.INTERRUPTED
    assert states(workspace)[1] == "champion"  # nothing changed for those who are served
    candidates.start_candidate(workspace, study.id, other, who="tester")
    assert ended(workspace, key).state is JobState.DONE
    assert states(workspace) == {1: "champion", 2: "candidate"}
    assert candidates.sealed_readings(workspace, parts.id) == 2


def test_models_without_common_sealed_pictures_are_not_compared(
    workspace, parts, make_folder, make_spec, run_to_end
):
    run_to_end(make_spec(trials=1))
    ingest_folder(workspace, make_folder("others", train=40, size=48, flat=True), "parts", add=False)
    run_to_end(make_spec(trials=1))
    with pytest.raises(NothingToCompare, match="0 sealed test pictures in common"):
        compare_models(workspace, known(workspace)[2], known(workspace)[1])
