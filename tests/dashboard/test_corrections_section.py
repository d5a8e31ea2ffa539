"""Correcting pictures on the page Datasets: saved on the version that was seen, masks read as they were meant."""

import io
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from engine.images import decode_mask
from storage import datasets, edits
from storage.records import Edit, ImageRecord, Label
from storage.workspace import Workspace, open_workspace
from tuning import corrections, doctor, jobs
from tuning.commands import ingest_folder
from tuning.versions import save_edits

Page = Callable[..., AppTest]


@pytest.fixture
def workspace(home: Path, make_folder: Callable[..., Path]) -> Workspace:
    """A dataset `parts` of one version."""
    opened = open_workspace()
    ingest_folder(opened, make_folder(defects={"dent": 4}), "parts")
    return opened


def _images(workspace: Workspace) -> dict[str, ImageRecord]:
    with workspace.session() as session:
        version = datasets.latest_version(session, "parts")
        return {image.name: image for image in datasets.list_images(session, version.id)}


def _waiting(workspace: Workspace) -> list[Edit]:
    with workspace.session() as session:
        return edits.list_edits(session, "parts")


def _button(app: AppTest, label: str):  # type: ignore[no-untyped-def]  # streamlit does not export the class
    return next(button for button in app.button if button.label == label)


def test_corrections_are_not_saved_on_a_version_that_nobody_saw(
    page: Page, workspace: Workspace, make_folder: Callable[..., Path]
) -> None:
    image = _images(workspace)["train/good/003.png"]
    corrections.put(workspace, "parts", [Edit(pixel_digest=image.pixel_digest, remove=True)], who="ann")
    app = page("views/datasets.py", dataset="parts")
    assert [error.value for error in app.error] == []
    ingest_folder(
        workspace, make_folder("more", train=30, flat=True, size=48), "parts"
    )  # meanwhile: version 2
    app = _button(app, "Save as version 2").click().run()
    (error,) = app.error
    assert "Dataset 'parts' has version 2 by now" in error.value
    assert "version 1. Nothing is lost: look at the new version and save again." in error.value
    assert len(_waiting(workspace)) == 1
    assert image.name in _images(workspace)
    app = _button(app, "Save as version 3").click().run()
    assert [error.value for error in app.error] == []
    assert _waiting(workspace) == []
    assert image.name not in _images(workspace)
    with workspace.session() as session:
        version = datasets.latest_version(session, "parts")
    job = jobs.status(workspace.settings, doctor.job_key(version.id))
    assert job is not None  # the doctor looks at it by itself
    jobs.cancel(workspace.settings, job.key)


def test_correction_is_judged_by_the_version_that_is_being_saved(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """'Label it normal' leads nowhere in version 1, but not in version 2, which is just being made."""
    image = _images(workspace)["train/good/003.png"]
    dent = Edit(pixel_digest=image.pixel_digest, label=Label.ANOMALOUS, defect_type="dent")
    corrections.put(workspace, "parts", [dent], who="ann")
    read = threading.Event()
    list_images = datasets.list_images

    def noticed(*arguments: object, **named: object) -> list[ImageRecord]:
        found = list_images(*arguments, **named)  # type: ignore[arg-type]
        if threading.current_thread() is not threading.main_thread():
            read.set()
        return found

    monkeypatch.setattr(datasets, "list_images", noticed)
    normal = Edit(pixel_digest=image.pixel_digest, label=Label.NORMAL)
    putting = threading.Thread(
        target=corrections.put, args=[workspace, "parts", [normal]], kwargs={"who": "ben"}
    )
    make = datasets.create_version

    def slowly(*arguments: object, **named: object) -> object:
        made = make(*arguments, **named)  # type: ignore[arg-type]
        putting.start()
        read.wait(2)  # what reads the former version now, would go by it
        return made

    monkeypatch.setattr(datasets, "create_version", slowly)
    save_edits(workspace, "parts", who="ann")
    putting.join()
    assert _images(workspace)[image.name].label is Label.ANOMALOUS
    assert [edit.label for edit in _waiting(workspace)] == [Label.NORMAL]


def _mask(kind: str, **options: object) -> bytes:
    """White in a quarter of 64×64, which JPEG's blocks of 8×8 are cut by."""
    values = np.zeros((64, 64), np.uint8)
    values[17:49, 17:49] = 255
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind, **options)
    return out.getvalue()


def test_mask_of_a_jpeg_marks_what_was_meant_and_says_how_much(page: Page, workspace: Workspace) -> None:
    image = _images(workspace)["test/dent/000.png"]
    app = page("views/datasets.py", dataset="parts", image=image.id)
    app.file_uploader[0].set_value(("mask.jpg", _mask("JPEG", quality=30), "image/jpeg")).run()
    assert any(warning.value.startswith("This mask is not only black and white") for warning in app.warning)
    (asked,) = app.number_input
    assert (asked.value, asked.max) == (127, 254)
    assert "The mask marks 25.0 % of the picture." in [caption.value for caption in app.caption]
    asked.set_value(0).run()
    assert "The mask marks 25.0 % of the picture." not in [caption.value for caption in app.caption]
    app.number_input[0].set_value(127).run()
    _button(app, "Keep this correction").click().run()
    (edit,) = _waiting(workspace)
    assert edit.mask_digest is not None
    told = "Waits to be saved: dent, with mask → dent, with another mask."
    assert [info.value for info in page("views/datasets.py", dataset="parts", image=image.id).info] == [told]
    assert decode_mask(workspace.blobs.get(edit.mask_digest), "kept").mean() == 0.25


def test_black_and_white_mask_is_asked_no_question(page: Page, workspace: Workspace) -> None:
    image = _images(workspace)["test/dent/000.png"]
    app = page("views/datasets.py", dataset="parts", image=image.id)
    app.file_uploader[0].set_value(("mask.png", _mask("PNG"), "image/png")).run()
    assert len(app.number_input) == 0
    assert "The mask marks 25.0 % of the picture." in [caption.value for caption in app.caption]


def test_mask_of_sixteen_bits_is_divided_on_its_own_scale(page: Page, workspace: Workspace) -> None:
    image = _images(workspace)["test/dent/000.png"]
    values = np.zeros((64, 64), np.uint16)
    values[:8], values[8:16] = 900, 40_000
    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG")
    app = page("views/datasets.py", dataset="parts", image=image.id)
    app.file_uploader[0].set_value(("mask.png", out.getvalue(), "image/png")).run()
    (asked,) = app.number_input
    assert (asked.value, asked.max) == (0, 65_534)
    asked.set_value(1000).run()
    assert "The mask marks 12.5 % of the picture." in [caption.value for caption in app.caption]


def test_mask_that_is_no_picture_is_refused_before_it_is_kept(page: Page, workspace: Workspace) -> None:
    image = _images(workspace)["test/dent/000.png"]
    app = page("views/datasets.py", dataset="parts", image=image.id)
    app.file_uploader[0].set_value(("mask.png", b"no picture", "image/png")).run()
    assert "'mask.png'" in app.error[0].value
    assert "it holds text. Leave it out." in app.error[0].value
