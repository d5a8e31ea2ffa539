"""The measurement of pages runs to its end on a few pictures, and says what it measured."""

import json
from pathlib import Path

import pytest

from benchmarks import pages
from benchmarks.serving import chromium


@pytest.mark.browser
@pytest.mark.slow
def test_pages_are_opened_twice_and_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if chromium() is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    file = tmp_path / "pages.json"
    home = tmp_path / "home"
    few = ["--pictures", "1000", "--rounds", "1", "--home", str(home), "--json", str(file)]
    pages.main(few)
    told = json.loads(file.read_text())
    assert list(told["pages"]) == [step.name for step in pages.STEPS]
    for visits in told["pages"].values():
        assert list(visits) == ["first", "second"]
        assert all(seconds > 0 for one in visits.values() for seconds in one)
    assert "study of one trial" in told["work_seconds"]
    assert "| one picture | " in capsys.readouterr().out
    assert list(pages.work_seconds(home, 1000)) == ["checkup"]  # an installation that is there is used


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--pictures", "999"], "takes 1000 or more"), (["--rounds", "0"], "must be 1 or more")],
)
def test_pages_of_too_little_are_refused(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        pages.main(options)
    assert words in capsys.readouterr().err
