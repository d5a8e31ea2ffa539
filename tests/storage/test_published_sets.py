"""Published sets in the arrangements of their publication; empty files, because only names are read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from storage.errors import UnknownLayout
from storage.layouts import Layout
from storage.published_sets import COLUMNS, read_set

Draw = Callable[..., Path]
HEADER = ",".join(COLUMNS)
VISA = (
    "candle,train,normal,candle/Data/Images/Normal/0001.JPG,",
    "candle,train,normal,candle/Data/Images/Normal/0000.JPG,",
    "candle,test,normal,candle/Data/Images/Normal/0002.JPG,",
    "candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png",
    "capsules,train,normal,capsules/Data/Images/Normal/000.JPG,",
    "capsules,test,normal,capsules/Data/Images/Normal/001.JPG,",
    "capsules,test,anomaly,capsules/Data/Images/Anomaly/000.JPG,capsules/Data/Masks/Anomaly/000.png",
)
BTAD = (
    "train/ok/0000.bmp",
    "train/ok/0001.bmp",
    "test/ok/0000.bmp",
    "test/ko/0000.bmp",
    "test/ko/0001.bmp",
    "ground_truth/ko/0000.png",
    "ground_truth/ko/0001.bmp",
)
MPDD = (
    "train/good/000.png",
    "test/good/000.png",
    "test/hole/000.png",
    "test/scratches/000.png",
    "ground_truth/hole/000_mask.png",
    "ground_truth/scratches/000_mask.png",
)


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Makes empty files under the set's folder: `draw("01/train/ok/0000.bmp")`."""

    def make(*names: str) -> Path:
        root = tmp_path / "set"
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        return root

    return make


@pytest.fixture
def draw_visa(draw: Draw) -> Draw:
    """Writes the split file of these rows and makes the files that `present` rows name: `draw_visa(*VISA)`."""

    def make(*rows: str, header: str = HEADER, present: tuple[str, ...] = VISA) -> Path:
        names = [name for row in present for name in row.split(",")[3:] if name]
        root = draw("split_csv/1cls.csv", *names)
        (root / "split_csv" / "1cls.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return root

    return make


def told(layout: Layout, root: Path) -> list[tuple[str, str | None, str, str | None]]:
    return [
        (
            entry.name,
            entry.split,
            entry.label.value,
            entry.mask_paths[0].relative_to(root).as_posix() if entry.mask_paths else None,
        )
        for entry in layout.entries
    ]


def test_split_file_of_visa_decides(draw_visa: Draw) -> None:
    root = draw_visa(*VISA)
    (root / "candle" / "Data" / "Images" / "Normal" / "unlisted.JPG").touch()
    found = read_set("visa", root)
    assert list(found) == ["candle", "capsules"]
    images = "candle/Data/Images"
    assert told(found["candle"], root) == [
        (f"{images}/Anomaly/000.JPG", "test", "anomalous", "candle/Data/Masks/Anomaly/000.png"),
        (f"{images}/Normal/0000.JPG", "train", "normal", None),
        (f"{images}/Normal/0001.JPG", "train", "normal", None),
        (f"{images}/Normal/0002.JPG", "test", "normal", None),
    ]
    assert found["candle"].entries[0].path == root / images / "Anomaly" / "000.JPG"
    assert found["candle"].notes == ()


def test_anomalous_picture_of_visa_without_mask_is_noted(draw_visa: Draw) -> None:
    row = VISA[3].rpartition(",")[0] + ","
    found = read_set("visa", draw_visa(*VISA[:3], row, present=VISA[:4]))
    assert found["candle"].entries[0].mask_paths == ()
    assert found["candle"].notes == ("Anomalous pictures without a mask: 1.",)


def test_split_file_may_begin_with_a_byte_order_mark(draw_visa: Draw) -> None:
    assert list(read_set("visa", draw_visa(*VISA, header="\ufeff" + HEADER))) == ["candle", "capsules"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((VISA[0].replace("0001", "0009"),), r"Line 2 of .* names '.*/0009.JPG', and there is no such file"),
        ((VISA[3].replace("000.png", "9.png"),), r"Line 2 of .* names '.*/9.png', and there is no such file"),
        (("candle,train,normal,,",), "Line 2 of .* names '', and there is no such file"),
        ((VISA[3].replace("test", "train"),), "split,label train,anomaly; they must be one of train,normal;"),
        ((VISA[0].replace("normal", "good"),), "split,label train,good"),
        (("candle,train,normal",), "Line 2 of .* has not one value per column"),
        ((VISA[0] + ",more",), "Line 2 of .* has not one value per column"),
        ((VISA[0], VISA[0].replace("train", "test")), "Line 3 of .*, which line 2 names already"),
        ((), "names no picture"),
        (VISA[:2], "'candle' .* 2 training pictures, 0 normal test pictures, 0 anomalous test pictures"),
    ],
)
def test_bad_line_of_the_split_file_is_refused_with_its_number(
    draw_visa: Draw, rows: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UnknownLayout, match=message):
        read_set("visa", draw_visa(*rows))


@pytest.mark.parametrize("header", [HEADER.replace("mask", "masks"), HEADER + ",source", "object,split", ""])
def test_other_columns_are_refused_naming_both(draw_visa: Draw, header: str) -> None:
    with pytest.raises(UnknownLayout, match=f"has the columns .*must be {HEADER}"):
        read_set("visa", draw_visa(*VISA, header=header))


def test_split_file_that_is_no_text_is_refused(draw: Draw) -> None:
    root = draw("split_csv/1cls.csv")
    (root / "split_csv" / "1cls.csv").write_bytes(b"\xff\xfe\x00object")
    with pytest.raises(UnknownLayout, match="is no CSV text"):
        read_set("visa", root)


def test_visa_without_split_file_is_refused_and_its_converted_tree_is_read_as_mvtec(draw: Draw) -> None:
    masks = {"ground_truth/bad/000.png", "test/bad/000.JPG", "test/good/000.JPG", "train/good/001.JPG"}
    root = draw(*(f"{name}/{path}" for name in ("candle", "pcb1") for path in masks))
    with pytest.raises(UnknownLayout, match=r"holds folders candle, pcb1, but no split_csv/1cls.csv.*mvtec"):
        read_set("visa", root)
    found = read_set("mvtec", root)
    assert list(found) == ["candle", "pcb1"]
    assert told(found["pcb1"], root / "pcb1") == [
        ("test/bad/000.JPG", "test", "anomalous", "ground_truth/bad/000.png"),
        ("test/good/000.JPG", "test", "normal", None),
        ("train/good/001.JPG", "train", "normal", None),
    ]


def test_btad_has_ok_and_ko_and_masks_called_as_their_pictures(draw: Draw) -> None:
    root = draw(*(f"{category}/{name}" for category in ("01", "02", "03") for name in BTAD))
    found = read_set("btad", root)
    assert list(found) == ["01", "02", "03"]
    assert told(found["03"], root / "03") == [
        ("test/ko/0000.bmp", "test", "anomalous", "ground_truth/ko/0000.png"),
        ("test/ko/0001.bmp", "test", "anomalous", "ground_truth/ko/0001.bmp"),
        ("test/ok/0000.bmp", "test", "normal", None),
        ("train/ok/0000.bmp", "train", "normal", None),
        ("train/ok/0001.bmp", "train", "normal", None),
    ]
    assert found["03"].notes == ()


def test_mpdd_is_arranged_as_mvtec(draw: Draw) -> None:
    root = draw(*(f"{category}/{name}" for category in ("tubes", "connector") for name in MPDD))
    found = read_set("mpdd", root)
    assert list(found) == ["connector", "tubes"]
    assert told(found["tubes"], root / "tubes") == [
        ("test/good/000.png", "test", "normal", None),
        ("test/hole/000.png", "test", "anomalous", "ground_truth/hole/000_mask.png"),
        ("test/scratches/000.png", "test", "anomalous", "ground_truth/scratches/000_mask.png"),
        ("train/good/000.png", "train", "normal", None),
    ]


def test_one_category_may_be_given_and_keeps_its_name(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    root = draw(*(f"01/{name}" for name in BTAD))
    assert list(read_set("btad", root / "01")) == ["01"]
    monkeypatch.chdir(root / "01")
    assert list(read_set("btad", Path())) == ["01"]


@pytest.mark.parametrize(
    ("name", "expected"), [("mvtec", "train/good"), ("btad", "train/ok"), ("mpdd", "train/good")]
)
def test_folder_without_categories_is_refused_with_what_was_expected(
    draw: Draw, name: str, expected: str
) -> None:
    with pytest.raises(UnknownLayout, match=f"folders elsewhere; 1 pictures, .*expected is .*{expected}"):
        read_set(name, draw("stray.png", "elsewhere/deeper/train/good/000.png"))


@pytest.mark.parametrize("lacking", ["train/ok", "test/ok", "test/ko"])
def test_category_that_lacks_a_part_is_refused_by_name(draw: Draw, lacking: str) -> None:
    root = draw(*(f"01/{name}" for name in BTAD), *(f"02/{name}" for name in BTAD if lacking not in name))
    (root / "02" / "train").mkdir(exist_ok=True)
    with pytest.raises(
        UnknownLayout,
        match=r"/02' has (no pictures|a folder test)|'02' .* has .*\b0 .*each must be there",
    ):
        read_set("btad", root)
