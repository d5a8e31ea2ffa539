"""Everything that storage refuses, as one family: catch `StorageError` to catch them all.

Every message names the value, the rule and the remedy, and can be shown to a person as it is.
"""


class StorageError(Exception):
    """Base of all errors that this folder raises on purpose."""


class SettingsError(StorageError):
    """A setting is unknown or has a value that its rule forbids."""


class DatabaseUnavailable(StorageError):
    """The database can't be opened: wrong address, missing driver, or nothing answers there."""


class SchemaTooNew(StorageError):
    """The database was migrated by a newer version of this program."""


class BlobMissing(StorageError):
    """No file is stored under this digest."""


class BlobsUnavailable(StorageError):
    """The place of pictures and masks is out of reach, or refuses; the same call may succeed later."""


class UnknownLayout(StorageError):
    """A folder is arranged in no way that is understood, or not as the published set that it should be."""


class DatasetNotFound(StorageError):
    """No dataset has this name."""


class VersionNotFound(StorageError):
    """No dataset version has this id or number."""


class VersionChanged(StorageError):
    """Somebody made another version meanwhile; what was decided on the former one must be looked at again."""


class DatasetDeleted(DatasetNotFound):
    """The dataset was deleted; it can be restored."""


class DatasetInUse(StorageError):
    """Something depends on the dataset: a champion, or a study that has not ended."""


class BadDatasetName(StorageError):
    """The name breaks the rule for names of datasets."""


class BadVersion(StorageError):
    """The images given can't make a dataset version: none at all, a label without sense, a broken digest."""


class DuplicateImage(StorageError):
    """The same picture, pixel for pixel, is given twice; it could then stand in two roles."""


class TooFewImages(StorageError):
    """There are not enough normal pictures to give every role at least one."""


class StudyNotFound(StorageError):
    """No study has this id."""


class BadStudyEdit(StorageError):
    """A change of a study that its state, or the rule for its names, forbids."""


class StudyFinished(StorageError):
    """The study has ended; what is asked for would change its history."""


class LeaseLost(StorageError):
    """Another worker holds this study by now; whoever gets this must stop writing and forget the study."""


class WorkerNotFound(StorageError):
    """No worker of this id is registered."""


class ModelNotFound(StorageError):
    """No model has this id."""


class AlreadyChampion(StorageError):
    """The model to promote is the champion of its dataset already."""


class ApiKeyNotFound(StorageError):
    """No key in use has this name."""


class BadApiKeyName(StorageError):
    """A key can't have this name, or another one in use has it."""


class DamagedSecret(StorageError):
    """A file that holds a secret of the installation is not as it was written."""


class ChampionChanged(StorageError):
    """Another model became champion meanwhile; whoever decided must compare with that one first."""


class NotChampion(StorageError):
    """The model to withdraw does not serve, or another one does by now."""


class OperatingPointNotFound(StorageError):
    """The model has no operating point of this id."""


class TrackingError(StorageError):
    """MLflow refused or could not be reached."""


class RunNotFound(StorageError):
    """MLflow has no run of this id."""


class TrackingUnavailable(TrackingError):
    """MLflow, or the way to it, is out of order; the same call may succeed later."""


class BadEdit(StorageError):
    """A correction of a picture contradicts itself, or the picture isn't there."""


class BadName(StorageError):
    """The name of a file breaks a rule: it could not be kept on every computer, or not be shown."""


class UnsafeName(BadName):
    """The name of a file leads out of its folder; whoever packed it made a mistake or means harm."""


class FeatureCacheError(StorageError):
    """Features can't be cached as they are: not finite, beyond fp16, or not of the announced shape."""


class BadArchive(StorageError):
    """The archive is refused as a whole: damaged, unsafe or too large. Nothing of it was kept."""


class DiskFull(BadArchive):
    """There is no room on the disk for what comes, which may itself be in order; it can be tried again."""


class FeaturesDoNotFit(FeatureCacheError, DiskFull):
    """There is no room on the disk for features; they can be computed again once there is."""


class UnreadableFolder(StorageError):
    """A folder that should be listed does not exist, is none, or may not be read."""


class UploadNotFound(StorageError):
    """No upload has this id, or none any more."""


class BadUpload(StorageError):
    """An upload can't be made as announced: no files, a name given twice, a size that is none."""


class UploadTooLarge(StorageError):
    """An upload has more bytes or files than this installation takes, or a body more than was announced."""


class OffsetMismatch(StorageError):
    """Bytes were sent for another place than where the upload goes on; `index` and `offset` tell where that is."""

    def __init__(self, message: str, *, index: int, offset: int) -> None:
        super().__init__(message)
        self.index = index
        self.offset = offset  # bytes


class UploadIncomplete(StorageError):
    """An upload can't be completed, because files are missing bytes."""
