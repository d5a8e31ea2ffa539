"""The page Score: what it says without a champion, a batch under way, interrupted, done, and deleted."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from streamlit.testing.v1 import AppTest

from storage.records import Label
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tests.scored_batches import noise, score, upload
from tuning import arrivals, batches, reviewing
from tuning.batches import Batch

pytestmark = pytest.mark.slow

Page = Callable[..., AppTest]


def clean(app: AppTest) -> AppTest:
    assert not app.exception, [error.value for error in app.exception]
    assert not app.error, [error.value for error in app.error]
    return app


def button(app: AppTest, label: str):
    return next(one for one in app.button if one.label == label)


def html(app: AppTest) -> str:
    return "\n".join(block.value for block in app.get("html"))


@pytest.fixture
def workspace(own_studied_home: Path) -> Workspace:
    return open_workspace(Settings())


def archive() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as packed:
        for name, picture in noise(3).items():
            packed.writestr(name, picture)
        packed.writestr("broken.png", b"no picture")
        packed.writestr("notes.txt", b"hello")
    return data.getvalue()


@pytest.fixture
def batch(workspace: Workspace) -> Batch:
    """An uploaded zip of three pictures, a broken one and a note, not scored yet."""
    made = upload(workspace, {"line.zip": archive()})
    assert arrivals.list_arrivals(workspace) == []  # it waits for no dataset
    return batches.from_upload(workspace, "parts", made.id, who="tester")


def tiles(app: AppTest) -> list[dict[str, Any]]:
    found = next(one for one in app.get("bidi_component") if one.proto.component_name == "simplenet_gallery")
    return list(json.loads(found.proto.json)["tiles"])


def test_without_a_dataset_the_page_says_where_models_come_from(page: Page, home: Path) -> None:
    assert "Nothing to score with yet" in html(clean(page("views/score.py")))


def test_without_a_champion_the_page_offers_a_study(
    page: Page, home: Path, make_folder: Callable[..., Path]
) -> None:
    from tuning.commands import ingest_folder

    ingest_folder(open_workspace(), make_folder(defects={"dent": 6}), "parts")
    app = clean(page("views/score.py", dataset="parts"))
    assert "No champion yet" in html(app)
    assert "New study" in [one.label for one in app.button]


def test_scored_batch_is_shown_after_a_reload_and_can_be_deleted(
    page: Page, workspace: Workspace, batch: Batch
) -> None:
    score(workspace, batch)
    app = clean(page("views/score.py", dataset="parts"))
    assert any("line.zip" in block.value for block in app.markdown)
    assert any("4 pictures" in caption.value for caption in app.caption)
    app = clean(button(app, "Open").click().run())
    shown = html(app)
    assert "3 pictures scored" in shown
    assert "1 not readable" in shown
    assert "1 file left out" in shown
    drawn = tiles(app)
    assert sorted(tile["title"].split(",")[0] for tile in drawn) == ["0.png", "1.png", "2.png"]
    scores = [float(tile["detail"]) for tile in drawn]
    assert scores == sorted(scores, reverse=True)
    assert all(f"batch={batch.id}" in tile["source"] for tile in drawn)
    (link,) = (one for one in app.get("page_link") if "3 pictures in Heatmaps" in one.proto.label)
    asked = parse_qs(link.proto.query_string)
    assert asked == {"dataset": ["parts"], "model": ["version 1"], "of": [f"line.zip · {batch.id[:8]}"]}
    failed = next(frame.value for frame in app.dataframe if "picture" in frame.value.columns)
    assert failed["picture"].tolist() == ["broken.png"]
    clean(button(app, "Delete the batch").click().run())
    assert not batch.folder.exists()
    assert "batch" not in app.query_params


def test_interrupted_batch_says_so_and_offers_to_go_on(page: Page, batch: Batch) -> None:
    app = page("views/score.py", dataset="parts", batch=batch.id)
    assert "Scoring was interrupted" in app.warning[0].value
    assert "Go on" in [one.label for one in app.button]


def test_batch_that_failed_says_why(page: Page, workspace: Workspace, batch: Batch) -> None:
    (batch.folder / "files" / "000000").write_bytes(b"PK\x03\x04 damaged")
    score(workspace, batch)
    app = page("views/score.py", dataset="parts", batch=batch.id)
    assert "line.zip" in app.error[0].value
    assert "Go on" in [one.label for one in app.button]


def test_deleted_batch_of_the_address_is_told(page: Page, workspace: Workspace) -> None:
    app = page("views/score.py", dataset="parts", batch="0123456789abcdef")
    assert "There is no batch" in app.warning[0].value


def test_deleting_says_how_many_marks_are_lost_with_it(
    page: Page, workspace: Workspace, batch: Batch
) -> None:
    score(workspace, batch)
    picture = batches.results(batch).pictures[0]
    reviewing.mark(workspace, "parts", picture, Label.NORMAL, uploaded=True, who="ada")
    app = clean(page("views/score.py", dataset="parts", batch=batch.id))
    assert any("and 1 mark that went into no version" in block.value for block in app.markdown)
