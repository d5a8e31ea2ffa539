"""An arrival on the page Datasets: reviewed as it was understood, taken in, and told what came of it."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from dashboard import theme, thumbnails
from dashboard.sections import arrival, review
from dashboard.wording import plain
from storage import datasets
from storage.workspace import Workspace, open_workspace
from tuning import arrivals, jobs
from tuning.jobs import JobState

Page = Callable[..., AppTest]


@pytest.fixture
def workspace(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An installation that may read folders of the test's own."""
    monkeypatch.setenv("SIMPLENET_PICTURE_ROOTS", json.dumps([str(tmp_path)]))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # for jobs
    return open_workspace()


def _arrived(workspace: Workspace, folder: Path, dataset: str = "") -> str:
    """A folder that has been looked at; answers its id."""
    arrival_id = arrivals.from_folder(workspace, str(folder), dataset, who="ann")
    key = arrivals.look_key(arrival_id)
    job = jobs.work(workspace.settings, key, lambda progress: arrivals.look(workspace, arrival_id, progress))
    assert job.state is JobState.DONE, job.error
    return arrival_id


def _taken(workspace: Workspace, arrival_id: str, plan: arrivals.Plan) -> None:
    """Take it in, in this process."""
    file = workspace.settings.staging_folder / arrival_id / arrivals.PLAN
    file.write_text(
        json.dumps({"intakes": [vars(one) for one in plan.intakes], "who": "ann", "mask_threshold": 0})
    )
    job = jobs.work(
        workspace.settings,
        arrivals.take_key(arrival_id),
        lambda progress: arrivals.take(workspace, arrival_id, progress),
    )
    assert job.state is JobState.DONE, job.error


def _open(page: Page, arrival_id: str, **parameters: str) -> AppTest:
    app = page("views/datasets.py", new=1, arrival=arrival_id, **parameters)
    assert not app.exception
    return app


def _html(app: AppTest) -> str:
    return "\n".join(str(element.proto.body) for element in app.get("html"))


def _captions(app: AppTest) -> list[str]:
    return [caption.value for caption in app.caption]


def test_folders_whose_names_become_the_same_are_reviewed_apart_and_discarded(
    page: Page, workspace: Workspace, make_folder: Callable[..., Path]
) -> None:
    for name in ("Part A", "part-a"):
        make_folder(f"line/{name}", train=12, test_normal=2, defects={"dent": 2})
    folder = make_folder("line/bolt", train=12, test_normal=2).parent
    app = _open(page, _arrived(workspace, folder))
    assert [error.value for error in app.error] == []
    assert [field.value for field in app.text_input if field.label == "Dataset"] == [
        "part-a",
        "bolt",
        "part-a-2",
    ]
    next(button for button in app.button if button.label == "Discard it").click().run()
    assert arrivals.list_arrivals(workspace) == []


def test_waiting_arrival_is_discarded_by_a_second_click_and_its_folder_stays(
    page: Page, workspace: Workspace, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(train=12, flat=True)
    _arrived(workspace, folder)
    app = page("views/datasets.py", new=1)
    assert "Discard" not in [button.label for button in app.button]  # it opens the question only
    next(button for button in app.button if button.label == "Discard it").click().run()
    assert not app.exception
    assert arrivals.list_arrivals(workspace) == []
    assert len(list(folder.iterdir())) == 12


@pytest.mark.parametrize(
    ("names", "wanted", "proposed"),
    [
        (["a"], "", ["a"]),
        (["a"], "lids", ["lids"]),
        (["a", "b"], "lids", ["lids-a", "lids-b"]),
        (["a", "a", "a-2", "a"], "", ["a", "a-3", "a-2", "a-4"]),
        (["a", "a", "a-2"], "lids", ["lids-a", "lids-a-3", "lids-a-2"]),
    ],
)
def test_no_two_datasets_are_proposed_one_name(names: list[str], wanted: str, proposed: list[str]) -> None:
    assert review.proposed_names(names, wanted) == proposed


def test_names_of_folders_are_shown_as_they_are(
    page: Page, workspace: Workspace, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder("price $5$ :red[x]/lids", defects={"*dent*": 4})
    # What an upload is meant for comes from a browser, and may be anything.
    app = _open(page, _arrived(workspace, folder, "![x](https://example.org/x.png)"))
    assert app.subheader[0].value == f"What was understood of {plain(str(folder))}"
    assert r"\$5\$ :" in app.subheader[0].value
    assert "test/\\*dent\\*" in _captions(app)
    waiting = page("views/datasets.py", new=1)
    (told,) = [block.value for block in waiting.markdown if r"price \$5\$" in block.value]
    assert r"for !\[x\](https" in told


def test_pictures_that_can_not_be_read_are_named_in_the_previews(
    page: Page, workspace: Workspace, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(train=14, test_normal=3)
    for name in ("000.png", "003.png"):
        (folder / "train/good" / name).write_bytes(b"no picture")
    for file in (folder / "test/good").iterdir():
        file.write_bytes(b"no picture")
    captions = _captions(_open(page, _arrived(workspace, folder)))
    train = "2 of its first 8 can't be read: train/good/000.png, train/good/003.png. The report will say why."
    assert train in captions
    assert any(
        caption.startswith("None of its first 3 can be read: test/good/000.png") for caption in captions
    )


def test_first_pictures_are_reviewed_under_a_heading_of_their_own(
    page: Page, workspace: Workspace, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(train=12, test_normal=1)
    (folder / "test/good/000.png").write_bytes(b"no picture")
    (folder / "train/good/drawing.svg").write_text("<svg/>")
    app = _open(page, _arrived(workspace, folder))
    assert [title.value for title in app.title] == ["New dataset"]
    assert "No dataset yet" not in _html(app)
    assert "Its only picture can't be read: test/good/000.png. The report will say why." in _captions(app)
    assert [expander.label for expander in app.expander] == ["1 file left out already"]
    assert "train/good/drawing.svg</td><td>It is a drawing without pixels." in _html(app)


def test_masks_are_outlined_in_the_previews_above_the_value_that_is_asked_for(
    page: Page, workspace: Workspace, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(train=12, test_normal=2, defects={"dent": 1})
    (mask,) = (folder / "ground_truth/dent").iterdir()
    with Image.open(mask) as opened:
        values = np.asarray(opened) // 255 * 90
    values[:8] = np.maximum(values[:8], 20)
    Image.fromarray(values).save(mask)
    drawn: list[int] = []
    of_file_and_masks = thumbnails.of_file_and_masks

    def counted(*arguments: object, threshold: int, **named: object) -> bytes:
        drawn.append(threshold)
        return of_file_and_masks(*arguments, threshold=threshold, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(thumbnails, "of_file_and_masks", counted)
    app = _open(page, _arrived(workspace, folder))
    assert any("they hold the values 0, 20, 90." in warning.value for warning in app.warning)
    (asked,) = app.number_input
    assert (asked.value, asked.max) == (0, 254)
    asked.set_value(50).run()
    assert drawn == [0, 50]


def test_outline_of_a_mask_is_drawn_on_the_small_copy(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(defects={"dent": 1}, size=400)
    picture, mask = folder / "test/dent/000.png", folder / "ground_truth/dent/000_mask.png"
    small = _pixels(thumbnails.of_file_and_masks(str(picture), "a", [str(mask)]))
    assert small.shape == (192, 192, 3)
    red = tuple(int(theme.TRUTH[place : place + 2], 16) for place in (1, 3, 5))
    near = np.abs(small.astype(int) - red).sum(axis=-1) < 120  # JPEG blurs it
    assert near.sum() > 50
    plainly = _pixels(thumbnails.of_file(str(picture), "a")).astype(int)
    assert (np.abs(plainly - red).sum(axis=-1) < 120).sum() == 0


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("value", "most"), [(300, 65_534), (200, 254)])
def test_value_that_divides_masks_reaches_as_far_as_their_own_scale(
    page: Page, workspace: Workspace, make_folder: Callable[..., Path], value: int, most: int
) -> None:
    folder = make_folder(train=12, test_normal=2, defects={"dent": 1})
    (mask,) = (folder / "ground_truth/dent").iterdir()
    with Image.open(mask) as opened:
        marked = np.asarray(opened) > 0
    Image.fromarray((marked * value).astype(np.uint16 if value > 255 else np.uint8)).save(mask)
    app = _open(page, _arrived(workspace, folder))
    assert app.number_input[0].max == most


def test_report_tells_each_file_and_the_whole_reason(
    page: Page, workspace: Workspace, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(train=12, flat=True)
    (folder / "<b>.png").write_bytes(b"<svg/>")
    arrival_id = _arrived(workspace, folder)
    _taken(workspace, arrival_id, arrivals.Plan(intakes=(arrivals.Intake(name="lids"),), who="ann"))
    app = _open(page, arrival_id)
    assert "Dataset **lids**, version 1: 12 pictures." in [one.value for one in app.success]
    assert "<td>&lt;b&gt;.png</td>" in _html(app)
    assert "it is an SVG drawing, which has no pixels. Export it as PNG.</td>" in _html(app)


@pytest.mark.parametrize("name", ["=HYPERLINK(1).png", "@SUM(A1).png", "+1.png", "-1.png"])
def test_no_name_in_the_report_is_a_formula_of_a_spreadsheet(name: str) -> None:
    (row,) = csv.DictReader(io.StringIO(arrival._csv([{"name": name, "reason": "It is empty."}])))
    assert row == {"name": f"'{name}", "reason": "It is empty."}


def test_intake_of_nothing_new_says_so(
    page: Page, workspace: Workspace, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(train=24, flat=True)
    for expected in ("success", "info"):
        arrival_id = _arrived(workspace, folder, "lids" if expected == "info" else "")
        _taken(workspace, arrival_id, arrivals.Plan(intakes=(arrivals.Intake(name="lids"),), who="ann"))
        app = _open(page, arrival_id)
        said = {"success": [one.value for one in app.success], "info": [one.value for one in app.info]}
        assert bool(said["success"]) is (expected == "success")
        assert bool(said["info"]) is (expected == "info")
    assert said["info"] == ["Nothing new: dataset **lids** is as it was, version 1."]
    with workspace.session() as session:
        assert len(datasets.list_versions(session, "lids")) == 1


def test_very_many_left_out_files_are_counted(page: Page) -> None:
    def script() -> None:
        from dashboard.components import left_out

        left_out.table([{"name": f"{n}.png", "reason": "broken"} for n in range(600)], "File", count=700)

    app = AppTest.from_function(script).run()
    assert _html(app).count("<tr>") == 501
    assert _captions(app) == ["and 200 more"]
