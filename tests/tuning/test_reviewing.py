"""Words on pictures become corrections and labels; undone, kept apart where they are uploaded, lost in no case."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.images import decode, pixel_digest
from engine.masks import decode_mask
from storage import datasets, edits, models, reviews
from storage.blobs import BlobStore, FolderBlobs
from storage.errors import BadEdit
from storage.records import DatasetVersion, Edit, ImageRecord, Label, Model, Role, StudyState, now
from storage.workspace import Workspace, open_workspace
from tests.scored_batches import noise
from tuning import corrections, reviewing
from tuning.errors import BadPicture, PictureNotFound
from tuning.operating_points import added_since, images_of
from tuning.reviewing import add_marked, drawn_mask, mark, undo
from tuning.versions import save_edits

pytestmark = pytest.mark.slow


@pytest.fixture
def parts(workspace: Workspace, make_folder: Callable[..., Path]) -> DatasetVersion:
    from tuning.ingest import ingest_folder

    return ingest_folder(workspace, make_folder(defects={"dent": 6, "scratch": 6}), "parts").version


def images(workspace: Workspace, **wanted: object) -> list[ImageRecord]:
    with workspace.session() as session:
        latest = datasets.latest_version(session, "parts")
        return datasets.list_images(session, latest.id, **wanted)  # type: ignore[arg-type]


def waiting(workspace: Workspace) -> list[Edit]:
    with workspace.session() as session:
        return edits.list_edits(session, "parts")


def said(workspace: Workspace) -> dict[str, reviews.Review]:
    with workspace.session() as session:
        return reviews.list_reviews(session, "parts")


def same(workspace: Workspace, image: ImageRecord) -> ImageRecord:
    """The picture in the latest version."""
    return next(one for one in images(workspace) if one.pixel_digest == image.pixel_digest)


@pytest.fixture
def model(workspace: Workspace, parts: DatasetVersion) -> Model:
    """A row of a model of the first version; nobody asks it to score."""
    from storage import studies
    from tuning.spec import StudySpec

    with workspace.session() as session:
        study = studies.create_study(
            session,
            name="parts 1",
            dataset_version_id=parts.id,
            spec=StudySpec(trials=3, seed=7).to_json(),
            now=now(),
        )
        return models.create_model(
            session,
            dataset_version_id=parts.id,
            study_id=study.id,
            trial_number=0,
            run_id="r",
            version=1,
            config={},
            figures={},
            now=now(),
        )


def test_mark_becomes_a_label_of_the_next_version_and_the_role_stays(
    workspace: Workspace, parts: DatasetVersion
) -> None:
    image = images(workspace, role=Role.TEST, label=Label.NORMAL)[0]
    mask = drawn_mask([[(8, 8), (24, 8), (24, 24), (8, 24)]], image.height, image.width)
    mark(workspace, "parts", image, Label.ANOMALOUS, defect_type="  long   scratch ", mask=mask, who="ada")
    assert same(workspace, image).label is Label.NORMAL  # nothing changes until it is saved
    save_edits(workspace, "parts", who="ada")
    saved = same(workspace, image)
    assert (saved.label, saved.defect_type, saved.role) == (Label.ANOMALOUS, "long scratch", Role.TEST)
    assert decode_mask(workspace.blobs.get(saved.mask_digest or ""), "mask").sum() == 16 * 16


def test_normal_picture_that_was_trained_on_and_has_a_defect_goes_to_validation(
    workspace: Workspace, parts: DatasetVersion
) -> None:
    image = images(workspace, role=Role.TRAIN)[0]
    mark(workspace, "parts", image, Label.ANOMALOUS, who="ada")
    save_edits(workspace, "parts", who="ada")
    assert same(workspace, image).role is Role.VALIDATION


def test_defect_confirmed_without_a_type_keeps_its_type_and_its_mask(
    workspace: Workspace, parts: DatasetVersion
) -> None:
    image = images(workspace, role=Role.TEST, label=Label.ANOMALOUS)[0]
    review = mark(workspace, "parts", image, Label.ANOMALOUS, who="ada")
    assert (review.before, review.after) == (None, None)  # it is so already
    assert waiting(workspace) == []
    assert said(workspace)[image.pixel_digest].label is Label.ANOMALOUS  # looked at all the same


def test_undo_takes_marks_back_one_by_one_to_what_was_before(
    workspace: Workspace, parts: DatasetVersion
) -> None:
    image, other = images(workspace, role=Role.TEST, label=Label.NORMAL)[:2]
    corrections.put(workspace, "parts", corrections.relabelled([image], Label.ANOMALOUS, "stain"), who="bob")
    before = waiting(workspace)
    mark(workspace, "parts", image, Label.ANOMALOUS, defect_type="dent", who="ada")
    mark(workspace, "parts", image, Label.NORMAL, who="ada")  # leads back to what it is: nothing waits
    mark(workspace, "parts", other, Label.ANOMALOUS, who="ada")
    assert undo(workspace, "parts").review.pixel_digest == other.pixel_digest
    assert waiting(workspace) == []
    assert undo(workspace, "parts").kept is None
    assert [edit.defect_type for edit in waiting(workspace)] == ["dent"]
    undo(workspace, "parts")
    assert waiting(workspace) == before
    with pytest.raises(BadEdit, match="No mark of dataset 'parts' can be undone"):
        undo(workspace, "parts")


def test_undo_leaves_what_another_hand_changed_since(workspace: Workspace, parts: DatasetVersion) -> None:
    image = images(workspace, role=Role.TEST, label=Label.NORMAL)[0]
    mark(workspace, "parts", image, Label.ANOMALOUS, defect_type="dent", who="ada")
    corrections.put(
        workspace, "parts", corrections.relabelled([image], Label.ANOMALOUS, "scratch"), who="bob"
    )
    undone = undo(workspace, "parts")
    assert undone.kept is not None
    assert [edit.defect_type for edit in waiting(workspace)] == ["scratch"]
    assert image.pixel_digest not in said(workspace)


def test_saved_mark_can_not_be_undone_and_stays_on_record(
    workspace: Workspace, parts: DatasetVersion
) -> None:
    image = images(workspace, role=Role.TEST, label=Label.NORMAL)[0]
    mark(workspace, "parts", image, Label.ANOMALOUS, who="ada")
    version = save_edits(workspace, "parts", who="ada")
    with pytest.raises(BadEdit, match="part of a version"):
        undo(workspace, "parts")
    assert said(workspace)[image.pixel_digest].version_id == version.id


def test_marks_survive_another_opening_of_the_installation(
    workspace: Workspace, parts: DatasetVersion
) -> None:
    image = images(workspace, role=Role.TEST, label=Label.NORMAL)[0]
    mark(workspace, "parts", image, Label.ANOMALOUS, defect_type="dent", who="ada")
    other = open_workspace(workspace.settings)
    assert [edit.defect_type for edit in waiting(other)] == ["dent"]
    assert undo(other, "parts").review.pixel_digest == image.pixel_digest
    other.close()


def test_contradictions_and_strangers_are_refused_and_nothing_is_kept(
    workspace: Workspace, parts: DatasetVersion
) -> None:
    image = images(workspace, role=Role.TEST, label=Label.NORMAL)[0]
    nothing = np.zeros((image.height, image.width), dtype=bool)
    with pytest.raises(BadEdit, match="only a defect has one"):
        mark(workspace, "parts", image, Label.NORMAL, defect_type="dent", who="ada")
    with pytest.raises(BadPicture, match="marks no pixel"):
        mark(workspace, "parts", image, Label.ANOMALOUS, mask=nothing, who="ada")
    stranger = ImageRecord(**{**vars(image), "pixel_digest": "f" * 64})
    with pytest.raises(PictureNotFound):
        mark(workspace, "parts", stranger, Label.ANOMALOUS, who="ada")
    assert (waiting(workspace), said(workspace)) == ([], {})


def test_drawn_mask_covers_what_is_inside_of_any_shape() -> None:
    mask = drawn_mask([[(2, 2), (6, 2), (6, 6), (2, 6)], [(10, 0), (20, 0), (20, 10), (10, 10)]], 12, 20)
    wanted = np.zeros((12, 20), dtype=bool)
    wanted[2:6, 2:6] = wanted[:10, 10:] = True
    assert np.array_equal(mask, wanted)


@given(st.lists(st.tuples(st.floats(-5, 25), st.floats(-5, 25)), min_size=3, max_size=12))
def test_drawn_mask_holds_the_pixels_whose_middle_the_polygon_turns_around(
    shape: list[tuple[float, float]],
) -> None:
    def turns(x: float, y: float) -> int:
        """The winding number, by the angles that the edges are seen under."""
        corners = np.array([complex(u - x, v - y) for u, v in shape])
        angles = np.angle(np.roll(corners, -1) / corners)
        return round(float(angles.sum() / (2 * np.pi)))

    mask = drawn_mask([shape], 12, 16)
    for row, column in ((0, 0), (5, 7), (11, 15), (3, 12)):
        x, y = column + 0.5, row + 0.5
        edges = zip(shape, [*shape[1:], shape[0]], strict=True)
        if min(_distance(x, y, *edge) for edge in edges) > 1e-6:  # on the line itself either will do
            assert mask[row, column] == (turns(x, y) != 0)


def _distance(x: float, y: float, start: tuple[float, float], end: tuple[float, float]) -> float:
    """From a point to a line between two others."""
    from_start, along = complex(x - start[0], y - start[1]), complex(end[0] - start[0], end[1] - start[1])
    share = 0.0 if abs(along) < 1e-9 else (from_start * along.conjugate()).real / abs(along) ** 2
    return abs(from_start - min(1.0, max(0.0, share)) * along)


def test_follow_up_saves_and_studies_like_the_study_before(
    workspace: Workspace, parts: DatasetVersion, model: Model
) -> None:
    image = images(workspace, role=Role.TEST, label=Label.NORMAL)[0]
    mark(workspace, "parts", image, Label.ANOMALOUS, who="ada", model=model)
    study = reviewing.follow_up(workspace, model, who="ada", after=1)
    with workspace.session() as session:
        latest = datasets.latest_version(session, "parts")
    assert (latest.number, study.dataset_version_id) == (2, latest.id)
    assert study.state is StudyState.QUEUED
    assert (study.spec["trials"], study.spec["seed"]) == (3, 7)
    assert study.name == "follow-up of parts 1 on version 2"


def test_model_is_judged_with_corrected_labels_in_the_roles_it_was_made_with(
    workspace: Workspace, parts: DatasetVersion, model: Model
) -> None:
    trained, judged = (
        images(workspace, role=role, label=Label.NORMAL)[0] for role in (Role.TRAIN, Role.TEST)
    )
    for image in (trained, judged):
        mark(workspace, "parts", image, Label.ANOMALOUS, defect_type="dent", who="ada")
    save_edits(workspace, "parts", who="ada")
    found = {image.pixel_digest: image for image in images_of(workspace, model)}
    assert found[judged.pixel_digest].label is Label.ANOMALOUS
    # By now it is a validation picture, but this model was trained on it.
    assert found[trained.pixel_digest].role is Role.TRAIN
    assert added_since(workspace, model) == ()


@dataclass(frozen=True, kw_only=True)
class Given:
    """A picture that was uploaded and is of no dataset."""

    digest: str
    pixel_digest: str
    name: str
    defect_type: str | None = None


def _given(store: BlobStore, count: int) -> list[Given]:
    given = []
    for name, data in noise(count, 48, 40).items():
        pixels = pixel_digest(decode(data, name))
        given.append(Given(digest=store.put(data), pixel_digest=pixels, name=f"line/{name}"))
    return given


def test_marked_pictures_of_an_upload_are_added_with_labels_types_and_masks(
    workspace: Workspace, model: Model, tmp_path: Path
) -> None:
    store = FolderBlobs(tmp_path / "given")  # not the datasets' own
    kept = _given(store, 4)
    with pytest.raises(BadEdit, match="None of the 4 pictures is marked"):
        add_marked(workspace, "parts", kept, store=store, source="parts.zip", who="ada")
    mask = drawn_mask([[(4, 4), (20, 4), (20, 20), (4, 20)]], 48, 40)
    options = {"model": model, "uploaded": True, "who": "ada"}
    mark(workspace, "parts", kept[0], Label.ANOMALOUS, defect_type="dent", mask=mask, **options)  # type: ignore[arg-type]
    mark(workspace, "parts", kept[1], Label.NORMAL, **options)  # type: ignore[arg-type]
    mark(workspace, "parts", kept[2], Label.NORMAL, **options)  # type: ignore[arg-type]
    undo(workspace, "parts")
    # Saving other corrections meanwhile must not settle the marks of pictures that are in no version yet.
    other = images(workspace, role=Role.TEST, label=Label.NORMAL)[0]
    mark(workspace, "parts", other, Label.ANOMALOUS, who="ada")
    save_edits(workspace, "parts", who="ada")
    report = add_marked(workspace, "parts", kept, store=store, source="parts.zip", who="ada")
    assert report.version.number == 3
    added = {image.name: image for image in images(workspace) if image.name.startswith("line/")}
    assert set(added) == {"line/0.png", "line/1.png"}
    dent = added["line/0.png"]
    assert (dent.label, dent.defect_type) == (Label.ANOMALOUS, "dent")
    assert dent.role in (Role.VALIDATION, Role.TEST)
    assert np.array_equal(decode_mask(workspace.blobs.get(dent.mask_digest or ""), "mask"), mask)
    assert added["line/1.png"].label is Label.NORMAL
    assert {image.name for image in added_since(workspace, model)} == set(added)
