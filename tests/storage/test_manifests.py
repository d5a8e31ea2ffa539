"""Lists of pictures as people and services write them."""

import json
from pathlib import Path

import pytest

from storage.errors import UnknownLayout
from storage.layouts import understand
from storage.list_rows import MAX_BYTES
from storage.listing import SourceFile, walk
from storage.manifests import CONTRADICTED, MISSING
from storage.records import Label, Skipped

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


def test_path_of_very_many_folders_finds_its_picture_at_once(tmp_path: Path) -> None:
    """It is compared by its last folders alone; with all of them it took minutes, in which no job hears a cancel."""
    text = json.dumps({"path": "a/" * 100_000 + "x/a.png"})
    (layout,) = understand(files(tmp_path, text, "x/a.png", "y/a.png", called="all.jsonl"), "parts.zip")
    assert [entry.name for entry in layout.entries] == ["x/a.png"]


def test_missing_and_unnamed_pictures_are_noted(tmp_path: Path) -> None:
    (layout,) = understand(files(tmp_path, "path,label\na.png,good\nz.png,good\n", "a.png", "b.png"), "x")
    assert [entry.name for entry in layout.entries] == ["a.png"]
    assert "Pictures that the list does not name, left out (1): b.png." in layout.notes
    assert layout.skipped == (Skipped(name="z.png", reason=MISSING),)


@pytest.mark.parametrize(
    ("called", "text", "message"),
    [
        ("list.csv", "path,label\na.png\n", "Line 2 of 'list.csv' has not one value"),
        ("list.jsonl", '{"path": "a.png"}\n{"path":\n', "Line 2 of 'list.jsonl' is no JSON"),
        ("list.csv", "path,label\nnowhere.png,good\n", "none of them is among the files: nowhere.png"),
        ("list.csv", 'path,label\n"a.png,good\nb.png,good\n', "Line 3 of 'list.csv' has not one value"),
        ("list.csv", "path,label\nx.wav,good\ny.wav\na.png,good\n", "Line 3 of 'list.csv' has not one value"),
        ("list.csv", f"path,label\na.png,{'x' * 140_000}\n", "Line 2 of 'list.csv' is no CSV: field larger"),
        ("list.json", '[{"path": "a.png"},\n{"path":]', "Entry 2 of 'list.json' is no JSON"),
        ("list.jsonl", '{"path": "a.png"}\n5\n', "Line 2 of 'list.jsonl' is no JSON object"),
        (
            "list.csv",
            "path,type\na.png,x\0y\n",
            r"Line 2 of 'list.csv' holds the control character U\+0000 in the col",
        ),
        ("list.csv", "path,label\na\x1b.png,good\n", r"Line 2 .* U\+001B in the column 'path': 'a\\x1b.png'"),
        (
            "list.jsonl",
            '{"path": "a.png", "label": "a\\ud800b"}',
            r"Line 1 .* U\+D800 in the column 'label'",
        ),
        (
            "list.json",
            '[{"path": "a.png", "mask": "\\u202e.png"}]',
            r"Entry 1 .* U\+202E in the column 'mask'",
        ),
        (
            "list.manifest",
            '{"source-ref": "a.png", "x-label": 1, "x-label-metadata": {"class-name": "\\u0007"}}',
            r"Line 1 .* U\+0007 in the column 'x-label'",
        ),
        (
            "list.manifest",
            '{"source-ref": "a.png", "x-label": 1, "x-label-metadata": "scratch"}',
            "Line 1 of 'list.manifest' has 'scratch' as 'x-label-metadata', which must be an object",
        ),
        ("list.csv", "path,label\na.png,good\na.png,bad\n", "named twice, as normal and as anomalous: a.png"),
    ],
)
def test_list_that_can_not_be_read_is_refused(tmp_path: Path, called: str, text: str, message: str) -> None:
    with pytest.raises(UnknownLayout, match=message):
        understand(files(tmp_path, text, "a.png", called=called), "x")


def test_table_that_is_no_list_of_pictures_is_left_out(tmp_path: Path) -> None:
    (layout,) = understand(files(tmp_path, "temperature\n21\n", "a.png", called="log.csv"), "x")
    assert layout.kind == "flat"


COCO = {"info": {"by": "x"}, "images": [{"file_name": "a.png", "id": 1}], "annotations": []}
LABELME = {"version": "5", "imagePath": "a.png", "shapes": [{"label": "scratch"}]}
SIDECAR = {"filename": "a.png", "exposure": 3}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("content", [COCO, LABELME, SIDECAR, [1, 2], [{"file_name": "a.txt"}], {}])
def test_json_that_is_no_list_of_pictures_is_left_out(
    tmp_path: Path, content: object, indent: int | None
) -> None:
    text = json.dumps(content, indent=indent)
    (layout,) = understand(files(tmp_path, text, "a.png", called="a.json"), "x")
    assert (layout.kind, layout.notes) == ("flat", ("Left out, not pictures (1): a.json.",))


@pytest.mark.parametrize(
    ("called", "text", "why"),
    [
        ("a.json", '{"info": {\n"by": ,\n', "is no JSON"),
        ("a.json", "[" * 200_000, "is no JSON"),
        ("a.json", "[" + "1" * 5000 + "]", "is no JSON"),
        ("a.jsonl", '{"event": 1}\nstopped\n', "is no JSON"),
        ("a.csv", "file,seconds\nx.wav,1\ny.wav\n", "is no CSV"),
        ("a.csv", f"file,blob\nx.wav,{'x' * 140_000}\n", "is no CSV"),
        ("a.csv", "path,label\nb\xe4r.png,gut\n".encode("latin-1"), "is no UTF-8 text"),
    ],
)
def test_file_that_can_not_be_read_as_a_list_is_told(
    tmp_path: Path, called: str, text: str | bytes, why: str
) -> None:
    found = files(tmp_path, "", "a.png", called=called)
    (tmp_path / called).write_bytes(text if isinstance(text, bytes) else text.encode())
    (layout,) = understand(found, "x")
    assert layout.kind == "flat"
    assert f"Not read as a list, for it {why} (1): {called}." in layout.notes


def test_list_larger_than_any_is_never_read(tmp_path: Path) -> None:
    found = files(tmp_path, "path,label\na.png,good\n", "a.png")
    with (tmp_path / "list.csv").open("r+b") as file:
        file.truncate(MAX_BYTES + 1)  # takes no room on the disk
    (layout,) = understand(found, "x")
    assert layout.kind == "flat"
    assert "Not read as a list, for it has more than 0.1 GB (1): list.csv." in layout.notes
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "list.csv").rename(tmp_path / "split_csv" / "1cls.csv")
    with pytest.raises(UnknownLayout, match=r"1cls.csv' has more than 0.1 GB; a split file is smaller"):
        understand(walk(tmp_path), "x")


def test_pretty_printed_array_is_a_list(tmp_path: Path) -> None:
    text = json.dumps([{"path": "a.png", "label": "good"}, {"path": "b.png", "label": "bad"}], indent=2)
    (layout,) = understand(files(tmp_path, text, "a.png", "b.png", called="list.json"), "x")
    assert [(e.name, e.label.value) for e in layout.entries] == [("a.png", "normal"), ("b.png", "anomalous")]


def test_lines_that_name_no_picture_are_noted(tmp_path: Path) -> None:
    rows = ["path,label", "a.png,good", "../../etc/passwd,good", "/data/lost.png,good", "v.gif,good", ",good"]
    (layout,) = understand(files(tmp_path, "\n".join(rows), "a.png"), "x")
    assert [entry.name for entry in layout.entries] == ["a.png"]
    assert layout.notes == (
        "Named in the list, but no picture (1): ../../etc/passwd.",
        "Left out, lines of the list that name no file (1): Line 6 of 'list.csv'.",
    )
    assert [one.name for one in layout.skipped] == ["/data/lost.png", "v.gif"]


def test_every_picture_that_a_list_names_in_vain_is_told_not_only_the_first_ten(tmp_path: Path) -> None:
    lost = [f"lost{number}.png" for number in range(300)]
    rows = ["path,label", "a.png,good", *(f"{name},good" for name in lost)]
    (layout,) = understand(files(tmp_path, "\n".join(rows), "a.png"), "x")
    assert layout.skipped == tuple(Skipped(name=name, reason=MISSING) for name in lost)


def test_words_that_mean_nothing_as_a_split_are_noted(tmp_path: Path) -> None:
    rows = [
        "path,label,Subset",
        "a.png,good,trian",
        "b.png,good,train",
        "c.png,good,trian",
        "d.png,good,test",
    ]
    (layout,) = understand(files(tmp_path, "\n".join(rows), "a.png", "b.png", "c.png", "d.png"), "x")
    assert [entry.split for entry in layout.entries] == [None, "train", None, "test"]
    assert layout.notes == (
        "Words in the column 'Subset' that mean nothing, taken as not given: 'trian' (2).",
    )


def test_labels_taken_as_defect_types_are_noted(tmp_path: Path) -> None:
    rows = [
        "path,label,type",
        "a.png,good,",
        "b.png,gud,",
        "c.png,dent,",
        "d.png,dent,",
        "e.png,bad,",
        "f.png,x,hole",
    ]
    (layout,) = understand(files(tmp_path, "\n".join(rows), *(f"{one}.png" for one in "abcdef")), "x")
    assert [entry.defect_type for entry in layout.entries] == [None, "gud", "dent", "dent", None, "hole"]
    assert layout.notes == ("Labels taken as defect types: 'gud' (1), 'dent' (2).",)


def test_picture_named_twice_with_contradicting_labels_is_left_out(tmp_path: Path) -> None:
    rows = ["path,label", "a.png,good", "a.png,bad", "b.png,good", "b.png,ok", "c.png,dent", "c.png,scratch"]
    rows += ["d.png,good", "d.png,good", "e.png,bad", "e.png,"]
    (layout,) = understand(files(tmp_path, "\n".join(rows), *(f"{one}.png" for one in "abcde")), "x")
    assert [(e.name, e.label.value, e.defect_type) for e in layout.entries] == [
        ("b.png", "normal", None),
        ("c.png", "anomalous", "dent"),
        ("d.png", "normal", None),
    ]
    assert layout.skipped == tuple(Skipped(name=name, reason=CONTRADICTED) for name in ("a.png", "e.png"))
    assert layout.notes[1:] == (
        "Named twice with different labels or defect types, the first line counts (2): b.png, c.png.",
        "Named twice in the list, the first line counts (1): d.png.",
    )


def test_single_list_alone_decides(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("path,label\nb.png,bad\n")
    found = files(tmp_path, "path,label\na.png,good\n", "a.png", "b.png", called="list.txt")
    the_list = SourceFile(name="list.txt", path=tmp_path / "list.txt")
    (layout,) = understand(found, str(tmp_path / "list.txt"), only_list=the_list)
    assert [entry.name for entry in layout.entries] == ["a.png"]
    for name, why in (("a.png", "names no pictures in a column path"), ("absent.csv", "may not be read")):
        wrong = SourceFile(name=name, path=tmp_path / name)
        with pytest.raises(UnknownLayout, match=f"File '{name}' is no list of pictures, for it {why}"):
            understand(found, str(wrong.path), only_list=wrong)


def test_masks_keep_the_names_that_they_came_under(tmp_path: Path) -> None:
    (tmp_path / "0").write_text("path,label,mask\na.png,good,\nb.png,bad,m/b.png\n")
    given = [
        SourceFile(name=name, path=tmp_path / str(number))
        for number, name in enumerate(("list.csv", "a.png", "b.png", "m/b.png"))
    ]
    (layout,) = understand(given, "x")
    assert layout.entries[1].masks == (given[3],)


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
