"""One study on its page: what runs where, its trials to choose from, what is folded, and errors in full."""

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.sections.mattering import SECTIONS
from engine.config import SimpleNetConfig
from storage import slots, studies, workers
from storage.records import Study, now
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tests.conftest import FolderFactory
from tuning import queries
from tuning import search as searching
from tuning.budget import reported
from tuning.commands import launch_study
from tuning.ingest import ingest_folder
from tuning.spec import StudySpec
from tuning.study_log import logged
from tuning.trial import trial_config

pytestmark = pytest.mark.slow

MANY = 30  # trials of a study made by hand


@pytest.fixture
def bare(home, make_folder) -> Workspace:
    """An installation with pictures and no worker."""
    workspace = open_workspace(Settings(home=home, device="cpu"))
    ingest_folder(workspace, make_folder(defects={"dent": 6}), "parts")
    return workspace


def _running(workspace: Workspace, **spec) -> Study:
    """A study that worker `w` has."""
    study = launch_study(workspace, "parts", StudySpec(**{"trials": 20, **spec}))
    with workspace.session() as session:
        workers.register_worker(
            session, worker_id="w", hostname="h", pid=1, device="cpu", threads=2, now=now()
        )
        studies.claim(session, worker_id="w", now=now(), lease_seconds=600)
    return study


def _clean(app: AppTest) -> AppTest:
    assert not app.exception, app.exception
    assert not app.error, [error.value for error in app.error]
    return app


def _captions(app: AppTest) -> str:
    return " ".join(caption.value for caption in app.caption)


def _bars(app: AppTest) -> list[str]:
    return [bar.proto.text for bar in app.get("progress")]


def test_every_running_trial_has_a_bar_with_its_worker_and_device(page, bare) -> None:
    study = _running(bare)
    with bare.session() as session:
        slot = slots.claim_slot(session, study_id=study.id, worker_id="w", limit=20)
        slot = slots.begin_trial(session, slot, 6)
        slots.beat_slot(session, slot, {"epoch": 3, "epochs": 10})
    bars = _bars(_clean(page("views/studies.py", study=study.id)))
    assert bars[1] == "trial 7: epoch 3 of 10 · worker w on cpu, 2 threads"


def test_follow_up_counts_its_trials_and_numbers_them_alike_everywhere(page, bare) -> None:
    """Trials that it took over have numbers, too: its first one is no "trial 1"."""
    url, spec = bare.settings.optuna_url, StudySpec(trials=20, follows=99)
    before = searching.open_search(url, 99, StudySpec(trials=3))
    for _ in range(3):
        trial = searching.ask(before, StudySpec(trials=3))
        trial.set_user_attr("config", trial_config(SimpleNetConfig(), trial.params).to_json())
        before.tell(trial, 0.5)
    study = _running(bare)
    search = searching.open_search(url, study.id, spec)
    trial = searching.ask(search, spec)
    with bare.session() as session:
        slot = slots.claim_slot(session, study_id=study.id, worker_id="w", limit=20)
        slots.begin_trial(session, slot, trial.number)
        told = {"phase": "training", **reported(search.get_trials(), spec)}
        studies.set_progress(session, study_id=study.id, worker_id="w", attempt=1, progress=told)
    app = _clean(page("views/studies.py", study=study.id))
    bars = _bars(app)
    assert bars[0].startswith("0 of 20 trials")
    assert bars[1].startswith("trial 4: ")
    assert list(app.dataframe[0].value["trial"]) == [4]


def test_study_without_a_value_says_when_the_first_comes(page, bare) -> None:
    study = _running(bare)
    app = _clean(page("views/studies.py", study=study.id))
    assert "The first values appear when the first trial is under way." in _captions(app)
    assert len(app.dataframe) == 0


def test_failed_trial_shows_its_whole_error(page, bare) -> None:
    study = _running(bare)
    text = "TrainingDiverged: the loss is nan\nat step 17. Lower σ."
    search = searching.open_search(bare.settings.optuna_url, study.id, StudySpec(trials=20))
    trial = searching.ask(search, StudySpec(trials=20))
    trial.set_user_attr(searching.ERROR, text)
    search.tell(trial, state=searching.TrialState.FAIL)
    app = _clean(page("views/studies.py", study=study.id))
    box = next(box for box in app.expander if "Trial 1 failed" in box.label)
    assert "the loss is nan" in box.label
    assert box.code[0].value == text


def test_one_chosen_trial_is_told_in_full_and_can_be_reproduced(page, studied_home) -> None:
    app = _clean(page("views/studies.py", study=1, trials="2"))
    assert "Trial 2" in " ".join(item.proto.body for item in app.get("html"))
    assert [button.label for button in app.button if button.label == "Reproduce"]
    assert app.query_params["trials"] in ("2", ["2"])


@pytest.mark.parametrize(
    ("chosen", "label"), [("1,2", "Compare 2 trials"), ("1", "Compare"), ("1,9,x", "Compare")]
)
def test_two_chosen_trials_can_be_compared(page, studied_home, chosen, label) -> None:
    app = _clean(page("views/studies.py", study=1, trials=chosen))
    (link,) = [one.proto for one in app.get("page_link") if one.proto.label.startswith("Compare")]
    assert link.label == label
    assert link.disabled == (label == "Compare")


def test_folded_sections_are_not_computed_and_open_ones_are(page, studied_home) -> None:
    closed = _clean(page("views/studies.py", study=1))
    titles = [title for title, *_ in SECTIONS]
    assert {box.label for box in closed.expander} >= set(titles)
    assert len(closed.get("plotly_chart")) == 2
    opened = _clean(page("views/studies.py", study=1, slices="true", timeline="true", parallel="true"))
    assert len(opened.get("plotly_chart")) == 5


def test_open_sections_say_what_they_lack(page, bare) -> None:
    study = _running(bare)
    every = {key: "true" for _, _, key, _ in SECTIONS}
    said = _captions(_clean(page("views/studies.py", study=study.id, **every)))
    assert "Importance needs at least 4 completed trials" in said
    assert "Nothing to compare yet" in said
    assert "differ in two settings" in said
    assert "No latency was measured yet" in said
    assert "No trial has begun yet" in said
    assert "No worker has logged anything" in said


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A home whose study has thirty completed trials, told to Optuna without training."""
    folder = tmp_path_factory.mktemp("many")
    workspace = open_workspace(Settings(home=folder / "home", device="cpu"))
    ingest_folder(workspace, FolderFactory(folder)(defects={"dent": 6}), "parts")
    spec = StudySpec(trials=MANY)
    study = launch_study(workspace, "parts", spec)
    search = searching.open_search(workspace.settings.optuna_url, study.id, spec)
    for number in range(MANY):
        trial = searching.ask(search, spec)
        trial.report(0.4, 1)
        trial.set_user_attr("latency_ms", 5.0 + number % 7)
        search.tell(trial, 1 - abs(trial.params["noise_std"] - 0.05))
    return workspace.settings.home


def test_importance_of_both_methods_and_everything_else_is_drawn(page, many, monkeypatch) -> None:
    monkeypatch.setenv("SIMPLENET_HOME", str(many))
    every = {key: "true" for _, _, key, _ in SECTIONS}
    for method in ("PED-ANOVA", "fANOVA"):
        app = _clean(page("views/studies.py", study=1, method=method, **every))
        assert len(app.get("plotly_chart")) == 2 + len(SECTIONS) - 1
        assert f"{method}: " in _captions(app)
        assert f"Of {MANY} completed trials" in _captions(app)


def test_importance_finds_the_setting_that_the_values_were_made_of(many) -> None:
    workspace = open_workspace(Settings(home=many, device="cpu"))
    with workspace.session() as session:
        study = studies.get_study(session, 1)
    for method in queries.Method:
        found = queries.study_importance(workspace, study, method)
        assert found.method is method
        assert next(iter(found.shares)) == "noise_std"
        assert sum(found.shares.values()) == pytest.approx(1)
        assert found.trials == MANY


def test_log_shows_its_end(page, bare, monkeypatch) -> None:
    import logging

    study = _running(bare)
    logging.getLogger("tuning").setLevel("INFO")
    with logged(bare, study.id, "w", "first"):
        for number in range(300):
            logging.getLogger("tuning.test").info("line %d", number)
    app = _clean(page("views/studies.py", study=study.id, log="true"))
    (shown,) = [code.value for code in app.code if "line" in code.value]
    assert shown.endswith("line 299")
    assert len(shown.splitlines()) == 200
    assert "[w on first]" not in shown, "there is one"
    assert "Written by w on first." in _captions(app)


def test_log_says_which_worker_on_which_machine_wrote_a_line(page, bare) -> None:
    import logging

    study = _running(bare)
    logging.getLogger("tuning").setLevel("INFO")
    for worker, machine in (("first-7-abc", "first"), ("b", "second")):
        with logged(bare, study.id, worker, machine):
            logging.getLogger("tuning.test").info("here is %s", machine)
    app = _clean(page("views/studies.py", study=study.id, log="true"))
    (shown,) = [code.value for code in app.code if "here is" in code.value]
    first, second = shown.splitlines()
    assert first.endswith("[first-7-abc] INFO here is first")
    assert second.endswith("[b on second] INFO here is second")
    assert "Written by b on second, first-7-abc." in _captions(app)
