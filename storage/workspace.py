"""One open installation: its settings, database, blobs and feature cache, wired together in one place."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.orm import Session as Session  # for those who pass one on

from storage import database
from storage.blobs import BlobStore, FolderBlobs
from storage.bucket import BucketBlobs
from storage.errors import SettingsError
from storage.feature_cache import FeatureCache
from storage.settings import PREFIX, Settings
from storage.thumbnails import Thumbnails


@dataclass(frozen=True)
class Workspace:
    """What every command and query works on; may be shared by threads, not by forked processes."""

    settings: Settings
    engine: Engine
    blobs: BlobStore
    features: FeatureCache
    thumbnails: Thumbnails
    maps_folder: Path  # cached scores and anomaly maps, and what was drawn of them

    def session(self) -> AbstractContextManager[Session]:
        """A database session that commits at the end, or rolls back when anything is raised."""
        return database.session(self.engine)

    def close(self) -> None:
        """Close the connections to the database; using the workspace again opens new ones."""
        self.engine.dispose()


def open_workspace(settings: Settings | None = None) -> Workspace:
    """Open the installation that the settings describe, making and migrating what is missing.

    Several processes may do so at once.

    Args:
        settings: from the environment and the settings file where not given.
    Raises:
        SettingsError: the settings are wrong, or the folders can't be made.
        DatabaseUnavailable, SchemaTooNew: see `storage.database.migrate`.
    """
    settings = settings or Settings()
    for folder in settings.folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"Folder {folder} can't be made: {error.strerror}. "
                f"Set {PREFIX}HOME to a folder that you may write to."
            ) from error
    if not settings.blobs_folder.is_dir():
        raise SettingsError(
            f"Folder {settings.blobs_folder}, which {PREFIX}BLOBS_URL names for pictures, is not there. Mount the disk "
            "that it lies on; where it is new, make it once."
        )
    engine = database.create_database(settings.database_url)
    try:
        database.migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return attach(settings, engine)


def attach(settings: Settings, engine: Engine) -> Workspace:
    """An installation that another process has opened and keeps up to date; nothing is connected to yet."""
    return Workspace(
        settings=settings,
        engine=engine,
        blobs=open_blobs(settings),
        features=FeatureCache(settings.features_folder),
        thumbnails=Thumbnails(settings.thumbnails_folder),
        maps_folder=settings.maps_folder,
    )


def open_blobs(settings: Settings) -> BlobStore:
    """The place of pictures and masks that the settings name; nothing is connected to yet.

    Raises:
        SettingsError: what speaks to it is not installed.
    """
    if settings.blobs_in_bucket:
        return BucketBlobs(
            settings.blobs_url, settings.blobs_folder, limit_bytes=settings.blobs_cache_gb * 1e9
        )
    return FolderBlobs(settings.blobs_folder)
