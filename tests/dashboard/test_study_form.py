"""The form for a new study and the buttons on one that exists, through Streamlit's own test of pages."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from storage import datasets, studies
from storage.records import StudyState, Wanted, now
from storage.workspace import Workspace, open_workspace
from tuning import search as searching
from tuning import steering
from tuning.commands import ingest_folder, launch_study, want
from tuning.knobs import KNOBS, SEARCHED
from tuning.presets import PRESETS
from tuning.spec import Pruner, Sampler, StudySpec

Page = Callable[..., AppTest]


def clean(app: AppTest) -> AppTest:
    assert not app.exception
    assert [error.value for error in app.error] == []
    return app


def named(elements, label):
    return next(element for element in elements if element.label == label)


def press(app, label):
    named(app.button, label).click().run()
    assert not app.exception
    return app


@pytest.fixture
def workspace(home: Path, make_folder) -> Workspace:
    """A dataset `parts` with defects and masks, and nothing that runs."""
    opened = open_workspace()
    ingest_folder(opened, make_folder(defects={"scratch": 4, "dent": 4}), "parts")
    return opened


@pytest.fixture
def form(page: Page, workspace) -> AppTest:
    """The form for a new study of `parts`."""
    return clean(page("views/studies.py", new=1, dataset="parts"))


def launched(workspace):
    """The specification of the latest study."""
    with workspace.session() as session:
        return studies.list_studies(session)[0].spec


def row(workspace, study_id):
    with workspace.session() as session:
        return studies.get_study(session, study_id)


def test_presets_come_first_each_with_its_time_here(form):
    radio = form.radio[0]
    assert radio.options == ["Quick", "Standard", "Thorough"]
    captions = list(radio.proto.captions)
    for preset, caption in zip(PRESETS.values(), captions, strict=True):
        assert preset.about in caption
        assert "**About " in caption
    assert any("on this machine: features" in caption.value for caption in form.caption)


def test_preset_fills_the_fields_that_are_folded(form, workspace):
    form.radio[0].set_value("thorough").run()
    assert named(form.number_input, "Trials").value == 60
    assert named(form.number_input, "Seeds per trial").value == 3
    press(form, "Start the study")
    spec = launched(workspace)
    assert (spec["trials"], spec["patience"], spec["seeds"]) == (60, 25, 3)
    assert spec["knobs"]["patch_size"] == [1, 3, 5]


def test_weighted_mean_asks_for_the_weights(form, workspace):
    named(form.selectbox, "Objective").set_value("weighted mean").run()
    named(form.number_input, "Weight of Image AUROC").set_value(70.0)
    named(form.number_input, "Weight of AUPRO").set_value(30.0)
    for other in ("Average precision", "F1"):
        named(form.number_input, f"Weight of {other}").set_value(0.0)
    form.run()
    press(form, "Start the study")
    assert launched(workspace)["objective"] == {"image_auroc": 70.0, "aupro": 30.0}


def test_any_setting_is_searched_with_its_range_or_values_and_says_what_it_means(form, workspace):
    box = named(form.multiselect, "More settings to search")
    assert len(box.options) == len(KNOBS)
    box.set_value(["adaptor_lr", "patch_size", "members"]).run()
    shown = [caption.value for caption in form.caption]
    for name in ("adaptor_lr", "patch_size", "members"):
        assert KNOBS[name].meaning in shown
    assert SEARCHED["noise_std"].meaning in shown
    named(form.number_input, "Adaptor lr, from").set_value(0.0002)
    named(form.selectbox, "Adaptor lr, scale").set_value("linear")
    named(form.multiselect, "Patch size, values").set_value([1, 3])
    named(form.number_input, "Members, to").set_value(4)
    form.run()
    press(form, "Start the study")
    assert launched(workspace)["knobs"] == {
        "adaptor_lr": {"low": 0.0002, "high": 0.01, "log": False, "integer": False},
        "patch_size": [1, 3],
        "members": {"low": 1, "high": 4, "log": True, "integer": True},
    }


def test_slip_in_one_field_takes_nothing_from_the_others(form, workspace):
    named(form.multiselect, "More settings to search").set_value(["adaptor_lr", "patch_size"]).run()
    named(form.multiselect, "Patch size, values").set_value([1, 3])
    named(form.selectbox, "Sampler").set_value(Sampler.GP)
    named(form.number_input, "Adaptor lr, from").set_value(0.5)  # above its other end
    named(form.multiselect, "Layers").set_value(["2", "x"])
    form.run()
    assert "low end must not lie above" in form.error[0].value
    named(form.number_input, "Adaptor lr, from").set_value(0.0002).run()
    assert "Layers “x” are not numbers" in form.error[0].value
    clean(named(form.multiselect, "Layers").set_value(["2"]).run())
    press(form, "Start the study")
    spec = launched(workspace)
    assert (spec["layers"], spec["sampler"], spec["knobs"]["patch_size"]) == ([[2]], "gp", [1, 3])
    assert spec["knobs"]["adaptor_lr"]["low"] == 0.0002


def test_budget_sampler_pruner_and_limits_are_sent(form, workspace):
    named(form.number_input, "Trials").set_value(None)
    named(form.number_input, "Minutes").set_value(10.0)
    named(form.number_input, "Patience, trials").set_value(9).run()
    named(form.number_input, "A new best is better by more than").set_value(0.01)
    named(form.selectbox, "Sampler").set_value(Sampler.GP)
    named(form.selectbox, "Pruner").set_value(Pruner.HYPERBAND)
    named(form.number_input, "Latency limit, ms").set_value(40.0)
    named(form.number_input, "Priority").set_value(2)
    form.run()
    press(form, "Start the study")
    spec = launched(workspace)
    assert (spec["trials"], spec["minutes"], spec["patience"], spec["tolerance"]) == (None, 10.0, 9, 0.01)
    assert (spec["sampler"], spec["pruner"], spec["latency_ms"], spec["priority"]) == (
        "gp",
        "hyperband",
        40.0,
        2,
    )


def test_what_can_not_work_is_said_at_once_and_starts_nothing(form, workspace):
    named(form.selectbox, "Sampler").set_value(Sampler.CMAES).run()
    assert "CMA-ES learns from ranges of numbers and needs two" in form.error[0].value
    assert named(form.button, "Start the study").disabled
    named(form.selectbox, "Sampler").set_value(Sampler.TPE).run()
    assert not named(clean(form).button, "Start the study").disabled


def test_several_backbones_are_chosen_with_the_layers_that_they_share(form, workspace, tiny_weights):
    named(form.multiselect, "Backbone").set_value(["drawnet", "test_resnet"])
    named(form.text_input, "Weights file").set_value(str(tiny_weights)).run()
    press(clean(form), "Start the study")
    spec = launched(workspace)
    assert spec["backbones"] == ["drawnet", "test_resnet"]
    assert spec["layers"] == [[2], [3], [1, 2], [2, 3], [1, 2, 3]]


def test_page_says_that_sqlite_runs_one_trial_of_a_study_at_a_time(form):
    assert any("a study runs one trial at a time" in caption.value for caption in form.caption)


def test_other_size_is_measured_when_asked(form, workspace):
    named(form.multiselect, "Layers").set_value(["2"])
    named(form.number_input, "Height, pixels").set_value(64)
    named(form.number_input, "Width, pixels").set_value(64)
    form.run()
    assert not any("on this machine" in caption.value for caption in form.caption)
    press(form, "How long will it take?")
    assert any("on this machine" in caption.value for caption in form.caption)


def test_form_begins_with_the_settings_of_the_study_that_is_cloned(page, workspace):
    spec = StudySpec(trials=7, sampler="random", height=64, width=64, knobs={"loss": ("cross_entropy",)})
    study = launch_study(workspace, "parts", spec, name="night_shift")
    app = clean(page("views/studies.py", new=1, dataset="parts", like=study.id))
    assert not app.radio
    assert any("Begins with the settings of study “night" in caption.value for caption in app.caption)
    press(app, "Start the study")
    assert launched(workspace) == spec.to_json()
    gone = page("views/studies.py", new=1, dataset="parts", like=99)
    assert "no study with id 99" in gone.error[0].value


def test_waiting_study_is_paused_renamed_and_moved_up(page, workspace):
    launch_study(workspace, "parts", StudySpec(priority=1))
    study = launch_study(workspace, "parts", StudySpec(), name="first")
    app = clean(page("views/studies.py", study=study.id))
    press(app, "Move up")
    assert row(workspace, study.id).priority == 2
    named(app.text_input, "Name").set_value("plates at night")
    press(app, "Rename")
    assert row(workspace, study.id).name == "plates at night"
    assert app.title[0].value == "plates at night"
    press(app, "Pause")
    assert row(workspace, study.id).state is StudyState.PAUSED
    press(app, "Resume")
    assert row(workspace, study.id).state is StudyState.QUEUED
    assert not [button for button in app.button if button.label == "Archive"]


def test_configuration_is_enqueued_and_refused_outside_the_space(page, workspace):
    study = launch_study(workspace, "parts", StudySpec(trials=3))
    app = clean(page("views/studies.py", study=study.id))
    press(app, "Enqueue")
    assert "give at least one of noise_std" in app.error[0].value
    field = next(field for field in app.number_input if field.label.startswith("Noise std"))
    field.set_value(0.9)
    press(app, "Enqueue")
    assert "noise_std = 0.9 lies outside" in app.error[0].value
    next(field for field in app.number_input if field.label.startswith("Noise std")).set_value(0.1)
    press(app, "Enqueue")
    waiting = searching.trials_of(workspace.settings.optuna_url, study.id)
    assert [trial.system_attrs["fixed_params"] for trial in waiting] == [{"noise_std": 0.1}]
    assert row(workspace, study.id).spec["trials"] == 4


def ended(workspace):
    study = launch_study(workspace, "parts", StudySpec(trials=2))
    held = {"study_id": study.id, "worker_id": "w"}
    with workspace.session() as session:
        claimed = studies.claim(session, now=now(), lease_seconds=60, **held)
        studies.finish(
            session, attempt=claimed.attempt, state=StudyState.COMPLETED, error=None, now=now(), **held
        )
    return study


def test_ended_study_is_given_trials_and_waits_again(page, workspace):
    study = ended(workspace)
    app = clean(page("views/studies.py", study=study.id))
    named(app.number_input, "How many more").set_value(5)
    press(app, "Add trials")
    assert (row(workspace, study.id).state, row(workspace, study.id).spec["trials"]) == (StudyState.QUEUED, 5)


def test_ended_study_that_can_not_be_narrowed_says_why(page, workspace):
    app = clean(page("views/studies.py", study=ended(workspace).id))
    press(app, "Narrow")
    assert "narrowing needs 3" in app.error[0].value


def test_archived_study_leaves_the_list_and_comes_back(page, workspace):
    study = ended(workspace)
    app = clean(page("views/studies.py", study=study.id))
    press(app, "Archive")
    assert row(workspace, study.id).archived_at is not None
    shown = clean(page("views/studies.py"))
    assert not shown.get("progress")
    shown.toggle[0].set_value(True).run()
    assert len(shown.get("progress")) == 1
    app = clean(page("views/studies.py", study=study.id))
    press(app, "Bring back")
    assert row(workspace, study.id).archived_at is None


def test_cancelled_study_is_offered_no_trials(page, workspace):
    study = launch_study(workspace, "parts", StudySpec())
    want(workspace, study.id, Wanted.CANCEL)
    app = clean(page("views/studies.py", study=study.id))
    assert "Add trials" not in [button.label for button in app.button]
    steering.archive(workspace, study.id)


def test_study_of_a_former_version_and_from_the_trials_of_another(page, workspace, make_folder):
    with workspace.session() as session:
        (first,) = datasets.list_versions(session, "parts")
    other = launch_study(workspace, "parts", StudySpec(trials=3))
    ingest_folder(workspace, make_folder("more", train=30, defects={"scratch": 5}), "parts")
    app = clean(page("views/studies.py", new=1, dataset="parts", like=other.id))
    box = named(app.selectbox, "Version of the dataset")
    assert box.options == ["2", "1"]
    assert not [one for one in app.checkbox if one.label == "Start from its trials"], "other pictures"
    box.set_value(first).run()
    named(clean(app).checkbox, "Start from its trials").check().run()
    press(app, "Start the study")
    with workspace.session() as session:
        study = studies.list_studies(session)[0]
    assert (study.dataset_version_id, study.spec["follows"]) == (first.id, other.id)
