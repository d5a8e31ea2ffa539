"""The measurement of the intake runs to its end on a few small pictures, and says what it measured."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import ingest


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of processes is read from Linux's /proc")
def test_ingest_sets_the_intake_beside_decoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ingest.json"
    few = ["--pictures", "10", "--side", "96", "--rounds", "1"]
    ingest.main([*few, "--folder", str(tmp_path), "--json", str(file)])
    told = json.loads(file.read_text())
    assert [one["mode"] for one in told["modes"]] == ["RGB", "L"]
    for one in told["modes"]:
        (own,), (limit,) = one["pictures_per_second"]["intake"], one["pictures_per_second"]["decoding"]
        assert own > 0
        assert one["intake_over_decoding"] == [own / limit]
    shown = capsys.readouterr().out
    for one in told["modes"]:
        (grown,) = one["growth_mib"]["intake"]
        assert f"| 10 of 96×96, {one['mode']} | " in shown
        assert f" | {grown:.0f} |\n" in shown
    assert list(tmp_path.iterdir()) == [file]


def test_drawn_pictures_differ_and_are_as_large_as_photographs(tmp_path: Path) -> None:
    ingest.draw(tmp_path / "drawn", "RGB", 3, 256)
    files = sorted((tmp_path / "drawn").iterdir())
    assert len({file.read_bytes() for file in files}) == 3
    for file in files:
        with Image.open(file) as image:
            assert (image.mode, image.size) == ("RGB", (256, 256))
        assert 0.3 < file.stat().st_size / (256 * 256 * 3) < 0.7


@pytest.mark.parametrize(("option", "words"), [("--pictures", "takes 10 or more"), ("--rounds", "1 or more")])
def test_ingest_of_too_little_is_refused(option: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ingest.main([option, "0"])
    assert words in capsys.readouterr().err
