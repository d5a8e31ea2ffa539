"""The measurement of uploads runs to its end on a small zip, and says what it measured."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import upload

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_upload_tells_memory_and_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("chromium") is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    file = tmp_path / "upload.json"
    upload.main(["--gigabytes", "0.02", "--folder", str(tmp_path), "--json", str(file)])
    told = json.loads(file.read_text())
    assert 20 <= told["megabytes"] < 20.1
    assert told["megabytes_per_second"] == told["megabytes"] / told["seconds"] > 0
    assert told["growth_mib"] == told["peak_mib"] - told["held_before_mib"] >= 0
    assert "| MB sent | seconds | MB/s |" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [file]


def test_upload_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        upload.main(["--gigabytes", "0"])
    assert "must be above 0" in capsys.readouterr().err
