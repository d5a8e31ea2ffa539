"""The pages over a real installation: a dataset, a completed study, its champion."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import streamlit as st
import timm
from safetensors.torch import save_file
from streamlit.testing.v1 import AppTest

from storage import api_keys, events, models
from storage.api_keys import key_digest
from storage.records import Study, StudyState, Wanted
from storage.workspace import Workspace, open_workspace
from tuning.commands import launch_study
from tuning.spec import StudySpec

Page = Callable[..., AppTest]


def _html(app: AppTest) -> str:
    return "\n".join(str(element.proto.body) for element in app.get("html"))


def _clean(app: AppTest) -> AppTest:
    assert not app.exception
    assert [error.value for error in app.error] == []
    return app


def _button(app: AppTest, label: str):  # type: ignore[no-untyped-def]  # streamlit does not export the class
    return next(button for button in app.button if button.label == label)


@pytest.fixture
def waiting(home: Path, make_folder: Callable[..., Path]) -> Workspace:
    """A dataset `parts` with defects and masks, and nothing that runs."""
    from tuning.commands import ingest_folder

    workspace = open_workspace()
    ingest_folder(workspace, make_folder(defects={"scratch": 4, "dent": 4}), "parts")
    return workspace


def _studies(workspace: Workspace) -> list[Study]:
    from storage import studies

    with workspace.session() as session:
        return studies.list_studies(session)


def test_home_shows_champion_with_interval_and_number_of_pictures(page: Page, studied_home: Path) -> None:
    app = _clean(page())
    assert app.subheader[0].value == "parts"
    shown = _html(app)
    assert "on 30 sealed test pictures" in shown
    assert "completed" in shown


def test_home_says_that_a_study_waits_without_worker(page: Page, waiting: Workspace) -> None:
    launch_study(waiting, "parts", StudySpec(trials=1))
    app = _clean(page())
    assert any("no worker is running" in text.value for text in app.markdown)


def test_datasets_page_counts_by_role_and_label(page: Page, waiting: Workspace) -> None:
    app = _clean(page("views/datasets.py", dataset="parts"))
    shown = _html(app)
    for role in ("Train", "Calibration", "Validation", "Test"):
        assert f">{role}</div>" in shown
    assert "4 normal, 4 anomalous" in shown


def test_dataset_of_normals_only_says_synthetic_validation(
    page: Page, home: Path, make_folder: Callable[..., Path]
) -> None:
    from tuning.commands import ingest_folder

    ingest_folder(open_workspace(), make_folder(train=40, flat=True), "parts")
    assert "synthetic validation" in _clean(page("views/datasets.py", dataset="parts")).info[0].value


def test_picture_of_the_address_is_shown_large(page: Page, waiting: Workspace) -> None:
    app = _clean(page("views/datasets.py", dataset="parts", image=1))
    assert any(button.label == "Close" for button in app.button)
    _button(app, "Close").click().run()
    assert "image" not in app.query_params


def test_unknown_picture_is_said_and_the_page_goes_on(page: Page, waiting: Workspace) -> None:
    app = page("views/datasets.py", dataset="parts", image=99999)
    assert "99999 is not in this version" in app.warning[0].value


@pytest.mark.parametrize("view", ["datasets", "heatmaps", "models"])
def test_unknown_dataset_names_the_nearest(page: Page, waiting: Workspace, view: str) -> None:
    app = page(f"views/{view}.py", dataset="part")
    assert "'part'" in app.error[0].value
    assert "parts" in app.error[0].value


def test_unknown_dataset_leaves_the_way_to_another(page: Page, waiting: Workspace) -> None:
    app = page("views/datasets.py", dataset="nosuch")
    assert "'nosuch'" in app.error[0].value
    box = next(box for box in app.selectbox if box.label == "Dataset")
    assert (box.value, box.options) == (None, ["parts"])
    assert "New dataset" in [button.label for button in app.button]
    app = _clean(box.set_value("parts").run())
    assert app.query_params["dataset"] in ("parts", ["parts"])
    assert "version 1" in _html(app)


@pytest.mark.parametrize("asked", ["99", "0", "new", "²"])
def test_unknown_version_of_the_address_is_said(page: Page, waiting: Workspace, asked: str) -> None:
    app = _clean(page("views/datasets.py", dataset="parts", version=asked))
    assert [warning.value for warning in app.warning] == [f"There is no version {asked}; this is version 1."]


def test_former_version_of_the_address_is_sent_to_where_it_is_shown(
    page: Page, waiting: Workspace, make_folder: Callable[..., Path]
) -> None:
    from tuning.commands import ingest_folder

    ingest_folder(waiting, make_folder("more", train=12, flat=True, size=48), "parts")
    assert not _clean(page("views/datasets.py", dataset="parts", version=2)).warning
    said = [one.value for one in _clean(page("views/datasets.py", dataset="parts", version=1)).info]
    assert said == ["This is version 2, the latest. Version 1 is compared and exported under Versions."]


@pytest.mark.parametrize("view", ["heatmaps", "models"])
def test_dataset_without_champion_offers_a_study(page: Page, waiting: Workspace, view: str) -> None:
    app = _clean(page(f"views/{view}.py", dataset="parts"))
    assert [button.label for button in app.button] == ["New study"]


def test_form_starts_the_study_that_was_asked_for(page: Page, waiting: Workspace) -> None:
    app = _clean(page("views/studies.py", new=1, dataset="parts"))
    next(field for field in app.number_input if field.label == "Trials").set_value(5)
    app.select_slider[0].set_value((0.01, 0.2))
    _button(app, "Start the study").click().run()
    spec = _studies(waiting)[0].spec
    assert (spec["trials"], spec["noise_std"]) == (5, [0.01, 0.2])
    assert app.query_params["study"] == str(_studies(waiting)[0].id)


def test_form_says_which_backbone_will_be_used(page: Page, waiting: Workspace) -> None:
    app = _clean(page("views/studies.py", new=1, dataset="parts"))
    said = next(caption.value for caption in app.caption if "Backbone: " in caption.value)
    assert "drawnet from the product itself" in said
    assert "licence bsd-3-clause" in said
    assert "wide_resnet50_2" in said  # what a stronger one would be, and what it needs
    assert "SIMPLENET_WEIGHTS" in said


def test_form_answers_another_choice_of_backbone_at_once_and_sends_it(
    page: Page, waiting: Workspace, tiny_weights: Path
) -> None:
    app = _clean(page("views/studies.py", new=1, dataset="parts"))
    choice = next(box for box in app.multiselect if box.label == "Backbone")
    assert any("drawnet" in option and "bsd-3-clause" in option for option in choice.options)
    assert any("resnet18" in option and "from the hub" in option for option in choice.options)
    next(field for field in app.text_input if field.label == "Weights file").set_value(
        str(tiny_weights)
    ).run()
    said = next(caption.value for caption in app.caption if "Backbone: " in caption.value)
    assert said == "Backbone: test_resnet from file test_resnet.safetensors, licence unknown."
    _button(app, "Start the study").click().run()
    assert _studies(waiting)[0].spec["weights"] == str(tiny_weights)


def test_weights_file_that_is_not_there_is_refused_by_the_form(page: Page, waiting: Workspace) -> None:
    app = _clean(page("views/studies.py", new=1, dataset="parts"))
    next(field for field in app.text_input if field.label == "Weights file").set_value(
        "/no/resnet18.safetensors"
    ).run()
    assert "'/no/resnet18.safetensors' does not exist" in app.error[0].value
    assert _button(app, "Start the study").disabled
    assert _studies(waiting) == []


def test_study_says_on_which_backbone_it_ran(page: Page, studied_home: Path) -> None:
    app = _clean(page("views/studies.py", study=1))
    said = next(caption.value for caption in app.caption if "Backbone: " in caption.value)
    assert "drawnet from the product itself" in said
    assert "wide_resnet50_2" in said


def test_form_takes_layers_that_are_typed_and_the_way_to_resize(page: Page, waiting: Workspace) -> None:
    app = _clean(page("views/studies.py", new=1, dataset="parts"))
    layers = next(box for box in app.multiselect if box.label == "Layers")
    assert layers.options == ["2", "3", "1+2", "2+3", "1+2+3"]
    layers.set_value(["2+3", "1,3"])
    next(box for box in app.selectbox if box.label == "Resize").set_value("letterbox")
    _button(app, "Start the study").click().run()
    spec = _studies(waiting)[0].spec
    assert (spec["layers"], spec["resize"]) == ([[2, 3], [1, 3]], "letterbox")


def test_form_says_what_is_wrong_with_typed_layers(page: Page, waiting: Workspace) -> None:
    app = _clean(page("views/studies.py", new=1, dataset="parts"))
    next(box for box in app.multiselect if box.label == "Layers").set_value(["all"])
    _button(app, "Start the study").click().run()
    assert "“all” are not numbers" in app.error[0].value
    assert not _studies(waiting)


def test_form_offers_the_blocks_of_a_transformer(page: Page, waiting: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "test_vit.random.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), file)
    app = _clean(page("views/studies.py", new=1, dataset="parts"))
    next(box for box in app.text_input if box.label == "Weights file").set_value(str(file)).run()
    assert next(box for box in app.multiselect if box.label == "Layers").value == [
        "3",
        "4",
        "1+3",
        "3+4",
        "1+3+4",
    ]
    _button(app, "Start the study").click().run()
    assert _studies(waiting)[0].spec["layers"] == [[3], [4], [1, 3], [3, 4], [1, 3, 4]]


def test_form_without_backbone_says_why_and_starts_nothing(
    page: Page, bare_home: Path, make_folder: Callable[..., Path]
) -> None:
    from tuning.commands import ingest_folder

    workspace = open_workspace()
    ingest_folder(workspace, make_folder(defects={"scratch": 4}), "parts")
    app = page("views/studies.py", new=1, dataset="parts")
    reason = app.error[0].value
    assert "SIMPLENET_WEIGHTS" in reason
    assert "hub" in reason
    assert _button(app, "Start the study").disabled
    assert _studies(workspace) == []


def test_waiting_study_can_be_cancelled_from_its_page(page: Page, waiting: Workspace) -> None:
    study = launch_study(waiting, "parts", StudySpec(trials=1))
    app = _clean(page("views/studies.py", study=study.id))
    assert "No worker is running" in app.warning[0].value
    _button(app, "Cancel the study").click().run()
    assert _studies(waiting)[0].state is StudyState.CANCELLED


def test_running_study_can_be_paused_and_shows_its_progress(page: Page, waiting: Workspace) -> None:
    from storage import studies
    from storage.records import now

    study = launch_study(waiting, "parts", StudySpec(trials=20))
    with waiting.session() as session:
        claimed = studies.claim(session, worker_id="w", now=now(), lease_seconds=600)
        assert claimed is not None
        progress = {"phase": "training", "trial": 7, "epoch": 3, "epochs": 10, "best": 0.94}
        studies.set_progress(
            session, study_id=study.id, worker_id="w", attempt=claimed.attempt, progress=progress
        )
    app = _clean(page("views/studies.py", study=study.id))
    assert app.get("progress")[0].proto.text.startswith("6 of 20 trials, best 0.940")
    _button(app, "Pause").click().run()
    assert _studies(waiting)[0].wanted is Wanted.PAUSE
    assert any(button.label == "Resume" for button in app.button)


def test_study_without_a_known_end_shows_words_instead_of_an_empty_bar(
    page: Page, waiting: Workspace
) -> None:
    from storage import studies
    from storage.records import now

    study = launch_study(waiting, "parts", StudySpec(trials=None, patience=10))
    with waiting.session() as session:
        assert studies.claim(session, worker_id="w", now=now(), lease_seconds=600) is not None
        progress = {"phase": "training", "trial": 13, "ended": 12, "fruitless": 3}
        studies.set_progress(session, study_id=study.id, worker_id="w", attempt=1, progress=progress)
    for parameters in ({"study": study.id}, {}):
        app = _clean(page("views/studies.py", **parameters))
        assert len(app.get("progress")) == 0
        assert any("3 of 10 without improvement" in line.value for line in app.markdown)


def test_completed_study_shows_trials_and_the_way_to_its_model(page: Page, studied_home: Path) -> None:
    app = _clean(page("views/studies.py", study=1))
    trials = app.dataframe[0].value
    assert list(trials["trial"]) == [2, 1]
    assert trials["run"].str.contains("/#/runs/").all()
    assert trials["note"].iloc[-1] == "the paper's settings"
    assert "became model version 1 (champion)" in _html(app)


def test_home_says_what_the_doctor_found_and_what_waits_until_it_is_settled(
    page: Page, waiting: Workspace
) -> None:
    from storage import checkups, datasets, edits
    from storage.records import Edit, now

    with waiting.session() as session:
        latest = datasets.latest_version(session, "parts")
        image = datasets.list_images(session, latest.id)[0]
        finding = {
            "kind": "copies",
            "severity": "serious",
            "title": "a copy",
            "why": "It counts twice.",
            "remedy": "Take it out.",
            "count": 1,
            "pictures": [{"pixel_digest": image.pixel_digest}],
            "names": [],
        }
        checkups.put_checkup(session, latest.id, {"findings": [finding]}, now=now())
        edits.put_edits(
            session, "parts", [Edit(pixel_digest=image.pixel_digest, remove=True)], who="a", now=now()
        )
    said = [block.value for block in _clean(page()).markdown]
    assert "**2 things need you**" in said
    assert "The doctor found 1 serious thing in parts." in said
    assert "1 correction of parts waits to become its next version." in said

    with waiting.session() as session:
        checkups.accept_finding(session, "parts", "copies", image.pixel_digest, who="a", now=now())
        edits.discard_edits(session, "parts")
    assert not any("need" in block.value for block in _clean(page()).markdown)


def test_failed_study_shows_its_error(page: Page, waiting: Workspace) -> None:
    from storage import studies
    from storage.records import now

    study = launch_study(waiting, "parts", StudySpec(trials=2))
    with waiting.session() as session:
        claimed = studies.claim(session, worker_id="w", now=now(), lease_seconds=600)
        assert claimed is not None
        studies.finish(
            session,
            study_id=study.id,
            worker_id="w",
            attempt=claimed.attempt,
            state=StudyState.FAILED,
            error="None of the 2 trials completed.",
            now=now(),
        )
    app = page("views/studies.py", study=study.id)
    assert [error.value for error in app.error] == ["None of the 2 trials completed."]


def test_model_page_tells_figures_threshold_lineage_and_how_to_call(page: Page, studied_home: Path) -> None:
    app = _clean(page("views/models.py", dataset="parts"))
    shown = _html(app)
    for said in (
        "on 30 sealed test pictures",
        "Threshold",
        "Optimism gap",
        "Backbone",
        "drawnet, the product itself",
        "bsd-3-clause",
        "trial",
    ):
        assert said in shown
    code = "\n".join(block.value for block in app.code)
    assert 'mlflow.pyfunc.load_model("models:/parts@champion")' in code
    assert "mlflow models serve --env-manager local" in code
    assert "study policy" in list(app.dataframe[-1].value["who"])


def test_champion_is_withdrawn_with_a_reason_and_can_be_promoted_again(
    page: Page, own_studied_home: Path
) -> None:
    app = _clean(page("views/models.py", dataset="parts"))
    assert any("no champion until one is promoted" in block.value for block in app.markdown)
    _button(app, "Withdraw version 1").click().run()
    assert [error.value for error in app.error] == [
        "The reason is empty; a withdrawal is recorded with one. Write a few words."
    ]
    app.text_input(key="why withdraw").set_value("blind to dents")
    _clean(_button(app, "Withdraw version 1").click().run())
    assert "Champion: version 1" not in [block.value for block in app.subheader]
    assert any("parts has no champion" in block.value for block in app.info)
    workspace = open_workspace()
    with workspace.session() as session:
        assert models.champion(session, "parts") is None
        event = events.list_events(session, "parts")[0]
    assert (event.who, event.what) == ("dashboard", "withdrew the champion, model version 1: blind to dents")
    _clean(_button(app, "Look and promote").click().run())
    _button(app, "Promote version 1").click().run()
    assert [error.value for error in app.error] == [
        "The reason is empty; a promotion is recorded with one. Write a few words."
    ]
    app.text_input(key="why 1").set_value("the next is worse")
    _clean(_button(app, "Promote version 1").click().run())
    assert "Champion: version 1" in [block.value for block in app.subheader]


def test_page_never_shows_a_password() -> None:
    from dashboard.sections.endpoint import without_password

    assert without_password("postgresql://me:secret@db/x") == "postgresql://me:PASSWORD@db/x"
    assert without_password("sqlite:////home/me/mlflow.db") == "sqlite:////home/me/mlflow.db"


def test_system_page_lists_queue_disk_and_versions(page: Page, waiting: Workspace) -> None:
    launch_study(waiting, "parts", StudySpec(trials=1), name="morning study")
    app = _clean(page("views/system.py"))
    shown = _html(app)
    assert "Pictures and masks" in shown
    assert "mlflow" in shown
    assert str(waiting.blobs.where) in shown
    assert any("morning study" in caption.value for caption in app.caption)
    assert "No worker is running" in app.warning[0].value


def test_key_is_made_shown_once_and_revoked_on_the_system_page(page: Page, home: Path) -> None:
    app = _clean(page("views/system.py"))
    assert any("No key has been made yet." in caption.value for caption in app.caption)
    _button(app, "Make the key").click().run()
    assert "A key can't be named ''" in app.error[0].value
    app.text_input(key="name of a key").set_value("line 3")
    _clean(_button(app, "Make the key").click().run())
    assert any("Copy it now" in block.value for block in app.success)
    key = next(block.value for block in app.code if block.value.startswith("sn_"))
    with open_workspace().session() as session:
        assert key_digest(key) in api_keys.active_keys(session)
    _clean(_button(app, "I have copied it").click().run())
    assert not any(key in block.value for block in app.code)
    assert list(_keys_shown(app)["state"]) == ["in use"]
    app.text_input(key="name of a key").set_value("line 3")
    _button(app, "Make the key").click().run()
    assert "a key named 'line 3' already" in app.error[0].value
    _clean(_button(app, "Revoke the key").click().run())
    assert _keys_shown(app)["state"][0].startswith("revoked ")
    with open_workspace().session() as session:
        assert api_keys.active_keys(session) == {}


def _keys_shown(app: AppTest) -> pd.DataFrame:
    return next(frame.value for frame in app.dataframe if "begins with" in frame.value)


def test_model_page_says_that_the_model_server_does_not_run_and_how_to_start_it(
    page: Page, studied_home: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("SIMPLENET_SERVE_PORT", str(free_port))
    app = _clean(page("views/models.py", dataset="parts"))
    assert any("`simplenet serve`" in info.value and str(free_port) in info.value for info in app.info)
    code = "\n".join(block.value for block in app.code)
    assert f"curl http://127.0.0.1:{free_port}/parts/predict" in code
    assert "Authorization" not in code
    monkeypatch.setenv("SIMPLENET_SERVE_HOST", "0.0.0.0")
    st.cache_resource.clear()
    code = "\n".join(block.value for block in _clean(page("views/models.py", dataset="parts")).code)
    assert "Authorization: Bearer $SIMPLENET_KEY" in code
