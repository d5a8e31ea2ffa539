"""Trials and models side by side: what differs, where they disagree, and which of them have heatmaps."""

import threading

import numpy as np
import pytest

from storage import studies
from storage.settings import Settings
from storage.workspace import open_workspace
from tests.conftest import FolderFactory
from tuning import compare, queries
from tuning.commands import launch_study
from tuning.errors import BadComparison, NoWeights, TrialNotFound
from tuning.ingest import ingest_folder
from tuning.reproduce import reproduce
from tuning.spec import StudySpec
from tuning.trial_maps import maps
from tuning.worker import run_worker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Dataset `parts` with a study of three trials, of which the best alone keeps its head, and its model; `other`."""
    folder = tmp_path_factory.mktemp("compared")
    opened = open_workspace(Settings(home=folder / "home", device="cpu", precision="fp32", kept_heads=1))
    make = FolderFactory(folder)
    ingest_folder(opened, make(defects={"dent": 6, "scratch": 4}), "parts")
    ingest_folder(opened, make("others", defects={"dent": 4}, train=26), "other")
    for dataset, trials in (("parts", 3), ("other", 1)):
        spec = StudySpec(trials=trials, height=64, width=64, epochs=1, layers=((1, 2), (2,)))
        study = launch_study(opened, dataset, spec)
        run_worker(opened, worker_id="here", stop=threading.Event(), study_id=study.id)
        with opened.session() as session:
            assert studies.get_study(session, study.id).error is None
    yield opened
    opened.close()


def test_keys_are_read_once_each_in_their_order():
    assert compare.read_keys(" 1.3, V2,1.3,,1.1 ") == ["1.3", "v2", "1.1"]


def test_trials_and_models_have_config_figures_curve_and_scale(workspace):
    first, model = compare.subjects(workspace, "parts", ["1.1", "v1"])
    assert (first.title, model.title) == ("Study 1, trial 1", "Model version 1")
    assert first.validation["images"] == model.validation["images"]
    assert set(first.curve) == {1}
    assert first.test is None
    assert model.test["images"] > 0
    assert first.calibration.map_low < first.calibration.map_high
    assert first.latency_ms > 0


def test_only_settings_that_differ_are_told(workspace):
    compared = compare.subjects(workspace, "parts", ["1.1", "1.2", "1.3"])
    rows = {row.name: row.values for row in compare.differences(compared)}
    assert set(rows) <= {"noise_std", "layers", "adaptor_depth"}
    assert rows["noise_std"] == tuple(subject.config["noise_std"] for subject in compared)
    assert compare.differences([compared[0], compared[0]]) == []


def test_recorded_scores_of_a_trial_without_weights_are_compared(workspace):
    compared = compare.subjects(workspace, "parts", ["1.1", "1.2", "1.3"])
    assert sum(compare.has_weights(workspace, subject) for subject in compared) == 1
    shown = compare.pictures(workspace, compared)
    known = [compare.scores(workspace, subject, shown) for subject in compared]
    assert all(set(scores) == {picture.key for picture in shown} for scores in known)
    found = compare.disagreements(compared, known, shown)
    assert len(found) == len(shown)
    splits = [one.split for one in found]
    assert splits == sorted(splits, reverse=True)
    for one in found:
        decided = [
            "reject" if score > subject.calibration.threshold else "accept"
            for score, subject in zip(one.scores, compared, strict=True)
        ]
        assert list(one.decisions) == decided
        assert 0 <= one.spread < 1


def test_model_against_itself_disagrees_on_nothing(workspace):
    (model, same) = compare.subjects(workspace, "parts", ["v1", "v1"])
    shown = compare.pictures(workspace, [model])
    scores = compare.scores(workspace, model, shown)
    found = compare.disagreements([model, same], [scores, scores], shown)
    assert not any(one.split or one.spread for one in found)


def test_maps_of_the_best_trial_are_made_once_and_those_of_others_are_refused_with_the_remedy(workspace):
    compared = compare.subjects(workspace, "parts", ["1.1", "1.2", "1.3"])
    shown = compare.pictures(workspace, compared)[:2]
    best = next(subject for subject in compared if compare.has_weights(workspace, subject))
    other = next(subject for subject in compared if not compare.has_weights(workspace, subject))
    ((picture, score, made), _) = list(maps(workspace, best, shown))
    assert made.shape == (picture.image.height, picture.image.width)
    recorded = compare.scores(workspace, best, shown)[picture.key]
    assert score == pytest.approx(recorded, abs=0.05)  # recorded from features kept in half precision
    again = next(iter(maps(workspace, best, shown)))
    assert np.array_equal(again[2], made)
    with pytest.raises(
        NoWeights, match=f"{other.title} has no weights.*simplenet reproduce {other.key} --keep"
    ):
        list(maps(workspace, other, shown))


def test_reproduction_gives_a_trial_its_heatmaps_back(workspace):
    compared = compare.subjects(workspace, "parts", ["1.1", "1.2", "1.3"])
    other = next(subject for subject in compared if not compare.has_weights(workspace, subject))
    assert reproduce(workspace, other.key, keep=True).equal
    assert compare.has_weights(workspace, other)
    assert compare.weights_note(workspace, other) is None
    assert len(list(maps(workspace, other, compare.pictures(workspace, [other])[:1]))) == 1


def test_link_to_mlflow_names_every_run_once_and_the_experiment(workspace):
    compared = compare.subjects(workspace, "parts", ["1.1", "1.2", "v1"])
    url = compare.mlflow_url(workspace, compared)
    assert "/#/compare-runs?runs=%5B%22" in url
    assert all(url.count(subject.run_id) == 1 for subject in compared)
    assert "experiments=%5B%22" in url


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        (["1.1"], BadComparison, "1 to compare: 2 to 6"),
        ([f"1.{n}" for n in range(1, 8)], BadComparison, "7 to compare"),
        (["1.1", "trial3"], BadComparison, "'trial3' names neither"),
        (["1.1", "1.9"], TrialNotFound, "has no trial 9"),
        (["1.1", "v9"], TrialNotFound, "no model v9. It has v1"),
        (["1.1", "2.1"], BadComparison, "of dataset 'other', not of 'parts'"),
    ],
)
def test_what_can_not_stand_side_by_side_is_refused(workspace, keys, error, words):
    with pytest.raises(error, match=words):
        compare.subjects(workspace, "parts", keys)


def test_trial_that_has_not_completed_is_refused(workspace):
    with workspace.session() as session:
        study = studies.get_study(session, 1)
    search = queries.opened(workspace, study.id)
    search.enqueue_trial({"noise_std": 0.1})
    waiting = queries.study_trials(workspace, study)[-1].number + 1
    with pytest.raises(BadComparison, match=f"Trial {waiting} of study 1 is queued and has no figures"):
        compare.subjects(workspace, "parts", ["1.1", f"1.{waiting}"])


def test_importance_names_its_method_and_needs_some_trials(workspace):
    with workspace.session() as session:
        study = studies.get_study(session, 1)
    assert queries.study_importance(workspace, study) is None  # three trials completed
