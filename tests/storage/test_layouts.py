from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.errors import UnknownLayout
from storage.layouts import Choice, choose, groups, scan, understand
from storage.listing import SourceFile, walk
from storage.records import Label
from storage.tree import PICTURE_SUFFIXES

MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Makes empty files: `make_folder("train/good/a.png")`; a name that ends with a slash makes a folder."""

    def make(*names: str) -> Path:
        root = tmp_path / "source"
        root.mkdir(exist_ok=True)
        for name in names:
            path = root / name
            if name.endswith("/"):
                path.mkdir(parents=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        return root

    return make


MVTEC = (
    "train/good/000.png",
    "train/good/001.png",
    "test/good/000.png",
    "test/scratch/000.png",
    "test/dent/000.png",
    "ground_truth/scratch/000_mask.png",
    "ground_truth/dent/000_mask.png",
)


def test_real_magnetic_tiles_are_understood(magnetic_tile: Path) -> None:
    layout = scan(magnetic_tile)
    assert layout.kind == "mvtec"
    assert layout.source_split
    assert layout.notes == ()
    counts = Counter((entry.split, entry.label) for entry in layout.entries)
    assert counts == {
        ("train", Label.NORMAL): 107,
        ("test", Label.NORMAL): 50,
        ("test", Label.ANOMALOUS): 64,
    }
    kinds = {entry.defect_type for entry in layout.entries}
    assert kinds == {None, "blowhole", "break", "crack", "fray", "uneven"}
    for entry in layout.entries:
        assert entry.path == magnetic_tile / entry.name
        assert bool(entry.mask_paths) == (entry.label is Label.ANOMALOUS)
        for mask in entry.mask_paths:
            assert mask.is_file()
            assert mask.stem == f"{entry.path.stem}_mask"


def test_mvtec_layout_says_split_label_defect_type_and_mask(make_folder: MakeFolder) -> None:
    root = make_folder(*MVTEC)
    layout = scan(root)
    assert [(e.name, e.split, e.label.value, e.defect_type) for e in layout.entries] == [
        ("test/dent/000.png", "test", "anomalous", "dent"),
        ("test/good/000.png", "test", "normal", None),
        ("test/scratch/000.png", "test", "anomalous", "scratch"),
        ("train/good/000.png", "train", "normal", None),
        ("train/good/001.png", "train", "normal", None),
    ]
    assert layout.entries[2].mask_paths == (root / "ground_truth/scratch/000_mask.png",)
    assert [mask.name for mask in layout.entries[2].masks] == ["ground_truth/scratch/000_mask.png"]
    assert layout.entries[3].mask_paths == ()
    assert layout.notes == ()


def test_anomalous_picture_without_mask_and_mask_without_picture_are_noted(make_folder: MakeFolder) -> None:
    layout = scan(make_folder(*MVTEC, "test/scratch/007.png", "ground_truth/dent/009_mask.png"))
    assert layout.notes == (
        "Masks without a picture (1): ground_truth/dent/009_mask.png.",
        "Anomalous pictures without a mask (1): test/scratch/007.png.",
    )
    assert len(layout.entries) == 6


def test_mask_may_have_the_name_of_its_picture_and_another_suffix(make_folder: MakeFolder) -> None:
    root = make_folder(*MVTEC[:3], "test/dent/a.JPG", "ground_truth/dent/a.bmp")
    assert scan(root).entries[0].mask_paths == (root / "ground_truth/dent/a.bmp",)


@pytest.mark.parametrize("normal", ["good", "ok", "normal", "OK"])
def test_folder_of_normal_test_pictures_may_have_other_usual_names(
    make_folder: MakeFolder, normal: str
) -> None:
    layout = scan(make_folder(f"train/{normal}/a.png", f"test/{normal}/b.png", "test/dent/c.png"))
    assert [entry.label for entry in layout.entries if entry.path.name != "c.png"] == [Label.NORMAL] * 2


def test_what_has_no_place_is_left_out_and_noted(make_folder: MakeFolder) -> None:
    layout = scan(
        make_folder(
            *MVTEC,
            "license.txt",
            "stray.png",
            "train/stray.png",
            "train/scratch/000.png",
            "test/good/notes.txt",
            "test/scratch/deeper/000.png",
            "ground_truth/readme.md",
            "elsewhere/000.png",
        )
    )
    notes = " ".join(layout.notes)
    for name in ("license.txt", "test/good/notes.txt", "elsewhere"):
        assert name in notes
    assert "elsewhere/000.png" not in {entry.name for entry in layout.entries}
    assert "stray.png" not in {entry.name for entry in layout.entries}
    by_name = {entry.name: entry for entry in layout.entries}
    assert by_name["train/stray.png"].label is Label.NORMAL
    # Nothing anomalous is trained on, wherever it lies.
    assert (by_name["train/scratch/000.png"].label, by_name["train/scratch/000.png"].split) == (
        Label.ANOMALOUS,
        None,
    )
    assert by_name["test/scratch/deeper/000.png"].defect_type == "scratch"


def test_long_notes_are_cut(make_folder: MakeFolder) -> None:
    (note,) = scan(make_folder("a.png", *(f"{number:03}.txt" for number in range(25)))).notes
    assert note.startswith("Left out, not pictures (25): 000.txt, ")
    assert note.endswith("009.txt and 15 more.")


def test_plain_folder_holds_normal_pictures_without_split(make_folder: MakeFolder) -> None:
    layout = scan(make_folder("b.jpg", "a.PNG", "notes.txt", "deeper/c.png"))
    assert layout.kind == "flat"
    assert not layout.source_split
    assert [(entry.name, entry.split, entry.label, entry.mask_paths) for entry in layout.entries] == [
        ("a.PNG", None, Label.NORMAL, ()),
        ("b.jpg", None, Label.NORMAL, ()),
    ]
    assert layout.notes == (
        "Left out, not pictures (1): notes.txt.",
        "Left out, folders beside the pictures (1): deeper.",
    )


def test_all_usual_picture_formats_are_taken(make_folder: MakeFolder) -> None:
    root = make_folder(*(f"a{suffix}" for suffix in PICTURE_SUFFIXES), "a.gif", "a.pdf", "a")
    layout = scan(root)
    assert {entry.path.suffix for entry in layout.entries} == PICTURE_SUFFIXES
    assert layout.notes == ("Left out, not pictures (2): a, a.pdf.",)
    (gif,) = layout.skipped
    assert gif.name == "a.gif"
    assert gif.reason.startswith("It is a GIF")


@pytest.mark.parametrize(
    ("names", "where"),
    [
        (("a.png", "v.SVG", "photo.heic", "notes.txt"), ""),
        (
            (*MVTEC, "test/dent/v.SVG", "test/photo.heic", "notes.txt"),
            " or not inside a folder for their kind",
        ),
        (("good/a.png", "bad/b.png", "bad/v.SVG", "good/photo.heic", "bad/notes.txt"), ""),
    ],
)
def test_pictures_in_formats_that_are_not_read_are_told_apart(
    make_folder: MakeFolder, names: tuple[str, ...], where: str
) -> None:
    layout = scan(make_folder(*names))
    (note,) = layout.notes
    assert note.startswith(f"Left out, not pictures{where} (1): ")
    assert note.endswith("notes.txt.")
    assert {one.name.rpartition("/")[2]: one.reason for one in layout.skipped} == {
        "v.SVG": "It is a drawing without pixels. Export it as PNG.",
        "photo.heic": "It is a photo of a kind that is not read here. Export it as PNG or JPEG.",
    }


def test_flat_folder_is_one_group_called_after_it(make_folder: MakeFolder) -> None:
    assert [group.key for group in groups(scan(make_folder("a.png", "b.png")))] == ["pictures"]
    wrapped = [SourceFile(name=f"Brackets/{one}.png", path=Path(one)) for one in "ab"]
    (layout,) = understand(wrapped, "upload.zip")
    assert [group.key for group in groups(layout)] == ["Brackets"]


def test_hidden_files_and_folders_are_never_seen(make_folder: MakeFolder) -> None:
    hidden = ("._a.png", ".DS_Store", ".git/config", "train/good/._000.png", "test/.cache/a.png")
    layout = scan(make_folder(*MVTEC, *hidden))
    assert len(layout.entries) == 5
    assert layout.notes == ()


def test_folder_named_like_a_picture_is_no_picture(make_folder: MakeFolder) -> None:
    layout = scan(make_folder("a.png", "folder.png/"))
    assert [entry.name for entry in layout.entries] == ["a.png"]


def test_dangling_link_is_no_picture(make_folder: MakeFolder) -> None:
    root = make_folder("a.png")
    (root / "b.png").symlink_to(root / "gone.png")
    assert [entry.name for entry in scan(root).entries] == ["a.png"]


def test_training_pictures_alone_are_no_split(make_folder: MakeFolder) -> None:
    layout = scan(make_folder("train/good/a.png", "train/good/b.png", "test/good/"))
    assert layout.kind == "mvtec"
    assert not layout.source_split
    assert [entry.split for entry in layout.entries] == [None, None]
    assert "shared among all roles" in layout.notes[0]


def test_tree_of_categories_makes_a_dataset_of_each(make_folder: MakeFolder) -> None:
    root = make_folder(*(f"{category}/{name}" for category in ("Bottle", "cable") for name in MVTEC))
    found = understand(walk(root), str(root))
    assert [(layout.name, layout.kind, len(layout.entries)) for layout in found] == [
        ("bottle", "mvtec", 5),
        ("cable", "mvtec", 5),
    ]
    with pytest.raises(UnknownLayout, match="several products: bottle, cable"):
        scan(root)


def test_folder_around_everything_may_be_called_after_masks(make_folder: MakeFolder) -> None:
    (layout,) = understand(walk(make_folder(*(f"masks/lids/{name}" for name in MVTEC))), "upload.zip")
    assert (layout.kind, layout.name, len(layout.entries)) == ("mvtec", "lids", 5)
    assert sum(bool(entry.masks) for entry in layout.entries) == 2


def test_several_masks_of_a_picture_belong_to_it(make_folder: MakeFolder) -> None:
    tree = ("train/good/a.png", "test/good/b.png", "test/dent/c.png", "test/dent/d.png")
    masks = ("dent/c_mask.png", "dent/c_mask_2.png", "dent/d/000.png", "dent/d/001.png")
    layout = scan(make_folder(*tree, *(f"ground_truth/{mask}" for mask in masks)))
    assert {entry.path.name: len(entry.mask_paths) for entry in layout.entries} == {
        "a.png": 0,
        "b.png": 0,
        "c.png": 2,
        "d.png": 2,
    }


@pytest.mark.parametrize(
    ("names", "labels", "sure"),
    [
        (("good/a.png", "bad/b.png"), {"a.png": "normal", "b.png": "anomalous"}, True),
        (("gut/a.png", "schlecht/b.png"), {"a.png": "normal", "b.png": "anomalous"}, True),
        (
            ("x/a.png", "x/c.png", "y/b.png"),
            {"a.png": "normal", "c.png": "normal", "b.png": "anomalous"},
            False,
        ),
    ],
)
def test_two_folders_are_normal_and_anomalous(
    make_folder: MakeFolder, names: tuple[str, ...], labels: dict[str, str], sure: bool
) -> None:
    layout = scan(make_folder(*names))
    assert layout.kind == "two_folders"
    assert {entry.path.name: entry.label.value for entry in layout.entries} == labels
    assert (layout.unsure is None) == sure


def test_person_says_which_folder_holds_the_normal_parts(make_folder: MakeFolder) -> None:
    root = make_folder("x/a.png", "x/c.png", "y/b.png")
    (layout,) = understand(walk(root), str(root), normal="y")
    assert {entry.name: entry.label for entry in layout.entries}["y/b.png"] is Label.NORMAL
    assert layout.unsure is None


def test_choices_change_label_split_and_leave_groups_out(make_folder: MakeFolder) -> None:
    layout = scan(make_folder(*MVTEC))
    keys = [group.key for group in groups(layout)]
    assert keys == ["test/dent", "test/good", "test/scratch", "train/good"]
    chosen = choose(
        layout,
        {
            "test/scratch": Choice(split="test", label=Label.NORMAL),
            "test/good": Choice(split=None, label=Label.NORMAL, leave_out=True),
        },
    )
    assert {entry.group for entry in chosen.entries} == {"test/dent", "test/scratch", "train/good"}
    relabelled = [entry for entry in chosen.entries if entry.group == "test/scratch"]
    assert relabelled
    assert all(entry.label is Label.NORMAL and not entry.mask_paths for entry in relabelled)
    with pytest.raises(UnknownLayout, match="no group 'nowhere'"):
        choose(layout, {"nowhere": Choice(split=None, label=Label.NORMAL)})
    with pytest.raises(UnknownLayout, match="All groups are left out"):
        choose(layout, {key: Choice(split=None, label=Label.NORMAL, leave_out=True) for key in keys})


def test_twenty_thousand_names_are_understood(tmp_path: Path) -> None:
    files = [
        SourceFile(name=f"train/good/{number:05}.png", path=tmp_path / "x") for number in range(10_000)
    ] + [
        SourceFile(name=f"test/{number % 40}/{number:05}.png", path=tmp_path / "x")
        for number in range(10_000)
    ]
    (layout,) = understand(files, "parts.zip")
    assert (layout.name, len(layout.entries), len(groups(layout))) == ("parts", 20_000, 41)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no pictures that can be placed: it is empty"),
        (("a.txt", "b.txt", "c"), "other files 2 × .txt, 1 × no suffix"),
        (("test/good/a.png",), "has a folder test, but no folder train"),
        (
            ("train/cat/a.png", "test/cat/b.png"),
            "no pictures of normal parts in train; train holds: folders cat",
        ),
    ],
)
def test_other_arrangements_are_refused_saying_what_was_found_and_what_is_understood(
    make_folder: MakeFolder, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UnknownLayout) as caught:
        scan(make_folder(*names))
    assert message in str(caught.value)
    assert "Understood are: a plain folder" in str(caught.value)
    assert "train/good" in str(caught.value)


def test_absent_folder_and_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownLayout, match="doesn't exist"):
        scan(tmp_path / "absent")
    (tmp_path / "file.png").touch()
    with pytest.raises(UnknownLayout, match="is a file, not a folder"):
        scan(tmp_path / "file.png")
