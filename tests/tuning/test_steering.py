"""What people ask of a study that exists; trials are told without training but where a worker must go on."""

import threading

import pytest
from optuna.trial import TrialState

from storage import datasets, studies, study_edits
from storage.errors import BadStudyEdit, StudyNotFound
from storage.records import StudyState, Wanted, now
from tuning import search as searching
from tuning import steering
from tuning.commands import launch_study, want
from tuning.errors import BadSpec
from tuning.ingest import ingest_folder
from tuning.narrowing import narrowed
from tuning.queries import study_trials
from tuning.spec import Range, StudySpec
from tuning.wishes import FROM_STUDY
from tuning.worker import run_worker


def row(workspace, study_id):
    with workspace.session() as session:
        return studies.get_study(session, study_id)


@pytest.fixture
def make_ended(workspace, parts, make_spec, run_one):
    """Factory of completed studies of `parts` with trials that were told their values."""

    def make(values=(0.5, 0.9, 0.7, 0.6), state=StudyState.COMPLETED, **changes):
        spec = make_spec(trials=len(values), **changes)
        study = launch_study(workspace, "parts", spec, name="first")
        search = searching.open_search(workspace.settings.optuna_url, study.id, spec)
        for value in values:
            run_one(search, spec, value)
        held = {"study_id": study.id, "worker_id": "w"}
        with workspace.session() as session:
            claimed = studies.claim(session, now=now(), lease_seconds=60, **held)
            studies.finish(session, attempt=claimed.attempt, state=state, error=None, now=now(), **held)
        return row(workspace, study.id)

    return make


def left(workspace, study):
    trials = searching.trials_of(workspace.settings.optuna_url, study.id)
    return searching.left(trials, StudySpec.from_json(study.spec))


def test_worker_goes_on_with_a_completed_study_that_was_given_more_trials(
    workspace, parts, make_spec, run_to_end
):
    study = run_to_end(make_spec(trials=1, seeds=2, latency_ms=1e5))
    assert study.state is StudyState.COMPLETED
    study = steering.add_trials(workspace, study.id, 1)
    assert (study.state, study.spec["trials"]) == (StudyState.QUEUED, 2)
    study, wish = steering.enqueue(workspace, study.id, {"noise_std": 0.1, "layers": "2", "adaptor_depth": 0})
    assert study.spec["trials"] == 3
    run_worker(workspace, worker_id="here", stop=threading.Event(), study_id=study.id)
    study = row(workspace, study.id)
    assert (study.state, study.error) == (StudyState.COMPLETED, None)
    trials = study_trials(workspace, study)
    assert len(trials) == 3
    assert dict(trials[1].params) == wish
    noted = searching.trials_of(workspace.settings.optuna_url, study.id)[0].user_attrs
    assert noted["latency_ms"] > 0
    assert len(noted["values"]) == 2
    assert trials[0].value == pytest.approx(sum(noted["values"]) / 2)
    assert noted["spread"] == pytest.approx(abs(noted["values"][0] - noted["values"][1]) / 2**0.5)


def test_trials_added_while_a_study_runs_are_run_before_it_completes(workspace, parts, make_spec):
    study = launch_study(workspace, "parts", make_spec(trials=1))
    steering.add_trials(workspace, study.id, 1)
    run_worker(workspace, worker_id="here", stop=threading.Event(), study_id=study.id)
    assert len(study_trials(workspace, study)) == 2


def test_more_trials_are_run_even_where_patience_or_time_had_ended_the_study(workspace, make_ended):
    study = make_ended(values=(0.9, 0.5, 0.4), patience=2)
    assert left(workspace, study) == 0
    study = steering.add_trials(workspace, study.id, 4)
    assert left(workspace, study) == 4
    assert study.spec["patience"] is None
    timed = make_ended(minutes=1e-6)
    assert left(workspace, steering.add_trials(workspace, timed.id, 2)) == 2


def test_limits_that_were_not_reached_hold_for_more_trials_too(workspace, make_ended):
    study = steering.add_trials(workspace, make_ended(patience=50).id, 2)
    assert study.spec["patience"] == 50


def test_failed_study_may_be_given_more_trials(workspace, make_ended):
    study = steering.add_trials(workspace, make_ended(state=StudyState.FAILED).id, 2)
    assert (study.state, left(workspace, study)) == (StudyState.QUEUED, 2)


@pytest.mark.parametrize(
    ("count", "rule"), [(0, "0 more trials.*at least 1"), (1000, "1004 trials.*1..1000")]
)
def test_number_of_more_trials_has_its_rule(workspace, make_ended, count, rule):
    with pytest.raises(BadSpec, match=rule):
        steering.add_trials(workspace, make_ended().id, count)


def test_study_without_a_number_of_trials_is_not_added_to_before_its_end(workspace, parts, make_spec):
    study = launch_study(workspace, "parts", make_spec(trials=None, minutes=5))
    with pytest.raises(BadSpec, match=r"no number of trials.*Wait for its end"):
        steering.add_trials(workspace, study.id, 1)


def test_grid_that_was_tried_whole_has_no_more_trials(workspace, make_ended):
    grid = {"sampler": "grid", "grid_steps": 2, "layers": ((2,),), "adaptor_depths": (1,)}
    study = make_ended(values=(0.5, 0.6), **grid)
    with pytest.raises(BadSpec, match=r"all 2 configurations of the grid.*more grid steps"):
        steering.add_trials(workspace, study.id, 1)


def test_cancelled_study_takes_no_trials_and_no_configuration(workspace, parts, make_spec):
    study = launch_study(workspace, "parts", make_spec())
    want(workspace, study.id, Wanted.CANCEL)
    with pytest.raises(BadStudyEdit, match="cancelled, for good"):
        steering.add_trials(workspace, study.id, 1)
    with pytest.raises(BadStudyEdit, match=r"cancelled, for good.*Clone"):
        steering.enqueue(workspace, study.id, {"noise_std": 0.1})


def test_configuration_that_was_tried_is_refused_with_its_trial(workspace, make_ended):
    study = make_ended()
    tried = searching.trials_of(workspace.settings.optuna_url, study.id)[2].params
    with pytest.raises(BadSpec, match=r"trial 3 of study 'first'.*Change a value"):
        steering.enqueue(workspace, study.id, tried)


def test_configuration_for_a_study_that_ends_by_its_time_waits_without_a_larger_budget(
    workspace, parts, make_spec
):
    study = launch_study(workspace, "parts", make_spec(trials=None, minutes=5))
    study, wish = steering.enqueue(workspace, study.id, {"noise_std": 0.3})
    assert (study.spec["trials"], wish) == (None, {"noise_std": 0.3})


def test_configuration_that_is_refused_is_not_left_behind(workspace, make_ended, make_spec):
    study = make_ended()
    with workspace.session() as session:
        study_edits.extend_study(session, study.id, make_spec(trials=1000).to_json(), study.spec)
    with pytest.raises(BadSpec, match="1001 trials"):
        steering.enqueue(workspace, study.id, {"noise_std": 0.3})
    trials = searching.trials_of(workspace.settings.optuna_url, study.id)
    assert [trial for trial in trials if trial.state is TrialState.WAITING] == []


def test_configuration_beyond_a_grid_that_was_tried_whole_is_tried(workspace, make_ended):
    grid = {"sampler": "grid", "grid_steps": 2, "layers": ((2,),), "adaptor_depths": (1,)}
    study, _ = steering.enqueue(workspace, make_ended(values=(0.5, 0.6), **grid).id, {"noise_std": 0.3})
    assert (study.state, left(workspace, study)) == (StudyState.QUEUED, 1)


@pytest.mark.parametrize("limit", [{"trials": None, "minutes": 1e-6}, {"trials": 9, "patience": 1}])
def test_configuration_is_tried_whichever_limit_a_running_study_has_reached(
    workspace, parts, make_spec, run_one, limit
):
    spec = make_spec(**limit)
    study = launch_study(workspace, "parts", spec)
    search = searching.open_search(workspace.settings.optuna_url, study.id, spec)
    run_one(search, spec, 0.9)
    run_one(search, spec, 0.5)
    assert left(workspace, study) == 0
    study, wish = steering.enqueue(workspace, study.id, {"noise_std": 0.3})
    assert left(workspace, study) == 1
    run_worker(workspace, worker_id="here", stop=threading.Event(), study_id=study.id)
    study = row(workspace, study.id)
    assert study.state is StudyState.COMPLETED, study.error
    trials = study_trials(workspace, study)
    assert {trial.state for trial in trials} <= {"completed", "pruned"}, "nothing waits"
    assert trials[2].params["noise_std"] == wish["noise_std"]


def test_narrowed_study_starts_around_the_best_trials_with_what_is_known(workspace, make_ended):
    study = make_ended(values=(None,) * 12)  # those with σ near 0.1 are the best
    follower = steering.narrow(workspace, study.id, trials=3)
    spec = StudySpec.from_json(follower.spec)
    assert (spec.follows, spec.trials, follower.name) == (study.id, 3, "first, narrowed")
    assert follower.dataset_version_id == study.dataset_version_id
    trials = searching.trials_of(workspace.settings.optuna_url, study.id)
    top = sorted(trials, key=lambda trial: -trial.value)[:3]
    best = [trial.params["noise_std"] for trial in top]
    assert 0.005 <= spec.noise_std[0] <= min(best) <= max(best) <= spec.noise_std[1] <= 0.5
    assert spec.noise_std != (0.005, 0.5)
    url = workspace.settings.optuna_url
    known = [
        trial
        for trial in searching.open_search(url, follower.id, spec).trials
        if FROM_STUDY in trial.user_attrs
    ]
    assert {trial.value for trial in top} <= {trial.value for trial in known}


def test_narrowing_keeps_every_kind_of_value_that_the_best_trials_have(tmp_path, run_one):
    knobs = {
        "members": {"low": 1, "high": 16},
        "final_lr": {"low": 0, "high": 1},
        "loss": ("truncated_l1", "cross_entropy"),
        "margin": {"low": 0.5, "high": 0.5},
    }
    spec = StudySpec(trials=40, sampler="random", knobs=knobs, backbones=("drawnet", "resnet18"))
    search = searching.open_search(f"sqlite:///{tmp_path}/optuna.db", 1, spec)
    for _ in range(40):
        run_one(search, spec)
    small = narrowed(spec, search.trials, 1)
    top = sorted(search.trials, key=lambda trial: -trial.value)[:10]
    for trial in top:
        assert all(value in small.space[name] for name, value in trial.params.items() if name in small.space)
    for name in ("noise_std", "members", "final_lr"):
        assert isinstance(small.space[name], Range)
    old, new = spec.space["noise_std"], small.space["noise_std"]
    assert new.high / new.low < old.high / old.low
    assert small.space["margin"] == Range(low=0.5, high=0.5, log=True)


@pytest.mark.parametrize(("best", "weights"), [("drawnet", None), ("resnet18", "/w/resnet18.safetensors")])
def test_backbone_that_is_left_alone_keeps_only_weights_of_its_own(tmp_path, run_one, best, weights):
    both = ("drawnet", "resnet18")
    spec = StudySpec(trials=12, sampler="random", backbones=both, weights="/w/resnet18.safetensors")
    search = searching.open_search(f"sqlite:///{tmp_path}/optuna.db", 1, spec)
    run_one(search, spec, 0.2)  # the paper's settings
    for value in (0.9, 0.9, 0.9, 0.1, 0.1, 0.1):
        wanted = best if value > 0.5 else next(name for name in both if name != best)
        searching.enqueue(f"sqlite:///{tmp_path}/optuna.db", 1, spec, {"backbone": wanted})
        run_one(search, spec, value)
    small = narrowed(spec, search.trials, 1)
    assert (small.backbones, small.weights) == ((best,), weights)


def test_narrowing_needs_three_completed_trials_within_the_limits(workspace, make_ended):
    with pytest.raises(BadSpec, match=r"has 2 completed trials within its limits; narrowing needs 3"):
        steering.narrow(workspace, make_ended(values=(0.5, 0.6)).id)
    slow = make_ended(latency_ms=0.5)  # each of its pictures takes 1 ms
    with pytest.raises(BadSpec, match="has 0 completed trials"):
        steering.narrow(workspace, slow.id)


def test_clone_is_the_same_study_of_the_latest_version(workspace, make_ended, make_folder):
    study = make_ended()
    follower = steering.narrow(workspace, study.id)
    same = steering.clone(workspace, follower.id)
    assert (same.spec, same.name) == (follower.spec, "first, narrowed, again")
    ingest_folder(workspace, make_folder("more", train=26, defects={"dent": 6, "scratch": 6}), "parts")
    later = steering.clone(workspace, follower.id, name="second")
    with workspace.session() as session:
        assert later.dataset_version_id == datasets.latest_version(session, "parts").id
    assert later.dataset_version_id != follower.dataset_version_id
    assert (later.spec["follows"], later.name) == (None, "second")  # values of other pictures say nothing


def test_study_does_not_follow_one_whose_values_can_not_be_compared(workspace, make_ended, make_spec):
    study = make_ended()
    with pytest.raises(BadSpec, match=r"study 'first'.*objective, epochs differ.*Make them equal"):
        launch_study(workspace, "parts", make_spec(follows=study.id, objective="f1", epochs=3))
    with pytest.raises(StudyNotFound):
        launch_study(workspace, "parts", make_spec(follows=99))


def test_renamed_archived_and_moved_up_studies_are_so_on_record(workspace, make_ended, make_spec):
    ended = make_ended()
    assert steering.rename(workspace, ended.id, "plates, night shift").name == "plates, night shift"
    assert steering.archive(workspace, ended.id).archived_at is not None
    assert steering.unarchive(workspace, ended.id).archived_at is None
    first = launch_study(workspace, "parts", make_spec(priority=3))
    second = launch_study(workspace, "parts", make_spec())
    assert (first.priority, steering.move_up(workspace, second.id).priority) == (3, 4)


def test_extending_does_not_overwrite_what_somebody_else_changed(workspace, make_ended):
    study = make_ended()
    steering.add_trials(workspace, study.id, 1)
    with workspace.session() as session, pytest.raises(BadStudyEdit, match="somebody else"):
        study_edits.extend_study(session, study.id, {**study.spec, "trials": 9}, study.spec)
