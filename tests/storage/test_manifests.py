"""Lists of pictures as people and services write them."""

from pathlib import Path

import pytest

from storage.errors import UnknownLayout
from storage.layouts import understand
from storage.listing import SourceFile, walk
from storage.records import Label

COOKIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "cookies_lookout"


def files(tmp_path: Path, text: str, *names: str, called: str = "list.csv") -> list[SourceFile]:
    (tmp_path / called).write_text(text)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return walk(tmp_path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_says_label_split_and_mask(tmp_path: Path, delimiter: str) -> None:
    rows = ["path,label,split,mask", "a.png,good,train,", "b.png,scratch,test,m/b.png", "c.png,good,test,"]
    text = "\n".join(row.replace(",", delimiter) for row in rows)
    (layout,) = understand(files(tmp_path, text, "a.png", "b.png", "c.png", "m/b.png"), "parts.zip")
    assert layout.kind == "manifest"
    assert [(e.name, e.label.value, e.defect_type, e.split, len(e.mask_paths)) for e in layout.entries] == [
        ("a.png", "normal", None, "train", 0),
        ("b.png", "anomalous", "scratch", "test", 1),
        ("c.png", "normal", None, "test", 0),
    ]


def test_json_lines_find_their_pictures_by_the_end_of_the_path(tmp_path: Path) -> None:
    text = (
        '{"image": "s3://bucket/run/x/a.png", "label": 0}\n{"image": "s3://bucket/run/y/a.png", "label": 1}\n'
    )
    (layout,) = understand(files(tmp_path, text, "x/a.png", "y/a.png", called="all.jsonl"), "parts.zip")
    assert {entry.name: entry.label for entry in layout.entries} == {
        "x/a.png": Label.NORMAL,
        "y/a.png": Label.ANOMALOUS,
    }


def test_missing_and_unnamed_pictures_are_noted(tmp_path: Path) -> None:
    (layout,) = understand(files(tmp_path, "path,label\na.png,good\nz.png,good\n", "a.png", "b.png"), "x")
    assert [entry.name for entry in layout.entries] == ["a.png"]
    assert "Pictures that the list does not name, left out (1): b.png." in layout.notes
    assert "Named in the list, but not among the files (1): z.png." in layout.notes


@pytest.mark.parametrize(
    ("called", "text", "message"),
    [
        ("list.csv", "path,label\na.png\n", "Line 2 of 'list.csv' has not one value"),
        ("list.jsonl", '{"path": "a.png"}\n{"path":\n', "Line 2 of 'list.jsonl' is no JSON"),
        ("list.csv", "path,label\nnowhere.png,good\n", "none of them is among the files"),
    ],
)
def test_list_that_can_not_be_read_is_refused(tmp_path: Path, called: str, text: str, message: str) -> None:
    with pytest.raises(UnknownLayout, match=message):
        understand(files(tmp_path, text, "a.png", called=called), "x")


def test_table_that_is_no_list_of_pictures_is_left_out(tmp_path: Path) -> None:
    (layout,) = understand(files(tmp_path, "temperature\n21\n", "a.png", called="log.csv"), "x")
    assert layout.kind == "flat"


def test_manifest_of_the_ended_cloud_service() -> None:
    if not COOKIES.is_dir():
        pytest.skip("the cookies' pictures are not on this machine")
    (layout,) = understand(walk(COOKIES), str(COOKIES))
    assert layout.kind == "lookout"
    listed = [entry for entry in layout.entries if entry.split is None]
    assert sum(entry.label is Label.ANOMALOUS for entry in listed) == 32
    assert sum(entry.label is Label.NORMAL for entry in listed) == 31
    assert sum(bool(entry.mask_paths) and entry.white_is_background for entry in listed) == 32
    judged = [entry for entry in layout.entries if entry.split == "test"]
    assert len(judged) == 22
    assert all(("anomaly" in entry.name) == (entry.label is Label.ANOMALOUS) for entry in judged)
