import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import BadName, StorageError, UnsafeName
from storage.names import check_name, faults, folded, shown


@pytest.mark.parametrize(
    "name",
    [
        "a.png",
        "test/scratch/007.png",
        "Prüfung/Öl fleck (2).png",
        "测试/划痕/一.png",
        "👩‍🔬.png",  # holds a zero-width joiner, a format character
        "12:30:01.png",
        "console.png",
        "com0.png",
        "a/..b/c..png",
        "x" * 255,
        "/".join(["y" * 199] * 5),
    ],
)
def test_ordinary_names_pass(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("/etc/passwd", "root"),
        ("//server/share/a.png", "root"),
        ("\\\\server\\share\\a.png", "root"),
        ("\\a.png", "root"),
        ("C:/a.png", "drive"),
        ("c:a.png", "drive"),
        ("C:\\a.png", "drive"),
        ("..", "'..'"),
        ("../a.png", "'..'"),
        ("a/../../b.png", "'..'"),
        ("a/..", "'..'"),
        ("..\\a.png", "'..'"),
        ("a/b\\..\\..\\..\\c.png", "'..'"),
    ],
)
def test_names_that_lead_out_are_unsafe(name: str, rule: str) -> None:
    with pytest.raises(UnsafeName, match=rule):
        check_name(name)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "empty"),
        (".", "'.'"),
        ("./a.png", "'.'"),
        ("a//b.png", "''"),
        ("a/", "''"),
        ("a\\b.png", "backslash"),
        ("a\0.png", r"U\+0000"),
        ("a\n.png", r"U\+000A"),
        ("a\x7f.png", r"U\+007F"),
        ("a\x9b.png", r"U\+009B"),
        ("a\u2028.png", r"U\+2028"),
        ("\u202egnp.exe", r"U\+202E"),
        ("\u2066a.png", r"U\+2066"),
        ("a\udcff.png", "UTF-8"),
        ("x" * 256, "part of 256 bytes"),
        ("ü" * 128 + "/a.png", "part of 256 bytes"),
        ("/".join(["y" * 200] * 5), "1004 bytes"),
        ("con", "device"),
        ("CON.png", "device"),
        ("a/aux/b.png", "device"),
        ("nul .tar.png", "device"),
        ("com¹.png", "device"),
        ("LPT9.png", "device"),
        ("a./b.png", "full stop or space"),
        ("a.png ", "full stop or space"),
        ("...", "full stop or space"),
    ],
)
def test_names_that_some_computer_can_not_keep_are_bad_but_not_unsafe(name: str, rule: str) -> None:
    with pytest.raises(BadName, match=rule) as caught:
        check_name(name)
    assert not isinstance(caught.value, UnsafeName)
    assert str(caught.value).endswith("Rename it.")


@given(name=st.text())
def test_every_refusal_can_be_shown_on_one_line(name: str) -> None:
    try:
        check_name(name)
    except StorageError as error:
        message = str(error)
        assert message.encode("utf-8").decode("utf-8") == message
        assert message.isprintable()
        assert len(message) < 1_500


@given(name=st.text(st.characters(categories=["Cs", "Cc", "L"])))
def test_shown_is_printable_and_short(name: str) -> None:
    assert shown(name).isprintable()
    assert len(shown(name)) <= 80 * 10 + 2


def test_shown_keeps_beginning_and_end_of_long_names() -> None:
    text = shown("begin" + "x" * 500 + "end.png")
    assert text.startswith("'begin")
    assert text.endswith("end.png'")
    assert len(text) == 82


def test_names_that_some_computers_take_for_one_are_the_same_when_folded() -> None:
    composed, apart = unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")
    assert composed != apart
    for first, other in (("a.png", "A.png"), (composed, apart), ("STRASSE", "straße")):
        assert folded(first) == folded(other)
    assert len({folded(name) for name in ("a/b.png", "a/c.png", "b.png")}) == 3


@given(name=st.text())
def test_folding_is_final_and_forgets_how_accents_are_composed(name: str) -> None:
    assert folded(folded(name)) == folded(name)
    assert folded(unicodedata.normalize("NFD", name)) == folded(name)


def test_faults_names_what_can_not_be_kept_and_what_comes_twice() -> None:
    found = faults(["a.png", "b/../a.png", "con", "a.png", "A.png", ""])
    assert sorted(found) == [1, 2, 3, 4, 5]
    assert "leads out" in found[1]
    assert "given twice" in found[3]
    assert found[4].startswith("Name 'A.png' differs from 'a.png' only in upper and lower case")
