"""The page Score: what it says without a champion, a batch under way, interrupted, done, and deleted."""

import io
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from dashboard.overlays import drawer
from storage import staging
from storage.settings import Settings
from storage.staging import Limits, Position
from storage.workspace import Workspace, open_workspace
from tuning import arrivals, batches, jobs
from tuning.batches import Batch

pytestmark = pytest.mark.slow

Page = Callable[..., AppTest]
NOW = datetime(2030, 1, 1, tzinfo=UTC)


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


def archive(pictures: int = 3) -> bytes:
    data = io.BytesIO()
    draw = np.random.default_rng(0)
    with zipfile.ZipFile(data, "w") as packed:
        for number in range(pictures):
            one = io.BytesIO()
            Image.fromarray(draw.integers(0, 255, (48, 64), dtype=np.uint8)).save(one, "PNG")
            packed.writestr(f"{number}.png", one.getvalue())
        packed.writestr("broken.png", b"no picture")
        packed.writestr("notes.txt", b"hello")
    return data.getvalue()


@pytest.fixture
def batch(workspace: Workspace) -> Batch:
    """An uploaded zip of three pictures, a broken one and a note, not scored yet."""
    data = archive()
    made = staging.create(
        workspace.settings.staging_folder,
        files=[("line.zip", len(data))],
        dataset=f"{staging.TO_SCORE}parts",
        limits=Limits(max_bytes=1e9, reserve_bytes=0),
        now=NOW,
    )
    staging.append(made, Position(0, 0), 0, data)
    staging.complete(made, NOW)
    assert arrivals.list_arrivals(workspace) == []  # it waits for no dataset
    return batches.from_upload(workspace, "parts", made.id, who="tester")


def score(workspace: Workspace, batch: Batch) -> None:
    key = batches.job_key(batch.id)
    jobs.work(workspace.settings, key, lambda progress: batches.score(workspace, batch, drawer, progress))


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
    assert "1 of 3" in shown
    app = clean(button(app, "Next").click().run())
    assert "2 of 3" in html(app)
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
