"""Whether a worker really stands in the installation whose database it was given, before it takes a study.

Four things are shared between machines: our database, Optuna's, MLflow's server, and the place of pictures. A worker
that has one of them for itself would fail studies that others could run, or hide their runs where nobody looks.
"""

import logging
from urllib.parse import urlsplit

from storage import datasets, studies
from storage.errors import TrackingUnavailable
from storage.records import DatasetVersion, Study, StudyState
from storage.settings import Settings
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning.errors import NotJoined
from tuning.search import open_storage, study_name

logger = logging.getLogger(__name__)

LOOKED_AT = (
    5  # datasets, and studies, the newest: one that a person deleted elsewhere must keep no worker out
)


def check_addresses(settings: Settings) -> None:
    """Refuse to join from another machine with addresses that can't be shared.

    Raises:
        NotJoined: one of the databases is a file, or MLflow is no server.
    """
    for name, option, url in (
        ("The installation's database", "--database", settings.database_url),
        ("Optuna's database", "--optuna", settings.optuna_url),
    ):
        if url.startswith("sqlite"):
            raise NotJoined(
                f"{name} is an SQLite file, which belongs to one machine; a worker that joins an installation shares "
                f"PostgreSQL. Name it: {option} postgresql://USER@HOST/NAME."
            )
    if urlsplit(settings.tracking_uri).scheme not in ("http", "https"):
        raise NotJoined(
            "MLflow is a database here; models would be written into this machine's own folder, where no other finds "
            "them. A worker that joins an installation shares its MLflow server. Name it: --tracking http://HOST:5000."
        )


def check_joined(workspace: Workspace) -> None:
    """Refuse to work where nothing is found of what the database speaks of.

    On SQLite one machine has it all, and nothing is looked at; as on an empty installation.

    Raises:
        NotJoined: pictures, trials or runs are nowhere here.
        BlobsUnavailable, DatabaseUnavailable: they can't be asked for.
    """
    if workspace.settings.database_url.startswith("sqlite"):
        return
    _check_pictures(workspace)
    with workspace.session() as session:
        done = [study for study in studies.list_studies(session) if study.state is StudyState.COMPLETED][
            :LOOKED_AT
        ]
    _check_trials(workspace.settings, done)
    try:
        _check_runs(workspace.settings, done)
    except TrackingUnavailable as outage:  # waited for by every study
        logger.warning("MLflow can not be asked yet: %s", outage)


def some_pictures(workspace: Workspace) -> list[str]:
    """Digests of some pictures of the newest versions, one of each kind; none where there is no dataset."""
    newest = _newest(workspace)
    with workspace.session() as session:
        return [image.digest for version in newest for image in datasets.first_images(session, version.id, 1)]


def _newest(workspace: Workspace) -> list[DatasetVersion]:
    with workspace.session() as session:
        versions = [one.latest for one in datasets.list_datasets(session) if one.latest is not None]
    return sorted(versions, key=lambda version: version.id)[-LOOKED_AT:]


def _check_pictures(workspace: Workspace) -> None:
    some = some_pictures(workspace)
    if some and not workspace.blobs.sizes(some):
        names = ", ".join(f"'{version.dataset_name}'" for version in _newest(workspace))
        raise NotJoined(
            f"None of the pictures of {names} is in {workspace.blobs.where}; a worker needs the place where the "
            "others have them, which `simplenet storage` and the page System show there. Set SIMPLENET_BLOBS_URL or "
            "--blobs to it."
        )


def _check_trials(settings: Settings, done: list[Study]) -> None:
    storage = open_storage(settings.optuna_url)
    known = {study.study_name for study in storage.get_all_studies()} if done else set()
    if done and not any(study_name(study.id) in known for study in done):
        raise NotJoined(
            f"Optuna's database here holds no trial of {_listed(done)}; a worker needs the one that the others use. "
            "Set SIMPLENET_OPTUNA_URL or --optuna to it."
        )


def _check_runs(settings: Settings, done: list[Study]) -> None:
    tracking = Tracking(settings)
    runs = [study.parent_run_id for study in done if study.parent_run_id is not None]
    known = [run for run in runs if tracking.has_run(run)]
    if runs and not known:
        raise NotJoined(
            f"MLflow as it is set here holds no run of {_listed(done)}; a worker needs the server that the others use. "
            "Set SIMPLENET_TRACKING_URI or --tracking to it."
        )
    away = [folder for run in known if (folder := tracking.folder_out_of_reach(run)) is not None]
    if known and len(away) == len(known):
        raise NotJoined(
            f"MLflow keeps the files of a study in {away[0]}, a folder of the machine that made it, which is not there "
            "on this one: models would be lost. Mount the folder 'artifacts' at the same path, or let MLflow's server "
            "hand its files out (docs/machines.md says how)."
        )


def _listed(done: list[Study]) -> str:
    return ", ".join(f"study {study.id} ('{study.name}')" for study in done)
