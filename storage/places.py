"""Where the parts of an installation lie, for people: no password is shown."""

from urllib.parse import urlsplit

from storage.settings import Settings


def places(settings: Settings) -> dict[str, str]:
    """What → where."""
    found = {
        "Home": str(settings.home),
        "Database": shown(settings.database_url),
        "Optuna's database": shown(settings.optuna_url),
        "MLflow": shown(settings.tracking_uri),
        "Pictures and masks": settings.blobs_url or str(settings.blobs_folder),
    }
    if settings.blobs_in_bucket:
        found["Copies of pictures"] = f"{settings.blobs_folder}, at most {settings.blobs_cache_gb:g} GB"
    return {**found, "Logs": str(settings.logs_folder)}


def shown(url: str) -> str:
    """An address without its password, and without options, which may hold one too."""
    parts = urlsplit(url)
    _, at, host = parts.netloc.rpartition("@")
    who = f"{parts.username}@" if at and parts.username else ""
    return f"{parts.scheme}://{who}{host}{parts.path}"
