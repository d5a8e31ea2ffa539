from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.errors import UnknownLayout
from storage.layouts import PICTURE_SUFFIXES, scan
from storage.records import Label

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
        assert (entry.mask_path is not None) == (entry.label is Label.ANOMALOUS)
        if entry.mask_path is not None:
            assert entry.mask_path.is_file()
            assert entry.mask_path.stem == f"{entry.path.stem}_mask"


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
    assert layout.entries[2].mask_path == root / "ground_truth/scratch/000_mask.png"
    assert layout.entries[3].mask_path is None
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
    assert scan(root).entries[0].mask_path == root / "ground_truth/dent/a.bmp"


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
    assert len(layout.entries) == 5
    strangers, unread = layout.notes
    assert strangers.startswith("Left out, not pictures or not inside a folder for their kind (5): ")
    for name in (
        "license.txt",
        "stray.png",
        "train/stray.png",
        "test/good/notes.txt",
        "ground_truth/readme.md",
    ):
        assert name in strangers
    assert unread == (
        "Left out, folders that have no place in the layout (3): elsewhere, train/scratch, test/scratch/deeper."
    )


def test_long_notes_are_cut(make_folder: MakeFolder) -> None:
    (note,) = scan(make_folder("a.png", *(f"{number:03}.txt" for number in range(25)))).notes
    assert note.startswith("Left out, not pictures (25): 000.txt, ")
    assert note.endswith("009.txt and 15 more.")


def test_plain_folder_holds_normal_pictures_without_split(make_folder: MakeFolder) -> None:
    layout = scan(make_folder("b.jpg", "a.PNG", "notes.txt", "deeper/c.png"))
    assert layout.kind == "flat"
    assert not layout.source_split
    assert [(entry.name, entry.split, entry.label, entry.mask_path) for entry in layout.entries] == [
        ("a.PNG", None, Label.NORMAL, None),
        ("b.jpg", None, Label.NORMAL, None),
    ]
    assert layout.notes == (
        "Left out, not pictures (1): notes.txt.",
        "Left out, folders beside the pictures (1): deeper.",
    )


def test_all_usual_picture_formats_are_taken(make_folder: MakeFolder) -> None:
    root = make_folder(*(f"a{suffix}" for suffix in PICTURE_SUFFIXES), "a.gif", "a.pdf", "a")
    layout = scan(root)
    assert {entry.path.suffix for entry in layout.entries} == PICTURE_SUFFIXES
    assert layout.notes == ("Left out, not pictures (3): a, a.gif, a.pdf.",)


def test_hidden_files_and_folders_are_never_seen(make_folder: MakeFolder) -> None:
    hidden = ("._a.png", ".DS_Store", ".git/config", "train/good/._000.png", "test/.cache/a.png")
    layout = scan(make_folder(*MVTEC, *hidden))
    assert len(layout.entries) == 5
    assert layout.notes == ()


def test_folder_named_like_a_picture_is_no_picture(make_folder: MakeFolder) -> None:
    layout = scan(make_folder("a.png", "folder.png/"))
    assert [entry.name for entry in layout.entries] == ["a.png"]


def test_dangling_link_is_noted(make_folder: MakeFolder) -> None:
    root = make_folder("a.png")
    (root / "b.png").symlink_to(root / "gone.png")
    assert scan(root).notes == ("Left out, not pictures (1): b.png.",)


def test_training_pictures_alone_are_no_split(make_folder: MakeFolder) -> None:
    layout = scan(make_folder("train/good/a.png", "train/good/b.png", "test/good/"))
    assert layout.kind == "mvtec"
    assert not layout.source_split
    assert [entry.split for entry in layout.entries] == [None, None]
    assert "shared among all roles" in layout.notes[0]


def test_tree_of_categories_is_refused_naming_them(make_folder: MakeFolder) -> None:
    root = make_folder(*(f"{category}/{name}" for category in ("bottle", "cable") for name in MVTEC))
    with pytest.raises(UnknownLayout, match=r"several products: bottle, cable; .* '.*/source/bottle'"):
        scan(root)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no pictures that can be placed: it is empty"),
        (("a.txt", "b.txt", "c"), "other files 2 × .txt, 1 × no suffix"),
        (("scratch/a.png", "good/a.png"), "folders good, scratch"),
        (("test/good/a.png",), "has a folder test, but no folder train"),
        (("train/cat/a.png", "test/cat/b.png"), "no pictures in train/good; train holds: folders cat"),
        (("train/a.png", "test/good/b.png"), "no pictures in train/good; train holds: 1 pictures"),
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
