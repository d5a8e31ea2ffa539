from pathlib import Path

from storage.places import places
from storage.settings import Settings


def test_places_are_told_without_passwords(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        database_url="postgresql://me:hidden@db:5432/simplenet?password=hidden",
        tracking_uri="https://me:hidden@runs.example/mlflow",
        blobs_url="s3://parts/line-3",
        blobs_cache_gb=5,
    )
    found = places(settings)
    assert "hidden" not in repr(found)
    assert found["Database"] == "postgresql+psycopg://me@db:5432/simplenet"
    assert found["Optuna's database"] == f"sqlite:///{tmp_path}/optuna.db"
    assert found["MLflow"] == "https://me@runs.example/mlflow"
    assert found["Pictures and masks"] == "s3://parts/line-3"
    assert found["Copies of pictures"] == f"{tmp_path}/fetched, at most 5 GB"


def test_without_settings_all_places_are_in_the_home(tmp_path: Path) -> None:
    found = places(Settings(home=tmp_path))
    assert found["Pictures and masks"] == str(tmp_path / "blobs")
    assert "Copies of pictures" not in found
