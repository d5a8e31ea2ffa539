"""How a study searches: Optuna in a real SQLite file, asked and told as a worker does."""

import sqlite3
import time
import warnings
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from matplotlib.figure import Figure
from optuna.trial import TrialState

from dashboard import study_trials
from engine.config import LOSSES, SimpleNetConfig
from storage.records import now
from tuning import budget, plots, queries, retries, trial_times
from tuning import search as searching
from tuning.errors import BadSpec
from tuning.knobs import KNOBS
from tuning.presets import preset_spec
from tuning.spec import Pruner, Range, Sampler, StudySpec
from tuning.trial import TrialResult
from tuning.wishes import BY_HAND, FROM_STUDY, FROM_TRIAL, ORIGIN, grid, read_wish, second_wish, taken_over

SMALL = {"layers": ((2,), (2, 3)), "adaptor_depths": (0, 1)}
LARGE = {"knobs": {"discriminator_lr": {"low": 2e-4, "high": 2e-2}, "members": {"low": 1, "high": 16}}}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/optuna.db"


@pytest.fixture
def run_to_the_end(run_one):
    """Search until the budget is used up, every trial with the value and latency given."""

    def run(url, spec, study_id=1, **found):
        search = searching.open_search(url, study_id, spec)
        while searching.left(search.trials, spec):
            run_one(search, spec, **found)
        return search

    return run


def bury(url, search):
    """What is done with the trials of workers that died."""
    for trial in retries.running(search):
        retries.try_again(url, search, trial.number, "the worker died during this trial")


def test_paper_settings_are_tried_first(tmp_path: Path):
    search = searching.open_search(f"sqlite:///{tmp_path}/optuna.db", 1, StudySpec())
    trial = search.ask(searching.distributions(StudySpec()))
    assert trial.params == searching.PAPER


def test_knobs_are_searched_from_the_engines_defaults_on(tmp_path: Path):
    spec = StudySpec(knobs={"patch_size": (1, 3), "adaptor_residual": (True,), "loss": LOSSES})
    search = searching.open_search(f"sqlite:///{tmp_path}/optuna.db", 1, spec)
    first = search.ask(searching.distributions(spec))
    assert (first.params["patch_size"], first.params["loss"]) == (3, "truncated_l1")
    assert first.params["adaptor_residual"] is True
    assert "origin" not in first.user_attrs  # the paper has no residual
    assert StudySpec.from_json(spec.to_json()) == spec


def test_paper_settings_outside_the_space_are_left_to_the_sampler(tmp_path: Path):
    spec = StudySpec(noise_std=(0.1, 0.2), layers=((1, 2),), adaptor_depths=(1,))
    search = searching.open_search(f"sqlite:///{tmp_path}/optuna.db", 1, spec)
    trial = search.ask(searching.distributions(spec))
    assert trial.params["adaptor_depth"] == 1
    assert trial.params["layers"] == "1+2"
    assert 0.1 <= trial.params["noise_std"] <= 0.2


def test_known_good_settings_of_differences_are_tried_second_and_once(url, run_one):
    spec = preset_spec("standard")
    search = searching.open_search(url, 1, spec)
    first = run_one(search, spec)
    assert first.params == searching.PAPER | {"noise": "gaussian", "margin": 0.5}
    search = searching.open_search(url, 1, spec)  # as a worker that goes on after a crash
    known = searching.PAPER | {"noise": "differences", "margin": 1.0, "noise_std": 0.15}
    assert searching.ask(search, spec).params == known
    bury(url, search)  # its worker died
    assert run_one(search, spec).params == known
    third = run_one(search, spec)
    assert third.params["noise_std"] not in (0.015, 0.15)  # the sampler's own
    records = queries.records(search)
    assert [record.from_paper for record in records] == [True, False, False, False]
    assert [record.known_good for record in records] == [False, True, True, False]


def test_study_that_ends_after_its_first_trial_leaves_nothing_queued(url, run_one):
    spec = preset_spec("standard", trials=1)
    search = searching.open_search(url, 1, spec)
    run_one(search, spec)
    assert searching.left(search.trials, spec) == 0
    assert [trial.state for trial in search.trials] == [TrialState.COMPLETE]


def test_what_a_person_asks_for_comes_before_what_is_known_to_be_good(url, run_one):
    spec = preset_spec("standard")
    run_one(searching.open_search(url, 1, spec), spec)
    searching.enqueue(url, 1, spec, {"noise_std": 0.02})
    search = searching.open_search(url, 1, spec)
    assert run_one(search, spec).params["noise_std"] == 0.02
    assert run_one(search, spec).user_attrs["origin"] == "known good"


@pytest.mark.parametrize(
    ("changes", "wish"),
    [
        ({}, None),
        ({"knobs": {"noise": ("gaussian", "scaled")}}, None),
        (
            {"knobs": {"noise": ("differences",)}},
            {"noise": "differences", "noise_std": 0.15, "layers": "2+3", "adaptor_depth": 1},
        ),
        (
            {"noise_std": (0.01, 0.1), "layers": ((2,),), "knobs": {"noise": ("gaussian", "differences")}},
            {"noise": "differences", "adaptor_depth": 1},  # the rest is left to the sampler
        ),
    ],
)
def test_of_what_is_known_to_be_good_only_that_in_the_space_is_asked_for(changes, wish):
    assert second_wish(StudySpec(**changes)) == wish


def test_trial_of_a_dead_worker_is_repeated_twice_and_then_counts_as_failed(tmp_path: Path):
    url, spec = f"sqlite:///{tmp_path}/optuna.db", StudySpec()
    for death in range(searching.RETRIES + 2):
        search = searching.open_search(url, 1, spec)
        bury(url, search)
        assert searching.counted(search.trials) == (death > searching.RETRIES)
        trial = search.ask(searching.distributions(spec))
        assert (trial.params == searching.PAPER) == (death <= searching.RETRIES)


def test_restart_does_not_enqueue_the_paper_settings_again(tmp_path: Path):
    url, spec = f"sqlite:///{tmp_path}/optuna.db", StudySpec()
    search = searching.open_search(url, 1, spec)
    search.tell(search.ask(searching.distributions(spec)), 0.5)
    again = searching.open_search(url, 1, spec)
    assert again.ask(searching.distributions(spec)).params != searching.PAPER
    assert searching.counted(again.trials) == 1


def test_best_is_the_earliest_of_equals(tmp_path: Path):
    url, spec = f"sqlite:///{tmp_path}/optuna.db", StudySpec()
    search = searching.open_search(url, 1, spec)
    for value in (0.5, 0.9, 0.9):
        search.tell(search.ask(searching.distributions(spec)), value)
    best = searching.best(search.trials)
    assert best is not None
    assert best.number == 1


def test_trial_lost_before_it_had_parameters_is_tried_again_with_those_enqueued_for_it(tmp_path: Path):
    """A worker may die between taking a trial and sampling for it: nothing ran, so nothing failed."""
    url = f"sqlite:///{tmp_path}/optuna.db"
    search = searching.open_search(url, 1, StudySpec())
    assert search.ask().params == {}
    bury(url, search)
    assert searching.counted(search.get_trials()) == 0
    again = search.ask(searching.distributions(StudySpec()))
    assert again.params == searching.PAPER
    assert again.user_attrs["origin"] == "paper"


@pytest.mark.parametrize("sampler", Sampler)
@pytest.mark.parametrize("pruner", Pruner)
def test_every_sampler_and_pruner_ends_at_the_budget_and_goes_on_after_a_restart(
    url, sampler, pruner, run_one, run_to_the_end
):
    spec = StudySpec(trials=9, sampler=sampler, pruner=pruner, grid_steps=2, **LARGE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            run_one(searching.open_search(url, 1, spec), spec)
        search = run_to_the_end(url, spec)
    assert len(search.trials) == 9
    points = [tuple(trial.params.values()) for trial in search.trials]
    assert len(set(points)) == 9  # a sampler that began anew would repeat itself
    assert all(set(trial.params) == set(spec.space) for trial in search.trials)


@pytest.mark.parametrize("pruner", [Pruner.MEDIAN, Pruner.HYPERBAND])
def test_pruner_ends_what_is_hopeless_and_nothing_before_the_third_epoch(url, pruner):
    spec = StudySpec(pruner=pruner)
    search = searching.open_search(url, 1, spec)
    ended = []
    for number in range(40):
        trial, value = searching.ask(search, spec), 0.9 if number < 20 else 0.1
        for epoch in range(1, spec.epochs + 1):
            trial.report(value, epoch)
            if trial.should_prune():
                ended.append((number, epoch))
                search.tell(trial, state=TrialState.PRUNED)
                break
        else:
            search.tell(trial, value)
    assert ended
    assert all(number >= 20 and epoch >= 3 for number, epoch in ended)


def test_without_a_pruner_every_trial_runs_to_its_end(url):
    spec = StudySpec(pruner="none")
    search = searching.open_search(url, 1, spec)
    for number in range(10):
        trial = searching.ask(search, spec)
        trial.report(1 - number / 10, 5)
        assert not trial.should_prune()
        search.tell(trial, 1 - number / 10)


def test_samplers_that_learn_come_closer_than_chance(url, run_to_the_end):
    reached = {}
    for number, sampler in enumerate(["tpe", "gp", "cmaes"]):
        spec = StudySpec(trials=25, sampler=sampler, **LARGE)
        search = run_to_the_end(url, spec, study_id=number)
        late = [abs(trial.params["noise_std"] - 0.1) for trial in search.trials[12:]]
        reached[sampler] = sum(late) / len(late)
    # σ drawn evenly on the log scale lies 0.10 away on average.
    assert all(distance < 0.09 for distance in reached.values()), reached


def test_grid_tries_every_combination_once_then_says_that_it_is_done(url, run_to_the_end):
    spec = StudySpec(trials=None, patience=1000, sampler="grid", grid_steps=3, **SMALL)
    search = run_to_the_end(url, spec, value=0.5)
    tried = [tuple(trial.params[name] for name in spec.space) for trial in search.trials]
    assert len(tried) == len(set(tried)) == spec.grid_size == 12
    assert sorted({trial.params["noise_std"] for trial in search.trials}) == pytest.approx([0.005, 0.05, 0.5])
    assert "all 12 configurations of the grid" in str(budget.ended_by(search.trials, spec))


def test_grid_larger_than_the_budget_is_tried_in_an_order_that_the_seed_shuffles():
    spec = StudySpec(sampler="grid", grid_steps=5)
    assert grid(spec) == grid(StudySpec(sampler="grid", grid_steps=5))
    assert grid(spec) != grid(StudySpec(sampler="grid", grid_steps=5, seed=1))
    assert len({point["layers"] for point in grid(spec)[:20]}) == len(spec.layers)


def test_grid_point_of_a_lost_trial_is_tried_again(url, run_to_the_end):
    spec = StudySpec(sampler="grid", grid_steps=2, **SMALL)
    search = searching.open_search(url, 1, spec)
    lost = searching.ask(search, spec)
    bury(url, search)
    assert searching.left(search.trials, spec) == 8
    run_to_the_end(url, spec, value=0.5)
    done = [trial.params for trial in search.trials if trial.state is TrialState.COMPLETE]
    assert len(done) == 8
    assert lost.params in done


def test_running_trials_are_taken_off_the_budget(url, run_one):
    spec = StudySpec(trials=3)
    search = searching.open_search(url, 1, spec)
    assert searching.left(search.trials, spec) == 3
    first, second = searching.ask(search, spec), searching.ask(search, spec)
    assert searching.left(search.trials, spec) == 1
    search.tell(first, 0.5)
    search.tell(second, state=TrialState.FAIL)
    assert searching.left(search.trials, spec) == 1
    run_one(search, spec)
    assert searching.left(search.trials, spec) == 0
    assert budget.ended_by(search.trials, spec) == "all 3 trials were tried"


def at(url, number, start, end):
    """Let a trial have run between two minutes of one day; it runs still where there is no end.

    As older programs left it: with Optuna's naive local times alone.
    """
    times = [
        None if minute is None else str(datetime(2030, 1, 1) + timedelta(minutes=minute))
        for minute in (start, end)
    ]
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute(
            "UPDATE trials SET datetime_start = ?, datetime_complete = ? WHERE number = ?", (*times, number)
        )
        connection.execute("DELETE FROM trial_user_attributes WHERE key IN ('began_at', 'seconds')")
    connection.close()


def test_minutes_are_those_in_which_trials_ran(url, run_one):
    spec = StudySpec(trials=None, minutes=10)
    search = searching.open_search(url, 1, spec)
    spans = ((0, 4), (2, 6), (60, 63))  # two at once, then a pause of nearly an hour
    for number, (start, end) in enumerate(spans):
        run_one(search, spec)
        at(url, number, start, end)
    fresh = optuna.load_study(study_name=search.study_name, storage=optuna.storages.RDBStorage(url))
    trials = fresh.get_trials()
    moment = datetime(2030, 1, 1, 2).astimezone()
    assert budget.seconds_searched(trials, moment) == 9 * 60
    assert searching.left(trials, spec, moment) > 0
    assert searching.left(trials, StudySpec(trials=None, minutes=9), moment) == 0
    assert "9 minutes" in str(budget.ended_by(trials, StudySpec(trials=None, minutes=9), moment))


@pytest.mark.parametrize("hours", [1, -1])
def test_clock_that_jumps_inside_a_trial_neither_ends_a_budget_of_minutes_nor_prolongs_it(
    url, run_one, hours
):
    spec = StudySpec(trials=None, minutes=30)
    search = searching.open_search(url, 1, spec)
    trial = searching.ask(search, spec)
    trial_times.note_seconds(trial, 600)
    search.tell(trial, 0.5)
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        jumped = str(datetime.now() + timedelta(hours=hours))
        connection.execute("UPDATE trials SET datetime_complete = ?", (jumped,))
    connection.close()
    fresh = optuna.load_study(study_name=search.study_name, storage=optuna.storages.RDBStorage(url))
    trials = fresh.get_trials()
    assert budget.seconds_searched(trials) == 600
    assert searching.left(trials, spec) > 0
    assert queries.records(fresh)[0].duration_seconds == 600
    assert searching.left(trials, StudySpec(trials=None, minutes=10)) == 0


def test_worker_in_another_time_zone_does_not_shift_its_trials(url, monkeypatch):
    spec = StudySpec(trials=None, minutes=30)
    search = searching.open_search(url, 1, spec)
    try:
        for zone in ("America/New_York", "Asia/Tokyo"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            trial = searching.ask(search, spec)
            trial_times.note_seconds(trial, 60)
            search.tell(trial, 0.5)
        searching.ask(search, spec)  # runs still
        monkeypatch.setenv("TZ", "UTC")
        time.tzset()
        assert budget.seconds_searched(search.trials) < 70
        assert budget.ended_by(search.trials, spec) is None
        moments = [record.started_at for record in queries.records(search)]
        assert moments == sorted(moments)
        assert abs((now() - moments[0]).total_seconds()) < 60
    finally:
        monkeypatch.undo()
        time.tzset()


def test_length_of_a_trial_that_somebody_else_has_ended_is_not_written(url):
    search = searching.open_search(url, 1, StudySpec())
    trial = searching.ask(search, StudySpec())
    search.tell(trial.number, state=TrialState.FAIL)
    trial_times.note_seconds(trial, 60)
    assert trial_times.SECONDS not in search.trials[0].user_attrs


def test_progress_counts_the_time_of_trials_and_what_runs_beside(url, run_one):
    spec = StudySpec(trials=10)
    search = searching.open_search(url, 1, spec)
    assert budget.reported(search.trials, spec)["searched"] == 0
    for number, (start, end) in enumerate(((0, 4), (600, 604))):  # a pause of a night
        run_one(search, spec)
        at(url, number, start, end)
    running = searching.ask(search, spec)
    at(url, running.number, 700, None)
    fresh = optuna.load_study(study_name=search.study_name, storage=optuna.storages.RDBStorage(url))
    told = budget.reported(
        fresh.get_trials(), spec, (datetime(2030, 1, 1) + timedelta(minutes=702)).astimezone()
    )
    assert {name: told[name] for name in ("trial", "ended", "under_way", "searched")} == {
        "trial": 3,
        "ended": 2,
        "under_way": 0.5,
        "searched": 10 * 60,
    }


def test_one_trial_is_tried_however_short_the_time(url, run_to_the_end):
    spec = StudySpec(trials=None, minutes=1e-9)
    assert len(run_to_the_end(url, spec).trials) == 1


def test_patience_ends_what_does_not_get_better_by_more_than_the_tolerance(url, run_one):
    spec = StudySpec(trials=None, patience=3, tolerance=0.01)
    search = searching.open_search(url, 1, spec)
    for value in (0.5, 0.6, 0.605, 0.609, 0.7, 0.1, 0.705):
        assert searching.left(search.trials, spec)
        run_one(search, spec, value)
    assert budget.fruitless(search.trials, spec.tolerance) == 2
    run_one(search, spec, prune=True)
    assert searching.left(search.trials, spec) == 0
    assert "3 trials in a row" in str(budget.ended_by(search.trials, spec))


def test_trial_above_the_latency_limit_is_neither_best_nor_a_new_best(url, run_one):
    spec = StudySpec(latency_ms=10, patience=2)
    search = searching.open_search(url, 1, spec)
    run_one(search, spec, 0.9, latency_ms=10.5)
    assert searching.best(search.trials) is None
    assert "keeps the latency limit of 10 ms; the fastest takes 10.5 ms" in searching.why_no_best(
        search.trials, spec
    )
    run_one(search, spec, 0.6, latency_ms=10.0)
    run_one(search, spec, 0.8, latency_ms=11)
    best = searching.best(search.trials)
    assert best is not None
    assert best.value == 0.6
    assert budget.fruitless(search.trials, 0.0) == 1
    records = queries.records(search)
    assert [record.within_limits for record in records] == [False, True, False]
    assert study_trials.best_number(records) == best.number
    axes = Figure().subplots()
    plots.draw_curves(axes, records, "F1")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["trial 2, the best"]
    plots.draw_history(axes := Figure().subplots(), records, "F1")
    shown = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert shown == {"trial": [[1, 0.9], [2, 0.6], [3, 0.8]], "best so far": [[2, 0.6]]}


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_samplers_learn_the_latency_limit(url, sampler, found):
    """σ above 0.05 is slow here and scores higher: who knows the limit looks below it."""
    fast = {}
    for number, limit in enumerate((10, None)):
        spec = StudySpec(trials=24, latency_ms=limit, sampler=sampler, **SMALL)
        search = searching.open_search(url, number, spec)
        while searching.left(search.trials, spec):
            trial = searching.ask(search, spec)
            std = trial.params["noise_std"]
            searching.note_result(trial, spec, found(std, 20.0 if std > 0.05 else 5.0))
            search.tell(trial, std)
        fast[limit] = sum(trial.params["noise_std"] <= 0.05 for trial in search.trials[8:])
    assert fast[10] >= fast[None] + 4


def test_configuration_asked_for_by_hand_is_tried_next_and_fills_up_by_the_sampler(url, run_one):
    spec = StudySpec(**SMALL)
    search = searching.open_search(url, 1, spec)
    run_one(search, spec)
    searching.enqueue(url, 1, spec, read_wish(spec, {"noise_std": 0.2, "layers": (2,)}))
    trial = run_one(search, spec)
    assert (trial.params["noise_std"], trial.params["layers"]) == (0.2, "2")
    assert trial.params["adaptor_depth"] in (0, 1)
    assert trial.user_attrs[ORIGIN] == BY_HAND


def test_paper_settings_are_tried_even_where_somebody_asked_before_the_study_began(url, run_one):
    spec = StudySpec()
    searching.enqueue(url, 1, spec, {"noise_std": 0.2})
    search = searching.open_search(url, 1, spec)
    assert run_one(search, spec).params["noise_std"] == 0.2
    assert run_one(searching.open_search(url, 1, spec), spec).params == searching.PAPER


@pytest.mark.parametrize(
    ("wanted", "rule"),
    [
        ({}, "give at least one of noise_std, layers, adaptor_depth"),
        ({"margin": 1}, "'margin' is not searched.*noise_std, layers, adaptor_depth.*clone"),
        ({"noise_std": 0.9}, r"noise_std = 0\.9 lies outside.*0\.005\.\.0\.5.*clone"),
        ({"layers": "1"}, r"layers = 1 lies outside.*2, 2\+3"),
        ({"adaptor_depth": "1"}, "adaptor_depth = 1 lies outside.*0, 1"),
        ({"noise_std": "much"}, "noise_std = much lies outside"),
    ],
)
def test_configuration_outside_the_space_is_refused(wanted, rule):
    with pytest.raises(BadSpec, match=rule):
        read_wish(StudySpec(**SMALL), wanted)


def test_wished_values_take_the_types_of_the_space():
    spec = StudySpec(knobs={"members": {"low": 1, "high": 8}, "adaptor_residual": (False, True)})
    wish = read_wish(spec, {"members": 4.0, "adaptor_residual": 1})
    assert (type(wish["members"]), wish["adaptor_residual"]) == (int, True)


def test_study_that_follows_another_starts_from_its_trials_inside_the_space(url, run_to_the_end):
    wide = StudySpec(trials=12, knobs={"members": (1, 8)}, **SMALL)
    old = run_to_the_end(url, wide)
    narrow = StudySpec(
        trials=4, noise_std=(0.005, 0.1), follows=1, **SMALL
    )  # members fixed at the engine's 8
    inside = [
        trial.number
        for trial in old.trials
        if trial.params["noise_std"] <= 0.1 and trial.params["members"] == 8
    ]
    for _ in range(2):  # opening it again takes nothing over twice
        search = searching.open_search(url, 2, narrow)
    known = [trial for trial in search.trials if FROM_STUDY in trial.user_attrs]
    assert [trial.user_attrs[FROM_TRIAL] for trial in known] == inside
    assert 0 < len(inside) < 12
    assert [trial.value for trial in known] == [old.trials[number].value for number in inside]
    assert searching.left(search.trials, narrow) == 4
    run_to_the_end(url, narrow, study_id=2, value=0.01)
    assert searching.counted(search.trials) == 4
    best = searching.best(search.trials)
    assert best is not None
    assert best.value == 0.01  # only what the study ran itself can become its model
    assert budget.seconds_searched(search.trials) < 60


def test_trial_that_is_older_than_a_setting_is_taken_over_with_its_default():
    config = SimpleNetConfig(noise_std=0.05, layers=(2,), adaptor_depth=0).to_json()
    del config["mirror"]
    trial = optuna.trial.create_trial(value=0.5, user_attrs={"config": config})
    known = {"noise_std": 0.05, "layers": "2", "adaptor_depth": 0}
    assert taken_over(trial, StudySpec(**SMALL)) == known
    assert taken_over(trial, StudySpec(**SMALL, knobs={"mirror": ("none", "both")})) == known | {
        "mirror": "none"
    }


def test_study_that_follows_a_follower_knows_where_trials_come_from(url, run_to_the_end):
    spec = StudySpec(trials=2, **SMALL)
    run_to_the_end(url, spec)
    run_to_the_end(url, StudySpec(trials=2, follows=1, **SMALL), study_id=2)
    third = searching.open_search(url, 3, StudySpec(trials=2, follows=2, **SMALL))
    homes = [
        (trial.user_attrs[FROM_STUDY], trial.user_attrs[FROM_TRIAL])
        for trial in third.trials
        if FROM_STUDY in trial.user_attrs
    ]
    assert len(homes) == len(set(homes)) == 4
    assert [study for study, _ in homes] == [1, 1, 2, 2]


def test_latency_limit_of_the_follower_holds_for_what_it_takes_over(url, run_to_the_end):
    run_to_the_end(url, StudySpec(trials=3, **SMALL), latency_ms=12.0)
    follower = searching.open_search(url, 2, StudySpec(follows=1, latency_ms=10, **SMALL))
    known = [trial for trial in follower.trials if FROM_STUDY in trial.user_attrs]
    assert [trial.constraints for trial in known] == [{searching.LATENCY: 2.0}] * 3


def test_study_that_follows_one_without_trials_begins_like_any_other(url):
    spec = StudySpec(follows=7)
    search = searching.open_search(url, 8, spec)
    assert searching.ask(search, spec).params == searching.PAPER


def test_trial_of_several_trainings_has_their_mean_and_spread():
    result = TrialResult(
        values=(0.5, 0.7),
        head=None,
        calibration=None,
        figures=None,
        validation_scores=None,
        latency_ms=1.0,
        seconds=1.0,
    )
    assert (result.value, result.spread) == (pytest.approx(0.6), pytest.approx(0.1414, abs=1e-4))


def test_several_backbones_are_searched_as_one_parameter(url, run_to_the_end):
    spec = StudySpec(trials=12, sampler="random", backbones=("drawnet", "resnet18"))
    search = run_to_the_end(url, spec)
    assert {trial.params["backbone"] for trial in search.trials} == {"drawnet", "resnet18"}


def test_every_range_of_a_knob_can_be_searched(url, run_to_the_end):
    knobs = {name: knob.range for name, knob in KNOBS.items() if knob.range is not None}
    spec = StudySpec(trials=3, sampler="random", knobs=knobs)
    for trial in run_to_the_end(url, spec).trials:
        for name, values in knobs.items():
            assert isinstance(values, Range)
            assert trial.params[name] in values
