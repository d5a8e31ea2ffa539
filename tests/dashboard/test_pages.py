"""The pages over a real installation: a dataset, a completed study, its champion."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file
from streamlit.testing.v1 import AppTest

from storage import events, models
from storage.records import Study, StudyState, Wanted
from storage.workspace import Workspace, open_workspace
from tuning.commands import launch_study
from tuning.spec import StudySpec
from tuning.worker import run_worker

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
    _button(app, "Start the study").click().run()
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


def test_heatmaps_of_a_model_that_crops_say_what_it_never_sees(page: Page, waiting: Workspace) -> None:
    spec = StudySpec(trials=1, epochs=1, height=64, width=64, layers=((2, 3),), resize="crop")
    study = launch_study(waiting, "parts", spec)
    run_worker(waiting, worker_id="here", stop=threading.Event(), study_id=study.id)
    app = _clean(page("views/heatmaps.py", dataset="parts"))
    assert any("23 % of the picture, is cut away" in caption.value for caption in app.caption)


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
    _button(app, "Start the study").click().run()
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
    assert app.get("progress")[0].proto.text == "trial 7 of 20, best 0.940"
    _button(app, "Pause").click().run()
    assert _studies(waiting)[0].wanted is Wanted.PAUSE
    assert any(button.label == "Resume" for button in app.button)


def test_completed_study_shows_trials_and_the_way_to_its_model(page: Page, studied_home: Path) -> None:
    app = _clean(page("views/studies.py", study=1))
    trials = app.dataframe[0].value
    assert list(trials["trial"]) == [2, 1]
    assert trials["run"].str.contains("/#/runs/").all()
    assert trials["note"].iloc[-1] == "the paper's settings"
    assert "became model version 1 (champion)" in _html(app)


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


def test_heatmaps_show_picture_heatmap_and_summary(page: Page, studied_home: Path) -> None:
    app = _clean(page("views/heatmaps.py", dataset="parts"))
    assert "10 normal pictures" in _html(app)
    assert [image.proto.imgs[0].caption for image in app.image][:2] == ["Heatmap", "Original"]
    assert any(button.label == "Next" for button in app.button)


def test_next_picture_and_its_address(page: Page, studied_home: Path) -> None:
    app = _clean(page("views/heatmaps.py", dataset="parts"))
    first = app.subheader[0].value
    _button(app, "Next").click().run()
    second = app.subheader[0].value
    assert second != first
    assert "2 of 30" in _html(app)
    same = _clean(page("views/heatmaps.py", dataset="parts", image=app.query_params["image"]))
    assert same.subheader[0].value == second


def test_filters_leave_what_they_name(page: Page, studied_home: Path) -> None:
    app = _clean(page("views/heatmaps.py", dataset="parts"))
    kind = next(box for box in app.selectbox if box.label == "Defect type")
    kind.set_value("scratch").run()
    assert "1 of 5" in _html(_clean(app))
    assert "test/scratch/" in app.subheader[0].value


def test_opacity_changes_the_heatmap_and_nothing_else(page: Page, studied_home: Path) -> None:
    app = _clean(page("views/heatmaps.py", dataset="parts"))
    before = [image.proto.imgs[0].url for image in app.image]
    next(slider for slider in app.slider if slider.label == "Heatmap opacity").set_value(0).run()
    after = [image.proto.imgs[0].url for image in app.image]
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_deleted_maps_are_computed_again(page: Page, studied_home: Path) -> None:
    import shutil

    shutil.rmtree(studied_home / "maps" / "parts")
    app = _clean(page("views/heatmaps.py", dataset="parts"))
    assert "30" in _html(app)
    assert len(list((studied_home / "maps" / "parts" / "1").glob("*.npz"))) == 30


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
    app.text_input(key="why 1").set_value("the next is worse")
    _clean(_button(app, "Promote version 1").click().run())
    assert "Champion: version 1" in [block.value for block in app.subheader]


def test_page_never_shows_a_password() -> None:
    from dashboard.views.models import _without_password

    assert _without_password("postgresql://me:secret@db/x") == "postgresql://me:PASSWORD@db/x"
    assert _without_password("sqlite:////home/me/mlflow.db") == "sqlite:////home/me/mlflow.db"


def test_system_page_lists_queue_disk_and_versions(page: Page, waiting: Workspace) -> None:
    launch_study(waiting, "parts", StudySpec(trials=1), name="morning study")
    app = _clean(page("views/system.py"))
    shown = _html(app)
    assert "Pictures and masks" in shown
    assert "mlflow" in shown
    assert any("morning study" in caption.value for caption in app.caption)
    assert "No worker is running" in app.warning[0].value
