"""How numbers, times and states read."""

from datetime import UTC, datetime, timedelta

import pytest

from dashboard import wording

NOW = datetime(2025, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.3, "under 1 s"), (45, "45 s"), (240, "4 min"), (4800, "80 min"), (6000, "1 h 40 min")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.3, "less than a second left"), (45, "about 45 s left"), (240, "about 4 min left")],
)
def test_time_left(seconds: float, text: str) -> None:
    assert wording.time_left(seconds) == text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("price $a$ of $b$", r"price \$a\$ of \$b\$"),
        ("*bold* and `code`", r"\*bold\* and \`code\`"),
        ("_x_ but part_1_a.png", r"\_x\_ but part_1_a.png"),
        ("[a](b) ![c](d)", r"\[a\](b) !\[c\](d)"),
        ("<b>x</b> &amp; a & b", r"\<b>x\</b> \&amp; a & b"),
        ("~~gone~~ a|b", r"\~\~gone\~\~ a\|b"),
        ("C:\\parts", r"C:\\parts"),
        (":red[x]", ":\u2060red\\[x\\]"),
        (":material/edit: :smile: :+1:", ":\u2060material/edit: :\u2060smile: :\u2060+1:"),
        ("www.x.de", "www\u2060.x.de"),
        ("https://x.de and a@x.de", "https:\u2060//x.de and a@\u2060x.de"),
        ("a -> b -- c", "a -\u2060> b -\u2060- c"),
        ("# one\n    two\n- three\n4. four", "\\# one\ntwo\n\\- three\n4\\. four"),
        ("test/good/007.png: 12×900 px; 14.5 % of 20", "test/good/007.png: 12×900 px; 14.5 % of 20"),
    ],
)
def test_names_by_others_are_not_read_as_markdown(given: str, text: str) -> None:
    assert wording.plain(given) == text


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "picture", "1 picture"),
        (2000, "picture", "2,000 pictures"),
        (2, "study", "2 studies"),
        (0, "escape", "0 escapes"),
        (2, "day", "2 days"),
    ],
)
def test_plural(count: int, noun: str, text: str) -> None:
    assert wording.plural(count, noun) == text


def test_figure_comes_with_its_interval() -> None:
    assert wording.with_interval(0.963, (0.931, 0.988)) == "0.963 (0.931–0.988)"
    assert wording.with_interval(0.963, None) == "0.963"
    assert wording.with_interval(None, None) == "–"


def test_numbers_have_a_true_minus_sign() -> None:
    assert wording.number(-0.4132) == "−0.413"


@pytest.mark.parametrize(
    ("ago", "text"), [(1, "just now"), (60, "60 s ago"), (7200, "2 h 0 min ago"), (4e5, "5 days ago")]
)
def test_ago(ago: float, text: str) -> None:
    assert wording.ago(NOW - timedelta(seconds=ago), NOW) == text


@pytest.mark.parametrize(("count", "text"), [(12, "12 bytes"), (5_300_000, "5 MB"), (2.5e12, "2.5 TB")])
def test_size(count: int, text: str) -> None:
    assert wording.size(int(count)) == text


def test_configuration_names_what_was_searched() -> None:
    config = {"noise_std": 0.015, "layers": (2, 3), "adaptor_depth": 1, "height": 256}
    assert wording.configuration(config) == "σ 0.015 · layers 2+3 · adaptor depth 1"
    assert wording.configuration({"layers": "1+2"}) == "layers 1+2"
    cropped = {"layers": "1+2", "resize": "crop", "height": 288, "width": 320}
    assert wording.configuration(cropped) == "layers 1+2 · crop 288×320"


def test_unknown_figure_still_has_a_name() -> None:
    assert wording.figure_name("new_figure") == "New figure"
