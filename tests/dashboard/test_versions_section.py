"""The section Versions of the page Datasets: compared, named, exported, deleted and restored."""

import contextlib
import csv
import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from streamlit.testing.v1 import AppTest

from storage import datasets, events, studies
from storage.records import DatasetVersion, Edit, ImageRecord, Label
from storage.workspace import Workspace, open_workspace
from tuning import corrections, exports, jobs
from tuning.commands import ingest_folder, launch_study
from tuning.jobs import JobState
from tuning.spec import StudySpec
from tuning.versions import save_edits

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120

Page = Callable[..., AppTest]


def _open(page: Page) -> AppTest:
    return page("views/datasets.py", dataset="parts", section="Versions")


def _clean(app: AppTest) -> AppTest:
    assert not app.exception
    assert [error.value for error in app.error] == []
    return app


def _button(app: AppTest, label: str):  # type: ignore[no-untyped-def]  # streamlit does not export the class
    return next(button for button in app.button if button.label == label)


def _html(app: AppTest) -> str:
    return "\n".join(str(element.proto.body) for element in app.get("html"))


def _said(app: AppTest) -> list[str]:
    return [block.value for block in app.markdown]


@pytest.fixture
def workspace(home: Path, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A dataset `parts` of one version."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for jobs
    opened = open_workspace()
    ingest_folder(opened, make_folder(defects={"scratch": 4, "dent": 4}), "parts")
    return opened


@pytest.fixture
def second(workspace: Workspace) -> DatasetVersion:
    """Its second version: one picture taken out, two relabelled, one without its mask."""
    images = _images(workspace)
    scratches = [image for image in images if image.defect_type == "scratch"]
    normal = next(image for image in images if image.label is Label.NORMAL)
    dent = next(image for image in images if image.defect_type == "dent")
    edits = [
        Edit(pixel_digest=normal.pixel_digest, remove=True),
        *(
            Edit(pixel_digest=image.pixel_digest, label=Label.ANOMALOUS, defect_type="deep scratch")
            for image in scratches[:2]
        ),
        Edit(pixel_digest=dent.pixel_digest, mask_digest=""),
    ]
    corrections.put(workspace, "parts", edits, who="ann")
    return save_edits(workspace, "parts", who="ann")


def _images(workspace: Workspace) -> list[ImageRecord]:
    with workspace.session() as session:
        return datasets.list_images(session, datasets.latest_version(session, "parts").id)


def test_comparison_counts_what_was_taken_out_relabelled_and_unmasked(
    page: Page, second: DatasetVersion
) -> None:
    app = _clean(_open(page))
    assert [text for text in _said(app) if text.startswith("**") and "picture" in text] == [
        "**1 picture removed**",
        "**2 pictures relabelled**",
        "**1 picture with another mask**",
    ]
    before, after = (
        next(box for box in app.selectbox if box.label == label) for label in ("From version", "to version")
    )
    assert (before.value, after.value) == (1, 2)
    before.set_value(2)
    after.set_value(1)
    app = _clean(app.run())
    assert "**1 picture added**" in _said(app)
    next(box for box in app.selectbox if box.label == "to version").set_value(2)
    assert "Choose two different versions." in [caption.value for caption in _clean(app.run()).caption]


def test_table_tells_who_made_each_version_and_what_changed(page: Page, second: DatasetVersion) -> None:
    table = _clean(_open(page)).dataframe[0].value
    assert list(table["version"]) == [2, 1]
    assert list(table["pictures"]) == [39, 40]
    assert table["by"][0] == "ann"
    assert table["change"][0] == "1 picture removed, 2 labels changed, 1 mask changed"


def test_version_is_named_and_its_name_taken_away_again(page: Page, workspace: Workspace) -> None:
    app = _clean(_open(page))
    assert _button(app, "Rename").disabled
    app.text_input(key="title 1").set_value("first delivery").run()
    app = _clean(_button(app, "Rename").click().run())
    assert "version 1 “first delivery”" in _html(app)
    assert app.dataframe[0].value["name"][0] == "first delivery"
    app.text_input(key="title 1").set_value("").run()
    app = _clean(_button(app, "Rename").click().run())
    assert "first delivery" not in _html(app)
    with workspace.session() as session:
        assert [event.what for event in events.list_events(session, "parts")][:2] == [
            "took the name of version 1 away",
            "called version 1 'first delivery'",
        ]


def test_name_that_is_too_long_is_refused_with_the_rule(page: Page, workspace: Workspace) -> None:
    app = _clean(_open(page))
    app.text_input(key="title 1").set_value("x" * 1000).run()
    app = _button(app, "Rename").click().run()
    assert len(app.error) == 1
    assert "at most" in app.error[0].value
    with workspace.session() as session:
        assert not datasets.latest_version(session, "parts").title


def test_export_is_packed_in_the_background_as_a_tree_of_mvtec(
    page: Page, workspace: Workspace, second: DatasetVersion, tmp_path: Path
) -> None:
    app = _clean(_open(page))
    _clean(_button(app, "Prepare the export").click().run())
    job = _ended(workspace, exports.job_key(second.id))
    assert job.state is JobState.DONE, job.error
    app = _clean(app.run())
    assert "Download parts-version-2.zip" in _html(app)
    assert "/exports/parts-version-2.zip?key=" in _html(app)
    with zipfile.ZipFile(exports.archive(workspace.settings, second)) as archive:
        names = [name for name in archive.namelist() if name != "roles.txt"]
        rows = list(csv.DictReader(io.StringIO(archive.read("roles.txt").decode())))
        archive.extractall(tmp_path / "unpacked")
    images = _images(workspace)
    assert len(rows) == len(images) == 39
    assert {name.rsplit("/", 1)[0] for name in names} == {
        "train/good",
        "test/good",
        "test/scratch",
        "test/deep scratch",
        "test/dent",
        "ground_truth/scratch",
        "ground_truth/deep scratch",
        "ground_truth/dent",
    }
    again = ingest_folder(workspace, tmp_path / "unpacked", "again").version
    with workspace.session() as session:
        assert _said_of(datasets.list_images(session, again.id)) == _said_of(images)


def test_export_can_be_cancelled_and_an_error_is_shown(
    page: Page, workspace: Workspace, second: DatasetVersion
) -> None:
    key = exports.job_key(second.id)
    seen: list[AppTest] = []

    def look_and_cancel(progress: jobs.Progress) -> object:
        progress(3, 39, "a.png")
        app = _clean(_open(page))
        assert [bar.proto.text for bar in app.get("progress")] == ["3 of 39 pictures packed"]
        _button(app, "Cancel").click().run()
        seen.append(app)
        time.sleep(jobs.WRITE_SECONDS)
        progress(4, 39, "b.png")
        raise AssertionError("not cancelled")

    assert jobs.work(workspace.settings, key, look_and_cancel).state is JobState.CANCELLED
    app = _clean(seen[0].run())
    assert "Download" not in _html(app)
    missing = _images(workspace)[0]
    workspace.blobs.path(missing.digest).unlink()
    exports.start_export(workspace, second.id)
    assert _ended(workspace, key).state is JobState.FAILED
    app = app.run()
    assert missing.digest in app.error[0].value


def test_killed_export_is_told_and_can_be_prepared_again(page: Page, workspace: Workspace) -> None:
    with workspace.session() as session:
        version = datasets.latest_version(session, "parts")
    exports.start_export(workspace, version.id)
    _kill(workspace, exports.job_key(version.id))  # while it still imports
    app = _open(page)
    assert [error.value for error in app.error] == ["Packing was interrupted. Prepare the export again."]
    assert "Download" not in _html(app)
    _button(app, "Prepare the export").click().run()
    assert _ended(workspace, exports.job_key(version.id)).state is JobState.DONE
    assert "Download parts-version-1.zip" in _html(_clean(app.run()))


def test_deletion_is_refused_while_a_study_has_not_ended(page: Page, workspace: Workspace) -> None:
    study = launch_study(workspace, "parts", StudySpec(trials=1))
    app = _delete(_clean(_open(page)), "parts")
    assert [error.value for error in app.error] == [
        f"Dataset 'parts' can't be deleted: study {study.id} has not ended. "
        f"Cancel it first, on its page or with \\`simplenet cancel {study.id}\\`."
    ]
    with workspace.session() as session:
        assert datasets.get_dataset(session, "parts").deleted_at is None


def test_deletion_is_refused_while_a_champion_serves(page: Page, own_studied_home: Path) -> None:
    app = _delete(_clean(_open(page)), "parts")
    assert len(app.error) == 1
    assert "model version 1 is its champion and serves" in app.error[0].value
    assert "Withdraw the champion first" in app.error[0].value


def test_wrong_name_deletes_nothing(page: Page, workspace: Workspace) -> None:
    app = _delete(_clean(_open(page)), "part")
    assert "'part' is not the dataset's name" in app.error[0].value
    with workspace.session() as session:
        assert datasets.get_dataset(session, "parts").deleted_at is None


def test_deleted_dataset_comes_back_as_it_was(
    page: Page, workspace: Workspace, second: DatasetVersion
) -> None:
    before = _images(workspace)
    app = _clean(_delete(_clean(_open(page)), "parts"))
    assert "Dataset parts was deleted" in app.success[0].value
    with workspace.session() as session:
        assert datasets.list_datasets(session) == []
    app = _clean(page("views/datasets.py", new=1))
    _clean(app.button(key="restore parts").click().run())
    assert "version 2" in _html(_clean(_open(page)))
    assert _images(workspace) == before
    with workspace.session() as session:
        assert studies.list_studies(session, dataset="parts") == []


def _delete(app: AppTest, typed: str) -> AppTest:
    next(field for field in app.text_input if field.label == "Type parts to be sure").set_value(typed)
    return _button(app, "Delete the dataset").click().run()


def _said_of(images: list[ImageRecord]) -> set[tuple[str, Label, str | None, bool]]:
    return {
        (image.pixel_digest, image.label, image.defect_type, image.mask_digest is not None)
        for image in images
    }


def _kill(workspace: Workspace, key: str) -> None:
    lock = workspace.settings.jobs_folder / key / "lock"
    for process in psutil.process_iter(["pid", "cmdline"]):
        if process.info["cmdline"] and exports.MODULE in process.info["cmdline"]:
            with contextlib.suppress(OSError):
                if any(link.resolve() == lock for link in Path(f"/proc/{process.pid}/fd").iterdir()):
                    process.kill()
                    process.wait(30)
                    return
    raise AssertionError("no process is at the job")


def _ended(workspace: Workspace, key: str) -> jobs.Job:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        job = jobs.status(workspace.settings, key)
        if job is not None and job.state is not JobState.RUNNING:
            return job
        time.sleep(0.1)
    raise AssertionError((workspace.settings.jobs_folder / key / "log").read_text())
