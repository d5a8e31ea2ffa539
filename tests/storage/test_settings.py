import os
from collections.abc import Callable
from pathlib import Path

import pydantic
import pytest

from storage.errors import SettingsError
from storage.settings import Settings


@pytest.fixture
def write_settings(tmp_path: Path) -> Callable[[str], Path]:
    """Writes settings.toml into the home that the environment names."""

    def write(text: str) -> Path:
        file = Path(os.environ["SIMPLENET_HOME"]) / "settings.toml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    return write


def test_without_anything_set_all_lies_in_the_home_of_the_environment() -> None:
    settings = Settings()
    home = Path(os.environ["SIMPLENET_HOME"])
    assert settings.home == home
    assert settings.database_url == f"sqlite:///{home}/app.db"
    assert settings.optuna_url == f"sqlite:///{home}/optuna.db"
    assert settings.tracking_uri == settings.mlflow_database_url == f"sqlite:///{home}/mlflow.db"
    assert all(folder.is_relative_to(home) for folder in settings.folders)
    assert not home.exists()


def test_home_defaults_to_a_hidden_folder_of_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SIMPLENET_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings().home == tmp_path / ".simplenet"


def test_relative_and_tilde_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings = Settings(home=Path("here"), weights=Path("~/w.safetensors"))
    assert settings.home == tmp_path / "here"
    assert settings.weights == tmp_path / "w.safetensors"


def test_argument_wins_over_environment_wins_over_file(
    monkeypatch: pytest.MonkeyPatch, write_settings: Callable[[str], Path]
) -> None:
    write_settings('workers = 2\nhost = "192.0.2.1"\nprecision = "bf16"\n')
    monkeypatch.setenv("SIMPLENET_WORKERS", "3")
    monkeypatch.setenv("SIMPLENET_HOST", "192.0.2.2")
    settings = Settings(workers=4)
    assert (settings.workers, settings.host, settings.precision) == (4, "192.0.2.2", "bf16")


def test_file_is_looked_for_in_the_home_that_is_passed(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("workers = 7\n")
    assert Settings(home=tmp_path).workers == 7
    assert Settings().workers == "auto"


def test_empty_environment_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMPLENET_WEIGHTS", "")
    assert Settings().weights is None


def test_database_of_the_file_moves_the_tracking_address_too(write_settings: Callable[[str], Path]) -> None:
    write_settings('mlflow_database_url = "postgresql://host/mlflow"\n')
    assert Settings().tracking_uri == "postgresql+psycopg://host/mlflow"


def test_unknown_key_in_file_is_refused_naming_file_key_and_allowed_keys(
    write_settings: Callable[[str], Path],
) -> None:
    file = write_settings("workrs = 2\n")
    with pytest.raises(SettingsError) as caught:
        Settings()
    message = str(caught.value)
    assert str(file) in message
    assert "'workrs'" in message
    assert "workers" in message
    assert "database_url" in message
    assert "Allowed are" in message


def test_home_in_file_is_refused(write_settings: Callable[[str], Path]) -> None:
    write_settings('home = "/elsewhere"\n')
    with pytest.raises(SettingsError, match="SIMPLENET_HOME in the environment"):
        Settings()


def test_broken_file_is_refused_naming_it(write_settings: Callable[[str], Path]) -> None:
    file = write_settings("workers: 2\n")
    with pytest.raises(SettingsError, match=f"{file} is not valid TOML"):
        Settings()


def test_unreadable_file_is_refused_naming_it(write_settings: Callable[[str], Path]) -> None:
    file = write_settings("")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=f"{file} can't be read"):
        Settings()


def test_wrong_value_names_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch, write_settings: Callable[[str], Path]
) -> None:
    file = write_settings("workers = -1\n")
    with pytest.raises(SettingsError, match=f"'workers' in {file} is -1"):
        Settings()
    monkeypatch.setenv("SIMPLENET_WORKERS", "many")
    with pytest.raises(SettingsError, match="Environment variable SIMPLENET_WORKERS is 'many'"):
        Settings()
    with pytest.raises(SettingsError, match=r"Setting 'workers' is 1\.5"):
        Settings(workers=1.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dashboard_port", 0),
        ("mlflow_port", 65536),
        ("precision", "fp8"),
        ("log_level", "LOUD"),
        ("lease_seconds", 0),
        ("heartbeat_seconds", -1),
        ("host", ""),
        ("device", ""),
        ("backbone", ""),
        ("nonsense", 1),
    ],
)
def test_value_that_breaks_its_rule_is_refused(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings(**{name: value})


def test_lease_shorter_than_two_heartbeats_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least two heartbeats"):
        Settings(lease_seconds=9, heartbeat_seconds=5)
    assert Settings(lease_seconds=10, heartbeat_seconds=5).lease_seconds == 10


def test_settings_are_frozen() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Settings().workers = 2  # type: ignore[misc]


def test_log_level_is_taken_in_any_case() -> None:
    assert Settings(log_level="debug").log_level == "DEBUG"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_bare_postgres_address_gets_the_driver_we_install(scheme: str) -> None:
    assert Settings(database_url=f"{scheme}://u:p@h/d").database_url == "postgresql+psycopg://u:p@h/d"


def test_passwords_are_not_shown() -> None:
    settings = Settings(
        database_url="postgresql://u:secret@h/d", mlflow_database_url="postgresql://u:secret@h/m"
    )
    assert "secret" not in repr(settings)


def test_addresses_for_browsers() -> None:
    assert Settings().mlflow_url == "http://127.0.0.1:5000"
    assert Settings(host="0.0.0.0").dashboard_url == "http://127.0.0.1:8501"
    assert Settings(host="::1").dashboard_url == "http://[::1]:8501"
    assert Settings(host="gpu1", mlflow_port=80).mlflow_url == "http://gpu1:80"
    assert Settings(mlflow_public_url="https://runs.example/").mlflow_url == "https://runs.example"


def test_environment_gives_another_process_what_was_set_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMPLENET_LEASE_SECONDS", "30")
    given = Settings(
        home=tmp_path,
        database_url="postgresql://me:secret@db/one",
        weights=tmp_path / "resnet18.safetensors",
        picture_roots=(tmp_path / "a", tmp_path / "b"),
        serve_require_key=True,
        workers=3,
    )
    environment = given.environment()
    assert {name.removeprefix("SIMPLENET_").lower() for name in environment} == {
        *("home", "database_url", "weights", "picture_roots", "serve_require_key", "workers", "lease_seconds")
    }
    monkeypatch.delenv("SIMPLENET_LEASE_SECONDS")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings() == given


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ""),
        ("/mnt/parts/blobs/", "/mnt/parts/blobs"),
        ("file:///mnt/parts/my%20blobs", "/mnt/parts/my blobs"),
        ("s3://parts", "s3://parts"),
        ("s3://parts.line-3/a/b_c/", "s3://parts.line-3/a/b_c"),
    ],
)
def test_place_of_pictures_is_a_folder_or_a_bucket(given: str, kept: str) -> None:
    settings = Settings(blobs_url=given)
    assert settings.blobs_url == kept
    assert settings.blobs_in_bucket == kept.startswith("s3:")
    if not kept:
        assert settings.blobs_folder == settings.home / "blobs"
    elif not settings.blobs_in_bucket:
        assert settings.blobs_folder == Path(kept)
        assert settings.blobs_folder not in settings.folders, "a share that is not mounted must not be made"


@pytest.mark.parametrize(
    "given",
    ["gs://parts", "s3://", "s3://Parts", "s3://parts//a", "s3://parts/../a", "file://host/a", "file:///"],
)
def test_other_places_of_pictures_are_refused_by_name(given: str) -> None:
    with pytest.raises(SettingsError, match=rf"{given}' is no place.*s3://bucket/prefix"):
        Settings(blobs_url=given)


@pytest.mark.parametrize(
    "given", ["s3://KEY:hidden@parts", "s3://parts?secret=hidden", "s3://parts/a#hidden"]
)
def test_address_with_credentials_is_refused_without_repeating_it(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("SIMPLENET_BLOBS_URL", given)
    with pytest.raises(SettingsError, match="AWS_ACCESS_KEY_ID") as told:
        Settings()
    assert "hidden" not in str(told.value)
