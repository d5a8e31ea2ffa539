from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from storage import datasets
from storage.database import session
from storage.errors import (
    BadDatasetName,
    BadVersion,
    DatasetNotFound,
    DuplicateImage,
    VersionNotFound,
)
from storage.records import DatasetVersion, Label, NewImage, Role

START = datetime(2030, 1, 1, 12, tzinfo=UTC)

MakeImage = Callable[..., NewImage]


def create(engine: Engine, images: list[NewImage], name: str = "plates", **changes: Any) -> DatasetVersion:
    values: dict[str, Any] = {"source": "a test", "source_split": False, "now": START} | changes
    with session(engine) as opened:
        return datasets.create_version(opened, name=name, images=images, **values)


def mixed(new_image: MakeImage) -> list[NewImage]:
    """Two train, one calibration, one normal validation, two anomalous test images of which one has a mask."""
    scratch = {"label": Label.ANOMALOUS, "defect_type": "scratch", "role": Role.TEST}
    return [
        new_image("b.png"),
        new_image("a.png"),
        new_image("c.png", role=Role.CALIBRATION),
        new_image("d.png", role=Role.VALIDATION),
        new_image("e.png", **scratch),
        new_image("f.png", **scratch, mask_digest="f" * 64),
    ]


def test_first_version_makes_the_dataset(engine: Engine, new_image: MakeImage) -> None:
    version = create(engine, mixed(new_image), source="folder x", source_split=True)
    assert (version.dataset_name, version.number, version.source, version.source_split) == (
        "plates",
        1,
        "folder x",
        True,
    )
    assert version.created_at == START
    assert version.counts == {
        Role.TRAIN: {Label.NORMAL: 2, Label.ANOMALOUS: 0},
        Role.CALIBRATION: {Label.NORMAL: 1, Label.ANOMALOUS: 0},
        Role.VALIDATION: {Label.NORMAL: 1, Label.ANOMALOUS: 0},
        Role.TEST: {Label.NORMAL: 0, Label.ANOMALOUS: 2},
    }
    assert version.count() == 6
    assert version.count(label=Label.NORMAL) == 4
    assert version.count(role=Role.TEST, label=Label.ANOMALOUS) == 2
    assert version.has_defects
    assert version.has_masks
    assert version.mask_count == 1
    with session(engine) as opened:
        dataset = datasets.get_dataset(opened, "plates")
        assert dataset.latest == version
        assert (dataset.id, dataset.created_at) == (version.dataset_id, START)
        assert datasets.get_version(opened, version.id) == version
        assert datasets.latest_version(opened, "plates") == version


def test_version_of_normal_images_only_has_neither_defects_nor_masks(
    engine: Engine, new_image: MakeImage
) -> None:
    version = create(engine, [new_image("a.png")])
    assert not version.has_defects
    assert not version.has_masks


def test_other_images_make_the_next_version_and_leave_the_first_as_it_was(
    engine: Engine, new_image: MakeImage
) -> None:
    first = create(engine, [new_image("a.png")])
    second = create(engine, [new_image("a.png"), new_image("b.png")], now=START + timedelta(days=1))
    assert (first.number, second.number) == (1, 2)
    assert first.digest != second.digest
    assert first.dataset_id == second.dataset_id
    with session(engine) as opened:
        assert datasets.latest_version(opened, "plates") == second
        assert datasets.list_versions(opened, "plates") == [second, first]
        assert [image.name for image in datasets.list_images(opened, first.id)] == ["a.png"]


def test_same_images_make_no_new_version_whatever_their_order(engine: Engine, new_image: MakeImage) -> None:
    first = create(engine, mixed(new_image))
    again = create(engine, mixed(new_image)[::-1], source="elsewhere", now=START + timedelta(days=1))
    assert again == first


def test_going_back_to_earlier_images_makes_a_new_version(engine: Engine, new_image: MakeImage) -> None:
    first = create(engine, [new_image("a.png")])
    create(engine, [new_image("b.png")])
    third = create(engine, [new_image("a.png")])
    assert third.number == 3
    assert third.digest == first.digest


@pytest.mark.parametrize(
    "change",
    [
        {"name": "z.png"},
        {"role": Role.TEST},
        {"digest": "0" * 64},
        {"height": 1},
        {"role": Role.TEST, "label": Label.ANOMALOUS},
        {"mask_digest": "0" * 64},
    ],
)
def test_version_digest_depends_on_all_that_is_said_of_an_image(
    engine: Engine, new_image: MakeImage, change: dict[str, Any]
) -> None:
    assert (
        create(engine, [new_image("a.png")]).digest != create(engine, [new_image("a.png", **change)]).digest
    )


def test_images_come_back_as_given_in_the_order_given(engine: Engine, new_image: MakeImage) -> None:
    images = mixed(new_image)
    version = create(engine, images)
    with session(engine) as opened:
        found = datasets.list_images(opened, version.id)
        assert [{key: value for key, value in asdict(one).items() if key != "id"} for one in found] == [
            asdict(image) for image in images
        ]
        assert isinstance(found[0].role, Role)


def test_images_can_be_listed_by_role_and_label(engine: Engine, new_image: MakeImage) -> None:
    version = create(engine, mixed(new_image))

    def names(**which: Any) -> str:
        with session(engine) as opened:
            return "".join(image.name[0] for image in datasets.list_images(opened, version.id, **which))

    assert names(role=Role.TRAIN) == "ba"
    assert names(label=Label.ANOMALOUS) == "ef"
    assert names(role=Role.TEST, label=Label.NORMAL) == ""
    assert names(role=Role.VALIDATION, label=Label.NORMAL) == "d"


def test_twenty_thousand_images_are_listed_by_one_query(engine: Engine, new_image: MakeImage) -> None:
    version = create(engine, [new_image(f"{number}.png") for number in range(20_000)])
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    with session(engine) as opened:
        assert len(datasets.list_images(opened, version.id)) == 20_000
    assert len([statement for statement in statements if statement.startswith("SELECT")]) == 1


def test_datasets_are_listed_by_name_with_their_latest_versions(engine: Engine, new_image: MakeImage) -> None:
    create(engine, [new_image("a.png")], name="screws")
    latest = create(engine, [new_image("b.png")], name="screws")
    plates = create(engine, [new_image("a.png")], name="plates")
    with session(engine) as opened:
        listed = datasets.list_datasets(opened)
    assert [(dataset.name, dataset.latest) for dataset in listed] == [("plates", plates), ("screws", latest)]


def test_two_images_of_the_same_pixels_are_refused_in_whatever_roles(
    engine: Engine, new_image: MakeImage
) -> None:
    first = new_image("a.png")
    copy = new_image("copy.png", pixel_digest=first.pixel_digest, role=Role.TEST)
    with pytest.raises(DuplicateImage, match=r"'a\.png' and 'copy\.png' have the same pixels"):
        create(engine, [first, copy])
    with session(engine) as opened:
        assert datasets.list_datasets(opened) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"defect_type": "scratch"}, "labelled normal and has the defect type 'scratch'"),
        ({"label": Label.ANOMALOUS}, "has the role train"),
        ({"label": Label.ANOMALOUS, "role": Role.CALIBRATION}, "has the role calibration"),
        ({"height": 0}, "0×160 px"),
        ({"digest": "abc"}, "'abc'"),
        ({"mask_digest": "F" * 64}, "64 lowercase"),
    ],
)
def test_image_that_contradicts_itself_is_refused(
    engine: Engine, new_image: MakeImage, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadVersion, match=message):
        create(engine, [new_image("a.png", **change)])


def test_version_without_images_is_refused(engine: Engine) -> None:
    with pytest.raises(BadVersion, match="at least one image"):
        create(engine, [])


@pytest.mark.parametrize("name", ["a", "0", "plates-2", "x" * 63])
def test_good_names_are_taken(name: str) -> None:
    datasets.check_dataset_name(name)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("", "brackets-2"),
        ("Plates", "plates"),
        ("my plates", "my-plates"),
        ("-a", "a"),
        ("a/b", "a-b"),
        ("x" * 64, "x" * 63),
        ("a\n", "a"),
        ("plåtar", "pl-tar"),
        ("板", "brackets-2"),
    ],
)
def test_bad_name_is_refused_with_a_suggestion(engine: Engine, name: str, suggestion: str) -> None:
    with pytest.raises(BadDatasetName, match=f"Take for instance '{suggestion}'"):
        create(engine, [], name=name)


def test_unknown_dataset_is_refused_naming_the_nearest_and_all(
    engine: Engine, make_version: Callable[..., DatasetVersion]
) -> None:
    with session(engine) as opened, pytest.raises(DatasetNotFound, match="nor any other yet"):
        datasets.get_dataset(opened, "plate")
    make_version("screws")
    make_version("plates")
    with session(engine) as opened:
        with pytest.raises(DatasetNotFound, match=r"Did you mean 'plates'\? There are: plates, screws\."):
            datasets.get_dataset(opened, "plate")
        with pytest.raises(DatasetNotFound, match=r"There is no dataset 'zzz'\. There are"):
            datasets.latest_version(opened, "zzz")
        with pytest.raises(DatasetNotFound):
            datasets.list_versions(opened, "zzz")


def test_unknown_ids_are_refused(engine: Engine) -> None:
    with session(engine) as opened:
        with pytest.raises(VersionNotFound, match="404"):
            datasets.get_version(opened, 404)
        with pytest.raises(VersionNotFound, match="404"):
            datasets.list_images(opened, 404)


def test_versions_made_at_the_same_time_get_different_numbers(engine: Engine, new_image: MakeImage) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: create(engine, [new_image(f"{number}.png")]), range(16)))
    assert sorted(version.number for version in made) == list(range(1, 17))
    assert len({version.dataset_id for version in made}) == 1


def test_images_are_found_by_their_pixels_and_those_not_there_left_out(
    engine: Engine, new_image: MakeImage
) -> None:
    images = [
        new_image(f"{number}.png") for number in range(1200)
    ]  # half of them are more than one statement takes
    version = create(engine, images)
    wanted = [image.pixel_digest for image in images[::2]]
    with session(engine) as opened:
        found = datasets.find_images(opened, version.id, [*wanted, "f" * 64])
        assert {digest: image.name for digest, image in found.items()} == {
            image.pixel_digest: image.name for image in images[::2]
        }
        assert datasets.find_images(opened, version.id + 1, wanted) == {}


def test_first_images_are_a_few_of_every_kind_in_their_order(engine: Engine, new_image: MakeImage) -> None:
    scratch = {"label": Label.ANOMALOUS, "defect_type": "scratch"}
    images = [
        new_image("c.png"),
        new_image("s1.png", **scratch, role=Role.VALIDATION),
        new_image("b.png"),
        new_image("a.png"),
        new_image("s2.png", **scratch, role=Role.TEST),
        new_image("u.png", label=Label.ANOMALOUS, role=Role.TEST),
        new_image("s3.png", **scratch, role=Role.TEST),
    ]
    version = create(engine, images)
    with session(engine) as opened:
        first = datasets.first_images(opened, version.id, 1)
        assert [image.name for image in first] == ["c.png", "s1.png", "s2.png", "u.png"]
        assert datasets.first_images(opened, version.id, 9) == datasets.list_images(opened, version.id)


class Reading(Session):
    """Counts the rows that come from the database."""

    rows = 0

    def execute(self, *args: Any, **options: Any) -> Any:
        frozen = super().execute(*args, **options).freeze()
        self.rows += len(frozen.data)
        return frozen()


def test_last_role_of_each_picture_is_known(engine: Engine, new_image: MakeImage) -> None:
    create(engine, [new_image("a.png"), new_image("gone.png", role=Role.TEST)])
    create(engine, [new_image("a.png", role=Role.VALIDATION), new_image("gone.png", role=Role.CALIBRATION)])
    create(engine, [new_image("a.png", role=Role.TEST), new_image("new.png")])
    create(engine, [new_image("a.png", role=Role.TRAIN)], name="tiles")
    with Reading(engine) as opened:
        known = datasets.known_roles(opened, "plates")
        assert opened.rows == len(known)  # not all roles of all versions
        assert known == {
            new_image("a.png").pixel_digest: Role.TEST,
            new_image("gone.png").pixel_digest: Role.CALIBRATION,
            new_image("new.png").pixel_digest: Role.TRAIN,
        }
        assert datasets.known_roles(opened, "nothing") == {}
