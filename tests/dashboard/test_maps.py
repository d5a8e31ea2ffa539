"""Real HTTP against the addresses of maps: what is sent is what the engine computed, and nothing for strangers."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dashboard import maps
from dashboard.scales import scale_of
from engine.heatmap import overlay
from engine.images import decode
from engine.masks import decode_mask
from engine.regions import regions
from storage import datasets, models
from storage.records import ImageRecord, Model, Role
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tests.dashboard.upload_client import Client, serving
from tuning.operating_points import by_value, set_point
from tuning.predictor import map_of

pytestmark = pytest.mark.slow


@pytest.fixture
def workspace(own_studied_home: Path) -> Iterator[Workspace]:
    opened = open_workspace(Settings(home=own_studied_home, device="cpu", precision="fp32"))
    yield opened
    opened.close()


@pytest.fixture
def client(workspace: Workspace) -> Iterator[Client]:
    with serving(workspace.settings) as made:
        made.headers.clear()  # what follows a link carries no ticket
        yield made


@pytest.fixture
def model(workspace: Workspace) -> Model:
    with workspace.session() as session:
        found = models.champion(session, "parts")
    assert found is not None
    return found


@pytest.fixture
def image(workspace: Workspace, model: Model) -> ImageRecord:
    """A test picture with a mask and with regions beyond what normal parts reach."""
    level = scale_of(model).map_threshold
    with workspace.session() as session:
        found = datasets.list_images(session, model.dataset_version_id, role=Role.TEST)
    return next(one for one in found if one.mask_digest and (map_of(workspace, model, one)[1] > level).any())


def test_levels_are_the_map_to_a_65535th_of_its_range(
    client: Client, workspace: Workspace, model: Model, image: ImageRecord
) -> None:
    answer = client("GET", maps.address(workspace.settings, "levels", model, image))
    about = json.loads(answer.headers["x-levels"])
    assert answer.status == 200
    assert "immutable" in answer.headers["cache-control"]
    steps = np.frombuffer(answer.body, "<u2").reshape(about["height"], about["width"])
    sent = about["low"] + steps / maps.STEPS * (about["high"] - about["low"])
    wanted = map_of(workspace, model, image)[1]
    assert sent.shape == wanted.shape
    assert np.abs(sent - wanted).max() <= (about["high"] - about["low"]) / maps.STEPS


def test_levels_of_a_large_map_are_made_small_and_stay_close() -> None:
    y, x = np.mgrid[:1500, :900].astype(np.float32)
    large = (np.sin(x / 90) + np.cos(y / 120)).astype(np.float32)
    data, about = maps.levels(large)
    assert (about["height"], about["width"], about["picture"]) == (512, 307, [1500, 900])
    steps = np.frombuffer(data, "<u2").reshape(512, 307)
    sent = about["low"] + steps / maps.STEPS * (about["high"] - about["low"])
    rows = ((np.arange(512) + 0.5) * 1500 / 512 - 0.5).round().astype(int)
    columns = ((np.arange(307) + 0.5) * 900 / 307 - 0.5).round().astype(int)
    assert np.abs(sent - large[np.ix_(rows, columns)]).max() < 0.02


def test_flat_map_has_levels_too() -> None:
    data, about = maps.levels(np.full((4, 4), 2.5, np.float32))
    assert (about["low"], set(np.frombuffer(data, "<u2"))) == (2.5, {0})


def test_files_hold_the_map_to_the_last_bit(
    client: Client, workspace: Workspace, model: Model, image: ImageRecord
) -> None:
    wanted = map_of(workspace, model, image)[1]
    npy = client("GET", maps.address(workspace.settings, "map.npy", model, image))
    assert np.array_equal(np.load(io.BytesIO(npy.body)), wanted)
    tiff = client("GET", maps.address(workspace.settings, "map.tiff", model, image))
    with Image.open(io.BytesIO(tiff.body)) as read:
        assert read.mode == "F"
        assert np.array_equal(np.asarray(read), wanted)
    stem = image.name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    assert f"filename*=UTF-8''{stem}.tiff" in tiff.headers["content-disposition"]


def test_overlay_is_drawn_as_asked(
    client: Client, workspace: Workspace, model: Model, image: ImageRecord
) -> None:
    address = maps.address(workspace.settings, "overlay.png", model, image, opacity="80", colours="greys")
    with Image.open(io.BytesIO(client("GET", address).body)) as read:
        sent = np.asarray(read)
    pixels = decode(workspace.blobs.get(image.digest), "picture")
    wanted = overlay(pixels, map_of(workspace, model, image)[1], scale_of(model), 0.8, "greys")
    assert np.array_equal(sent, np.asarray(wanted))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"opacity": "180"}, "from 0 to 100"),
        ({"opacity": "x"}, "whole number"),
        ({"colours": "jet"}, "greys"),
    ],
)
def test_overlay_that_can_not_be_drawn_says_why(
    client: Client,
    workspace: Workspace,
    model: Model,
    image: ImageRecord,
    options: dict[str, str],
    said: str,
) -> None:
    answer = client("GET", maps.address(workspace.settings, "overlay.png", model, image, **options))
    assert answer.status == 400
    assert said in answer.json["error"]


def test_regions_and_result_tell_area_position_and_decision(
    client: Client, workspace: Workspace, model: Model, image: ImageRecord
) -> None:
    score, anomaly_map = map_of(workspace, model, image)
    found = client("GET", maps.address(workspace.settings, "regions", model, image)).json
    wanted = regions(anomaly_map, scale_of(model).map_threshold)
    assert found["count"] == len(wanted)
    assert found["regions"][0]["area"] == wanted[0].area
    assert tuple(found["regions"][0]["box"]) == wanted[0].box
    assert len(found["outlines"]) >= 1
    address = maps.address(workspace.settings, "result.json", model, image)
    for threshold, decision in ((score + 1, "accept"), (score - 1, "reject")):
        set_point(workspace, model, by_value(threshold), found=None, who="t", why="t")
        told = client("GET", address)
        assert told.headers["cache-control"] == "no-store"
        assert (told.json["decision"], told.json["threshold"]) == (decision, threshold)
    assert told.json["score"] == score
    assert told.json["model_version"] == model.version
    assert told.json["regions"] == found["regions"]


def test_small_overlay_is_kept_on_disk(
    client: Client, workspace: Workspace, model: Model, image: ImageRecord
) -> None:
    address = maps.address(workspace.settings, "tile.jpg", model, image)
    first = client("GET", address)
    assert first.headers["content-type"] == "image/jpeg"
    (kept,) = (workspace.settings.maps_folder / "parts" / "1" / "tiles").glob("*.jpg")
    assert kept.read_bytes() == first.body
    kept.write_bytes(b"kept")
    assert client("GET", address).body == b"kept"


def test_map_that_no_cache_holds_is_computed(
    client: Client, workspace: Workspace, model: Model, image: ImageRecord
) -> None:
    wanted = map_of(workspace, model, image)[1]
    file = workspace.settings.maps_folder / "parts" / "1" / f"{image.pixel_digest}.npz"
    file.unlink()
    sent = client("GET", maps.address(workspace.settings, "map.npy", model, image))
    assert np.array_equal(np.load(io.BytesIO(sent.body)), wanted)
    assert file.exists()


def test_screen_shows_the_picture_as_the_model_saw_it(
    client: Client, workspace: Workspace, image: ImageRecord
) -> None:
    answer = client("GET", maps.screen_address(workspace.settings, image.digest))
    with Image.open(io.BytesIO(answer.body)) as read:
        sent = np.asarray(read).astype(int)
    assert np.abs(sent - decode(workspace.blobs.get(image.digest), "picture")).mean() < 3


def test_truth_outlines_enclose_the_mask(client: Client, workspace: Workspace, image: ImageRecord) -> None:
    digest = image.mask_digest or ""
    lines = client("GET", maps.truth_address(workspace.settings, digest)).json["outlines"]
    rows, columns = np.nonzero(decode_mask(workspace.blobs.get(digest), "mask"))
    points = np.array([point for line in lines for point in line])
    assert points[:, 0].min() == pytest.approx(columns.min(), abs=1)
    assert points[:, 1].max() == pytest.approx(rows.max() + 1, abs=1)


@pytest.mark.parametrize("what", ["levels", "map.npy", "tile.jpg"])
def test_address_with_another_key_picture_or_model_is_refused(
    client: Client, workspace: Workspace, model: Model, image: ImageRecord, what: str
) -> None:
    address = maps.address(workspace.settings, what, model, image)
    for changed in (
        re.sub(r"key=.", "key=0", address) if "key=0" not in address else re.sub(r"key=.", "key=1", address),
        address.replace("/maps/1/", "/maps/2/"),
        address.replace(image.pixel_digest, "0" * 64),
        address.replace(f"of={image.digest}", f"of={'0' * 64}"),
        address.split("?")[0],
    ):
        answer = client("GET", changed)
        assert answer.status == 401, changed
        assert "not one that the dashboard gave" in answer.json["error"]


def test_unknown_file_of_a_map_is_refused(
    client: Client, workspace: Workspace, model: Model, image: ImageRecord
) -> None:
    answer = client("GET", maps.address(workspace.settings, "secrets", model, image))
    assert (answer.status, "There is no file 'secrets'" in answer.json["error"]) == (400, True)


def test_picture_that_is_gone_is_said(
    client: Client, workspace: Workspace, model: Model, image: ImageRecord
) -> None:
    workspace.blobs.path(image.digest).unlink()
    answer = client("GET", maps.screen_address(workspace.settings, image.digest))
    assert answer.status == 404
