"""The page Heatmaps over a real installation: what it shows, chooses, marks and decides, and what it refuses."""

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dashboard import batch_links
from dashboard.components.viewer import Led
from dashboard.sections import marking
from dashboard.sections.marking import Notes
from storage import datasets, edits, models, operating_points, reviews
from storage.records import Label, Model, Role, StudyState
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tests.dashboard.upload_client import serving
from tests.scored_batches import noise, scored_batch
from tuning import batches
from tuning.batch_scoring import RESULTS, read_results
from tuning.batches import Batch
from tuning.commands import launch_study, promote
from tuning.operating_points import by_value, set_point
from tuning.spec import StudySpec
from tuning.worker import run_worker

pytestmark = pytest.mark.slow

Page = Callable[..., AppTest]
VIEW = "views/heatmaps.py"


def _html(app: AppTest) -> str:
    return "\n".join(str(element.proto.body) for element in app.get("html"))


def _clean(app: AppTest) -> AppTest:
    assert not app.exception
    assert [error.value for error in app.error] == []
    return app


def _button(app: AppTest, label: str):  # type: ignore[no-untyped-def]  # streamlit does not export the class
    return next(button for button in app.button if label in button.label)


def _viewer(app: AppTest) -> dict[str, Any]:
    """What the viewer was given."""
    found = [one for one in app.get("bidi_component") if one.proto.component_name == "simplenet_viewer"]
    assert len(found) == 1
    return dict(json.loads(found[0].proto.json))


def _tiles(app: AppTest) -> list[dict[str, Any]]:
    found = next(one for one in app.get("bidi_component") if one.proto.component_name == "simplenet_gallery")
    return list(json.loads(found.proto.json)["tiles"])


def _current(app: AppTest) -> dict[str, Any]:
    given = _viewer(app)
    return next(shot for shot in given["shots"] if shot["id"] == given["current"])


def _champion(workspace: Workspace) -> Model:
    with workspace.session() as session:
        found = models.champion(session, "parts")
    assert found is not None
    return found


@pytest.fixture
def second_model(own_studied_home: Path) -> Model:
    """Another model beside the champion, by another real study."""
    workspace = open_workspace()
    spec = StudySpec(trials=1, epochs=1, height=64, width=64, layers=((2, 3),), seed=5)
    study = launch_study(workspace, "parts", spec)
    run_worker(workspace, worker_id="here", stop=threading.Event(), study_id=study.id)
    with workspace.session() as session:
        return next(model for model in models.list_models(session, "parts") if model.study_id == study.id)


def test_pictures_come_with_scores_decisions_and_what_each_leads_to(page: Page, studied_home: Path) -> None:
    app = _clean(page(VIEW, dataset="parts"))
    assert "10 normal pictures" in _html(app)
    given = _viewer(app)
    assert (given["first"], given["total"], len(given["shots"])) == (1, 30, 30)
    shot = _current(app)
    assert shot["seen"][0]["folder"].startswith("/maps/1/")
    assert shot["outlines"].startswith("/truths/")
    scores = [one["seen"][0]["score"] for one in given["shots"]]
    assert scores == sorted(scores, reverse=True)
    assert len(_tiles(app)) == 24


def test_picture_of_the_address_is_shown_and_its_page_of_the_grid(page: Page, studied_home: Path) -> None:
    last = _viewer(_clean(page(VIEW, dataset="parts")))["shots"][-1]["id"]
    app = _clean(page(VIEW, dataset="parts", image=last))
    assert _viewer(app)["current"] == last
    assert len(_tiles(app)) == 6


def test_every_role_can_be_looked_at(page: Page, studied_home: Path) -> None:
    workspace = open_workspace()
    with workspace.session() as session:
        images = datasets.list_images(session, datasets.latest_version(session, "parts").id)
    for role in Role:
        count = sum(image.role is role for image in images)
        app = _clean(page(VIEW, dataset="parts", of=role.value))
        if count > 40 and any("have no score" in one.value for one in app.info):
            assert _button(app, "Score ").label == f"Score {count} pictures"  # not while a visitor waits
            continue
        assert _viewer(app)["total"] == count


def test_filters_leave_what_they_name(page: Page, studied_home: Path) -> None:
    app = _clean(page(VIEW, dataset="parts", defect="scratch"))
    assert {shot["truth"] for shot in _viewer(app)["shots"]} == {"scratch"}
    app = _clean(page(VIEW, dataset="parts", show="escapes"))
    assert {shot["seen"][0]["wrong"] for shot in _viewer(app)["shots"]} == {"escape"}


def test_filter_that_nothing_fits_says_what_to_do(page: Page, own_studied_home: Path) -> None:
    workspace = open_workspace()
    set_point(workspace, _champion(workspace), by_value(1e6), found=None, who="t", why="accept all")
    app = _clean(page(VIEW, dataset="parts", show="rejects"))
    assert any("Choose “all”" in one.value for one in app.info)


def test_deleted_maps_are_scored_again(page: Page, own_studied_home: Path) -> None:
    shutil.rmtree(own_studied_home / "maps" / "parts")
    assert _viewer(_clean(page(VIEW, dataset="parts")))["total"] == 30
    assert len(list((own_studied_home / "maps" / "parts" / "1").glob("*.npz"))) == 30


def test_many_unscored_pictures_are_scored_in_the_background(
    page: Page, own_studied_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dashboard.sections import scoring as section
    from tuning import scoring

    shutil.rmtree(own_studied_home / "maps" / "parts")
    monkeypatch.setattr(section, "AT_ONCE", 0)
    app = _clean(page(VIEW, dataset="parts", of="calibration"))
    assert any("have no score under version 1" in one.value for one in app.info)
    assert _button(app, "Score ")
    workspace = open_workspace()
    model = _champion(workspace)
    scoring.main([str(model.id), "calibration"])  # what the button starts, in this process
    app = _clean(page(VIEW, dataset="parts", of="calibration"))
    assert _viewer(app)["total"] == len(scoring.pictures_of(workspace, model, "calibration"))


def test_crop_says_what_the_model_never_sees(
    page: Page, home: Path, make_folder: Callable[..., Path]
) -> None:
    from tuning.commands import ingest_folder

    workspace = open_workspace()
    ingest_folder(workspace, make_folder(defects={"scratch": 4, "dent": 4}), "parts")
    spec = StudySpec(trials=1, epochs=1, height=64, width=64, layers=((2, 3),), resize="crop")
    study = launch_study(workspace, "parts", spec)
    run_worker(workspace, worker_id="here", stop=threading.Event(), study_id=study.id)
    seen = _current(_clean(page(VIEW, dataset="parts")))["seen"][0]
    assert seen["unseen"] == 23
    assert seen["view"] is not None


def test_two_models_look_at_the_same_picture_each_on_its_own_scale(
    page: Page, own_studied_home: Path, second_model: Model
) -> None:
    app = _clean(
        page(VIEW, dataset="parts", beside=f"version {second_model.version}", sort="models disagree most")
    )
    given = _viewer(app)
    assert [lens["title"] for lens in given["lenses"]] == ["version 1", "version 2"]
    assert given["lenses"][0]["threshold"] != given["lenses"][1]["threshold"]
    shots = given["shots"]
    assert all(len(shot["seen"]) == 2 for shot in shots)
    differing = [len({seen["decision"] for seen in shot["seen"]}) for shot in shots]
    assert differing == sorted(differing, reverse=True)


def test_another_dataset_takes_the_filters_back(
    page: Page, own_studied_home: Path, make_folder: Callable[..., Path]
) -> None:
    from tuning.commands import ingest_folder

    ingest_folder(open_workspace(), make_folder("others", defects={"dent": 4}), "others")
    app = _clean(page(VIEW, dataset="parts", defect="scratch", of="validation"))
    box = next(box for box in app.selectbox if box.label == "Dataset")
    app = _clean(box.set_value("others").run())
    box = next(box for box in app.selectbox if box.label == "Dataset")
    app = _clean(box.set_value("parts").run())
    assert _viewer(app)["total"] == 30


def test_another_version_than_the_champion_can_be_looked_through(
    page: Page, own_studied_home: Path, second_model: Model
) -> None:
    app = _clean(page(VIEW, dataset="parts", model="version 2"))
    assert _viewer(app)["lenses"][0]["title"] == "version 2"
    assert _current(app)["seen"][0]["folder"].startswith(f"/maps/{second_model.id}/")


def test_decisions_follow_the_operating_point(page: Page, own_studied_home: Path) -> None:
    workspace = open_workspace()
    model = _champion(workspace)
    scale = _viewer(_clean(page(VIEW, dataset="parts")))["lenses"][0]
    set_point(workspace, model, by_value(-1e6), found=None, who="t", why="reject all")
    app = _clean(page(VIEW, dataset="parts"))
    assert {shot["seen"][0]["decision"] for shot in _viewer(app)["shots"]} == {"reject"}
    assert _viewer(app)["lenses"][0] == scale  # the colours mean what they meant


def _open_threshold(app: AppTest) -> AppTest:
    app.session_state["threshold"] = True
    return _clean(app.run())


def test_tried_threshold_decides_on_the_page_and_nowhere_else(page: Page, studied_home: Path) -> None:
    app = _clean(page(VIEW, dataset="parts", at="1000000.0"))
    assert any("Trying out the threshold" in one.value for one in app.info)
    assert {shot["seen"][0]["decision"] for shot in _viewer(app)["shots"]} == {"accept"}
    workspace = open_workspace()
    with workspace.session() as session:
        assert operating_points.current(session, _champion(workspace)).id is None


@pytest.mark.parametrize("at", ["nonsense", "nan", "inf"])
def test_threshold_that_is_no_number_is_ignored(page: Page, studied_home: Path, at: str) -> None:
    assert not _clean(page(VIEW, dataset="parts", at=at)).info


def test_threshold_is_chosen_on_validation_saved_and_taken_back(page: Page, own_studied_home: Path) -> None:
    workspace = open_workspace()
    model = _champion(workspace)
    app = _open_threshold(page(VIEW, dataset="parts"))
    assert any("Test pictures only show" in one.value for one in app.caption)
    app.segmented_control(key="way").set_value("F1").run()
    assert any("the highest on" in one.value for one in _clean(app).markdown)
    next(box for box in app.text_input if box.label.startswith("Reason")).set_value("as others do")
    _clean(_button(app, "Decide with").click().run())
    with workspace.session() as session:
        point = operating_points.current(session, model)
    assert (point.source.value, point.who, point.why) == ("f1", "dashboard", "as others do")
    app = _open_threshold(page(VIEW, dataset="parts"))
    _clean(_button(app, "Back to").click().run())
    with workspace.session() as session:
        history = operating_points.history(session, model)
    assert history[0].threshold == operating_points.own(model).threshold
    assert len(history) == 3


def test_threshold_without_reason_is_refused(page: Page, own_studied_home: Path) -> None:
    app = _open_threshold(page(VIEW, dataset="parts"))
    app.segmented_control(key="way").set_value("F1").run()
    _button(app, "Decide with").click().run()
    assert "The reason is empty" in app.error[0].value


def test_rate_that_can_not_be_promised_says_how_many_pictures_it_needs(
    page: Page, studied_home: Path
) -> None:
    app = _open_threshold(page(VIEW, dataset="parts"))
    app.segmented_control(key="way").set_value("false-reject rate").run()
    app.number_input(key="wanted rate").set_value(0.1).run()
    assert "needs at least 999 calibration images; you have" in app.error[0].value
    assert not any("Decide with" in button.label for button in app.button)


def test_cell_of_the_matrix_shows_its_pictures(page: Page, studied_home: Path) -> None:
    app = _open_threshold(page(VIEW, dataset="parts"))
    label = next(button.label for button in app.button if "escape" in button.label)
    count = int("".join(filter(str.isdigit, label)))
    app = _clean(_button(app, label).click().run())
    assert app.query_params["of"] in ("validation", ["validation"])
    assert _viewer(app)["total"] == count
    assert {shot["seen"][0]["wrong"] for shot in _viewer(app)["shots"]} == {"escape"}


def _event(model: Model, image: Any, ids: dict[str, str] | None = None, **event: Any) -> tuple[Led, Notes]:
    """What the viewer would say, handled as the page handles it."""
    notes = Notes()
    told = {"n": 1, **event}
    workspace = open_workspace()
    return marking.handle(
        workspace, "parts", model, image, told, batch=None, ids=ids or {}, notes=notes
    ), notes


def test_marks_of_the_viewer_wait_as_corrections_and_are_undone(own_studied_home: Path) -> None:
    workspace = open_workspace()
    model = _champion(workspace)
    with workspace.session() as session:
        image = datasets.list_images(session, model.dataset_version_id, role=Role.TEST, label=Label.NORMAL)[0]
    box = [[2, 2], [20, 2], [20, 20], [2, 20]]
    _event(model, image, kind="mark", id=str(image.id), label="anomalous", type="dent", shapes=[box])
    with workspace.session() as session:
        (edit,) = edits.list_edits(session, "parts")
        review = reviews.list_reviews(session, "parts")[image.pixel_digest]
    assert (edit.label, edit.defect_type, review.model_id) == (Label.ANOMALOUS, "dent", model.id)
    assert edit.mask_digest is not None
    led, _ = _event(model, None, {image.pixel_digest: "77"}, kind="undo")
    assert led == Led(to="77", away=True)
    with workspace.session() as session:
        assert edits.list_edits(session, "parts") == []


def test_regions_of_the_heatmap_become_the_mask_with_one_click(own_studied_home: Path) -> None:
    from dashboard.scales import scale_of
    from engine.masks import decode_mask
    from tuning.predictor import map_of

    workspace = open_workspace()
    model = _champion(workspace)
    with workspace.session() as session:
        images = datasets.list_images(session, model.dataset_version_id, role=Role.TEST)
    level = scale_of(model).map_threshold
    image = next(one for one in images if (map_of(workspace, model, one)[1] > level).any())
    _event(model, image, kind="mark", id=str(image.id), label="anomalous", type="dent", regions=True)
    with workspace.session() as session:
        (edit,) = edits.list_edits(session, "parts")
    marked = decode_mask(workspace.blobs.get(edit.mask_digest or ""), "mask")
    assert np.array_equal(marked, map_of(workspace, model, image)[1] > level)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"kind": "undo"}, "can be undone"),
        ({"kind": "mark", "label": "broken"}, "'broken' is not a valid Label"),
        ({"kind": "mark", "label": "normal", "type": "dent"}, "only a defect has one"),
        (
            {"kind": "mark", "label": "anomalous", "shapes": [[[900, 900], [901, 900], [901, 901]]]},
            "marks no pixel",
        ),
        ({"kind": "mark", "label": "anomalous", "shapes": [[["x", 1]]]}, "could not convert"),
    ],
)
def test_what_the_viewer_should_not_say_is_refused_with_a_reason(
    own_studied_home: Path, event: dict[str, Any], said: str
) -> None:
    workspace = open_workspace()
    model = _champion(workspace)
    with workspace.session() as session:
        image = datasets.list_images(session, model.dataset_version_id, role=Role.TEST)[0]
    led, notes = _event(model, image, **event)
    assert led == Led()
    assert said in str(notes.refused)


def test_picture_that_is_not_listed_any_more_is_not_marked(own_studied_home: Path) -> None:
    _, notes = _event(_champion(open_workspace()), None, kind="mark", label="normal")
    assert "not in the list any more" in str(notes.refused)


def test_waiting_marks_are_told_saved_and_studied_with_one_click(page: Page, own_studied_home: Path) -> None:
    from storage import studies
    from tuning.reviewing import mark

    workspace = open_workspace()
    model = _champion(workspace)
    with workspace.session() as session:
        image = datasets.list_images(session, model.dataset_version_id, role=Role.TEST, label=Label.NORMAL)[0]
    mark(workspace, "parts", image, Label.ANOMALOUS, defect_type="dent", model=model, who="ada")
    app = _clean(page(VIEW, dataset="parts", image=image.id))
    assert any(tile["note"] == "marked: defect" for tile in _tiles(app))
    _clean(_button(app, "Save as version 2 and study it").click().run())
    with workspace.session() as session:
        study = studies.list_studies(session, dataset="parts")[0]
        latest = datasets.latest_version(session, "parts")
    assert (study.state, study.dataset_version_id, latest.number) == (StudyState.QUEUED, latest.id, 2)
    shot = next(
        shot for shot in _viewer(_clean(page(VIEW, dataset="parts")))["shots"] if shot["id"] == str(image.id)
    )
    assert shot["truth"] == "dent"  # the page judges by the corrected label


def _of_batch(batch: Batch, **parameters: str) -> dict[str, str]:
    return {**batch_links.on_heatmaps(batch), **parameters}


def _link_back(app: AppTest) -> dict[str, list[str]]:
    (link,) = (one for one in app.get("page_link") if one.proto.label == "Back to the batch")
    return parse_qs(link.proto.query_string)


def test_batch_is_browsed_marked_and_added(page: Page, own_studied_home: Path) -> None:
    from tuning.reviewing import mark

    workspace = open_workspace()
    model = _champion(workspace)
    batch = scored_batch(workspace, noise(3))
    first = batches.results(batch).pictures[0]
    app = _clean(page(VIEW, **_of_batch(batch)))
    assert _viewer(app)["total"] == 3
    assert {shot["truth"] for shot in _viewer(app)["shots"]} == {"no label yet"}
    assert _link_back(app) == {"dataset": ["parts"], "batch": [batch.id]}
    assert _button(app, "Add 0 marked pictures").disabled
    mark(workspace, "parts", first, Label.NORMAL, model=model, uploaded=True, who="ada")
    app = _clean(page(VIEW, **_of_batch(batch)))
    _clean(_button(app, "Add 1 marked picture").click().run())
    with workspace.session() as session:
        latest = datasets.latest_version(session, "parts")
        names = [image.name for image in datasets.list_images(session, latest.id)]
    assert latest.number == 2
    assert "0.png" in names
    app = _clean(page(VIEW, dataset="parts", of="added since"))
    assert [shot["name"] for shot in _viewer(app)["shots"]] == ["0.png"]


def test_batch_is_shown_with_the_scores_and_maps_that_it_came_with(
    page: Page, own_studied_home: Path
) -> None:
    workspace = open_workspace()
    batch = scored_batch(workspace, noise(5))
    maps = {file: file.stat().st_mtime_ns for file in batch.folder.rglob("*.npz")}
    app = _clean(page(VIEW, **_of_batch(batch, sort="lowest score first")))
    shots = _viewer(app)["shots"]
    known = {one.id: one.score for one in batches.results(batch).pictures}
    assert [shot["seen"][0]["score"] for shot in shots] == sorted(known.values())
    assert {shot["id"]: shot["seen"][0]["score"] for shot in shots} == known
    assert all(f"batch={batch.id}" in shot["seen"][0]["query"] for shot in shots)
    with serving(Settings()) as client:
        for shot in shots:
            seen = shot["seen"][0]
            for what in ("levels", "regions", "tile.jpg", "map.npy", "result.json", "overlay.png"):
                assert client("GET", f"{seen['folder']}{what}{seen['query']}").status == 200
            assert client("GET", shot["screen"]).headers["content-type"] == "image/jpeg"
            assert client("GET", shot["original"]).body == noise(5)[shot["name"]]
            # The key holds for this batch alone.
            assert client("GET", shot["screen"].replace(f"&batch={batch.id}", "")).status == 401
    assert {file: file.stat().st_mtime_ns for file in batch.folder.rglob("*.npz")} == maps


@pytest.mark.parametrize("chosen", [{}, {"show": "escapes", "sort": "most against their label"}])
def test_batch_offers_nothing_that_needs_labels(
    page: Page, own_studied_home: Path, chosen: dict[str, str]
) -> None:
    batch = scored_batch(open_workspace(), noise(3))
    app = _clean(page(VIEW, dataset="parts", **chosen))
    assert {"escapes", "passed"} <= set(app.segmented_control(key="show").options)
    app = _clean(app.segmented_control(key="of").set_value(batch_links.title(batch)).run())
    assert not _viewer(app)["labelled"]
    assert _viewer(app)["total"] == 3
    assert app.segmented_control(key="show").options == ["all", "rejects", "accepts", "near the threshold"]
    assert "most against their label" not in app.selectbox(key="sort").options
    assert not [one for one in app.selectbox if one.key == "defect"]
    app = _clean(page(VIEW, **_of_batch(batch), **chosen))  # by an address that asks for what is not offered
    assert _viewer(app)["total"] == 3


def test_batch_keeps_the_version_that_scored_it_whoever_is_champion(
    page: Page, own_studied_home: Path, second_model: Model
) -> None:
    workspace = open_workspace()
    first = _champion(workspace)
    batch = scored_batch(workspace, noise(3))
    promote(workspace, "parts", second_model.version, who="tester", why="to try it")
    app = _clean(page(VIEW, **_of_batch(batch)))
    assert _viewer(app)["lenses"][0]["title"] == f"version {first.version}"
    told = [one.value for one in app.info]
    assert any(f"version {second_model.version} is the champion now" in one for one in told)
    # Chosen on the page, too, it opens with the version that scored it.
    app = _clean(page(VIEW, dataset="parts"))
    assert _viewer(app)["lenses"][0]["title"] == f"version {second_model.version}"
    app = _clean(app.segmented_control(key="of").set_value(batch_links.title(batch)).run())
    assert _viewer(app)["lenses"][0]["title"] == f"version {first.version}"
    # Another version looks at it only when it is asked to, and its maps lie in the batch as well.
    app = _clean(page(VIEW, **_of_batch(batch, beside=f"version {second_model.version}")))
    assert all(len(shot["seen"]) == 2 for shot in _viewer(app)["shots"])
    assert len(list((batch.folder / "maps" / "parts" / str(second_model.version)).glob("*.npz"))) == 3


def test_batch_opens_though_its_version_was_deleted_in_mlflow(page: Page, own_studied_home: Path) -> None:
    from storage.tracking import Tracking

    workspace = open_workspace()
    batch = scored_batch(workspace, noise(3))
    client = Tracking(Settings()).client
    client.delete_model_version("parts", str(batch.model_version))
    app = _clean(page(VIEW, **_of_batch(batch)))
    assert _viewer(app)["total"] == 3
    seen = _current(app)["seen"][0]
    with serving(Settings()) as answers:
        assert answers("GET", f"{seen['folder']}levels{seen['query']}").status == 200


def test_batch_says_where_its_own_page_decides_by_another_threshold(
    page: Page, own_studied_home: Path
) -> None:
    workspace = open_workspace()
    batch = scored_batch(workspace, noise(3))
    assert not _clean(page(VIEW, **_of_batch(batch))).info
    set_point(workspace, _champion(workspace), by_value(-1e6), found=None, who="t", why="reject all")
    app = _clean(page(VIEW, **_of_batch(batch)))
    assert {shot["seen"][0]["decision"] for shot in _viewer(app)["shots"]} == {"reject"}
    assert any("keep those of its time" in one.value for one in app.info)


def test_deleted_batch_is_told_and_other_pictures_are_shown(page: Page, own_studied_home: Path) -> None:
    workspace = open_workspace()
    batch = scored_batch(workspace, noise(1))
    address = _of_batch(batch)
    batches.delete(workspace, batch.id)
    app = _clean(page(VIEW, **address))
    assert any("There is no batch" in one.value for one in app.warning)
    assert _viewer(app)["total"] == 30


def test_old_batches_are_reached_by_address_and_the_newest_are_offered(
    page: Page, own_studied_home: Path
) -> None:
    workspace = open_workspace()
    made = [scored_batch(workspace, noise(1)) for _ in range(5)]
    app = _clean(page(VIEW, dataset="parts"))
    offered = [option for option in app.segmented_control(key="of").options if " · " in option]
    assert offered == [batch_links.title(one) for one in reversed(made[2:])]
    app = _clean(page(VIEW, **_of_batch(made[0])))
    assert _link_back(app)["batch"] == [made[0].id]


def test_batch_of_thousands_is_browsed_without_reading_its_maps(page: Page, own_studied_home: Path) -> None:
    workspace = open_workspace()
    batch = scored_batch(workspace, noise(1))
    (one,) = read_results(batch.folder)
    with (batch.folder / RESULTS).open("a") as journal:  # as 4,999 more pictures would leave it
        for number in range(1, 5000):
            digest = sha256(str(number).encode()).hexdigest()
            more = replace(one, place=number, name=f"{number}.png", digest=digest, pixel_digest=digest)
            journal.write(json.dumps(asdict(replace(more, score=float(number)))) + "\n")
    app = _clean(page(VIEW, **_of_batch(batch)))
    given = _viewer(app)
    assert (given["total"], len(given["shots"]), len(_tiles(app))) == (5000, 31, 24)
    assert given["shots"][0]["name"] == "4999.png"
    app = _clean(page(VIEW, **_of_batch(batch, image="2500-0")))
    assert _viewer(app)["current"] == "2500-0"
    app = _clean(page("views/score.py", **batch_links.on_score(batch)))
    assert len(_tiles(app)) == 24
