import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import datasets
from storage.errors import DatabaseUnavailable, SettingsError
from storage.settings import Settings
from storage.workspace import open_workspace


def test_opening_makes_all_folders_and_a_migrated_database(tmp_path: Path) -> None:
    workspace = open_workspace(Settings(home=tmp_path / "a" / "b"))
    with workspace.session() as session:
        assert datasets.list_datasets(session) == []
    assert workspace.blobs.get(workspace.blobs.put(b"x")) == b"x"
    assert workspace.features.total_bytes() == 0
    assert all(folder.is_dir() for folder in workspace.settings.folders)
    workspace.close()


def test_settings_default_to_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SIMPLENET_HOME", str(tmp_path / "mine"))
    workspace = open_workspace()
    assert (tmp_path / "mine" / "app.db").is_file()
    workspace.close()


def test_home_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="SIMPLENET_HOME"):
        open_workspace(Settings(home=tmp_path / "file" / "home"))


def test_unreachable_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable):
        open_workspace(Settings(home=tmp_path, database_url="postgresql://user@127.0.0.1:1/name"))


def test_several_processes_may_open_a_new_installation_at_once(
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start_script: Callable[..., "subprocess.Popen[str]"],
) -> None:
    monkeypatch.setenv("SIMPLENET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SIMPLENET_DATABASE_URL", database_url)
    processes = [start_script("open_installation.py") for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(timeout=60) for process in processes] == [0] * len(processes)


def test_shared_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    share = tmp_path / "share"
    settings = Settings(home=tmp_path / "home", blobs_url=str(share))
    with pytest.raises(SettingsError, match=rf"{share}.*Mount the disk"):
        open_workspace(settings)
    assert not share.exists()
    share.mkdir()
    workspace = open_workspace(settings)
    key = workspace.blobs.put(b"picture")
    workspace.close()
    other = open_workspace(Settings(home=tmp_path / "other", blobs_url=share.as_uri()))
    assert other.blobs.get(key) == b"picture"
    assert not (tmp_path / "home" / "blobs").exists()
    other.close()
