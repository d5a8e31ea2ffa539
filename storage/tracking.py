"""MLflow as this product uses it: an experiment and a model per dataset, a run per study, a nested run per trial.

Clients speak to `Settings.tracking_uri`: by default MLflow's own database file, so that a study goes on while the
MLflow server (which shows the same database) is down; on several machines the server's address. A `Tracking` owns
one client and may be shared by threads.
"""

import contextlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from storage.errors import RunNotFound, TrackingError, TrackingUnavailable
from storage.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature
    from PIL.Image import Image as PictureFile

logger = logging.getLogger(__name__)

CHAMPION = "champion"  # alias of the version of a dataset's model that serves
CHECKPOINT = "checkpoint"  # name of the folder with weights and configuration inside a logged model
# What MLflow calls a server that does not answer, or one whose database is away.
_AWAY = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"})
PARAM_LENGTH = 500  # characters; longer values are cut, MLflow refuses above 6,000


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What makes a folder of weights a model that MLflow serves from code."""

    code: Path  # script that ends in `mlflow.models.set_model(…)`
    packages: tuple[Path, ...]  # folders of Python packages that the script imports, packed beside it
    checkpoint: Path  # folder with weights and configuration; its name must be `checkpoint`
    signature: "ModelSignature"
    requirements: tuple[str, ...]
    example: Any  # a pandas table as `predict` takes it, kept with the model so that people see what it wants
    metadata: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What MLflow holds of one run, its artifacts aside."""

    id: str
    name: str
    experiment: str  # its name: the dataset's
    status: str  # RUNNING, FINISHED, FAILED, KILLED
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]  # the last value of each


class Tracking:
    """Runs, metrics, artifacts and registered models in MLflow.

    Raises:
        TrackingError: MLflow can not be reached or refuses; every method.
    """

    def __init__(self, settings: Settings) -> None:
        """Connect lazily: nothing is opened before the first call."""
        self._settings = settings
        self._client: MlflowClient | None = None

    @property
    def client(self) -> "MlflowClient":
        """The client, made (and an embedded database migrated) at the first use."""
        if self._client is None:
            # Both must be set before the import; neither belongs in a self-hosted product.
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
            # Over HTTP a lost server should be an error within seconds, not minutes of silent retries.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
            from mlflow import MlflowClient

            logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
            logging.getLogger("alembic").setLevel(logging.WARNING)
            uri = self._settings.tracking_uri
            # Named twice: the registry is otherwise the one that this process spoke to last.
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        return self._client

    def experiment(self, dataset_name: str) -> str:
        """Id of the dataset's experiment, made when it is new."""
        from mlflow.exceptions import MlflowException

        with _refusals("open the experiment of dataset", dataset_name):
            found = self.client.get_experiment_by_name(dataset_name)
            if found is not None:
                return str(found.experiment_id)
            try:
                return str(
                    self.client.create_experiment(
                        dataset_name, artifact_location=self._artifact_root(dataset_name)
                    )
                )
            except MlflowException:  # made by another process in between
                found = self.client.get_experiment_by_name(dataset_name)
                if found is None:
                    raise
                return str(found.experiment_id)

    def start_run(
        self,
        dataset_name: str,
        run_name: str,
        *,
        parent_run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Start a run and answer its id; with `parent_run_id` it is nested below that run."""
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        experiment_id = self.experiment(dataset_name)
        all_tags = dict(tags or {})
        if parent_run_id is not None:
            all_tags[MLFLOW_PARENT_RUN_ID] = parent_run_id
        with _refusals("start run", run_name):
            return str(self.client.create_run(experiment_id, run_name=run_name, tags=all_tags).info.run_id)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters in one call."""
        from mlflow.entities import Param

        with _refusals("log parameters of run", run_id):
            self.client.log_batch(
                run_id, params=[Param(key, str(value)[:PARAM_LENGTH]) for key, value in params.items()]
            )

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log the metrics of one step in one call."""
        from mlflow.entities import Metric

        timestamp_ms = int(time.time() * 1000)
        with _refusals("log metrics of run", run_id):
            self.client.log_batch(
                run_id,
                metrics=[Metric(key, float(value), timestamp_ms, step) for key, value in metrics.items()],
            )

    def log_history(self, run_id: str, history: Sequence[tuple[int, int, Mapping[str, float]]]) -> None:
        """Log the metrics of several steps in one call.

        Args:
            history: (step, milliseconds since 1970, metrics by name) each; at most 1,000 metrics in all.
        """
        from mlflow.entities import Metric

        with _refusals("log metrics of run", run_id):
            self.client.log_batch(
                run_id,
                metrics=[
                    Metric(key, float(value), timestamp_ms, step)
                    for step, timestamp_ms, metrics in history
                    for key, value in metrics.items()
                ],
            )

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags in one call."""
        from mlflow.entities import RunTag

        with _refusals("tag run", run_id):
            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run."""
        with _refusals("read run", run_id):
            return dict(self.client.get_run(run_id).data.tags)

    def run(self, run_id: str) -> RunRecord:
        """What MLflow holds of a run.

        Raises:
            RunNotFound: it has no such run, or the run was deleted.
        """
        from mlflow.exceptions import MlflowException

        with _refusals("read run", run_id):
            try:
                run = self.client.get_run(run_id)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    run = None
                else:
                    raise
            if run is None or run.info.lifecycle_stage == "deleted":
                raise RunNotFound(
                    f"MLflow has no run '{run_id}'. The run's page in the MLflow UI names its id; a trial may also be "
                    "named by study and number, such as 3.7."
                )
            experiment = self.client.get_experiment(run.info.experiment_id)
        return RunRecord(
            id=run_id,
            name=str(run.info.run_name),
            experiment=str(experiment.name),
            status=str(run.info.status),
            params=dict(run.data.params),
            tags=dict(run.data.tags),
            metrics=dict(run.data.metrics),
        )

    def has_run(self, run_id: str) -> bool:
        """Whether MLflow holds a run of this id."""
        try:
            self.run(run_id)
        except RunNotFound:
            return False
        return True

    def folder_out_of_reach(self, run_id: str) -> Path | None:
        """The folder with a run's files where it is one that this machine doesn't have; None where they can be read."""
        with _refusals("read run", run_id):
            root = urlparse(str(self.client.get_run(run_id).info.artifact_uri))
        folder = Path(url2pathname(root.path))
        return folder if root.scheme in ("", "file") and not folder.is_dir() else None

    def tagged_runs(
        self, dataset_name: str, tags: Mapping[str, str], *, status: str | None = None
    ) -> list[str]:
        """Ids of the dataset's runs that carry all these tags with these values; of one status where given."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        if status is not None:
            wanted += f" and attributes.status = '{status}'"
        experiment_id = self.experiment(dataset_name)
        with _refusals("look for runs of", dataset_name):
            return [
                str(run.info.run_id)
                for run in self.client.search_runs([experiment_id], filter_string=wanted, max_results=1000)
            ]

    def log_image(self, run_id: str, image: "PictureFile", *, key: str, step: int = 0) -> None:
        """Keep a picture where the MLflow UI's image grids find it: pictures of one key stand beside each other.

        Args:
            image: a picture of Pillow's.
            key: of letters, digits, spaces and ``_-./``.
        """
        with _refusals(f"log picture {key} of run", run_id):
            self.client.log_image(run_id, image, key=key, step=step)

    def log_file(self, run_id: str, data: bytes, path: str) -> None:
        """Keep bytes as an artifact at `path`."""
        with _refusals(f"log {path} of run", run_id), tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / PurePosixPath(path).name
            file.write_bytes(data)
            self.client.log_artifact(run_id, str(file), str(PurePosixPath(path).parent))

    def log_folder(self, run_id: str, folder: Path, path: str) -> None:
        """Keep the files of a folder as artifacts under `path`."""
        with _refusals(f"log {path} of run", run_id):
            self.client.log_artifacts(run_id, str(folder), path)

    def read_dict(self, run_id: str, path: str) -> dict[str, Any] | None:
        """The JSON artifact that `log_dict` kept at `path`; None where the run has none."""
        file = self._artifact(run_id, path)
        if file is None:
            return None
        with _refusals(f"read {path} of run", run_id):
            try:
                return dict(json.loads(file.read_text(encoding="utf-8")))
            except ValueError as error:
                raise TrackingError(
                    f"Artifact '{path}' of run '{run_id}' is no JSON ({error}). It was changed or cut; use another run."
                ) from error

    def artifact_folder(self, run_id: str, path: str) -> Path | None:
        """A folder of a run's artifacts on this machine, fetched when it lies elsewhere; None where there is none."""
        folder = self._artifact(run_id, path)
        return folder if folder is not None and folder.is_dir() else None

    def delete_artifacts(self, run_id: str, path: str) -> None:
        """Delete what lies under `path` of a run's artifacts; nothing happens where there is nothing."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with _refusals(f"delete {path} of run", run_id):
            root = self.client.get_run(run_id).info.artifact_uri
            # MLflow's clients have no call for it; its repositories do.
            repository: Any = get_artifact_repository(root, tracking_uri=self._settings.tracking_uri)
            repository.delete_artifacts(path)
            shutil.rmtree(self._fetched(run_id) / path, ignore_errors=True)

    def _artifact(self, run_id: str, path: str) -> Path | None:
        """A file or folder of a run's artifacts on this machine; None where the run has none."""
        from mlflow.exceptions import MlflowException

        with _refusals(f"fetch {path} of run", run_id):
            root = str(self.client.get_run(run_id).info.artifact_uri)
            if urlparse(root).scheme in ("", "file"):
                local = Path(url2pathname(urlparse(root).path)) / path
                return local if local.exists() else None
            kept = self._fetched(run_id)
            if not (kept / path).exists():
                draft = kept.with_name(f".{run_id}.{os.getpid()}.{threading.get_ident()}")
                draft.mkdir(parents=True, exist_ok=True)
                try:
                    fetched = Path(self.client.download_artifacts(run_id, path, str(draft)))
                    (kept / path).parent.mkdir(parents=True, exist_ok=True)
                    with contextlib.suppress(OSError):  # another thread or process was faster
                        fetched.replace(kept / path)
                except MlflowException as error:
                    if "404" in str(error) or error.error_code == "RESOURCE_DOES_NOT_EXIST":
                        return None
                    raise
                finally:
                    shutil.rmtree(draft, ignore_errors=True)
            return kept / path

    def _fetched(self, run_id: str) -> Path:
        """Where a run's artifacts are kept that were downloaded."""
        return self._settings.home / "runs" / run_id

    def log_dict(self, run_id: str, data: Mapping[str, Any], path: str) -> None:
        """Keep `data` as a JSON artifact at `path`."""
        with _refusals(f"log {path} of run", run_id):
            self.client.log_dict(run_id, dict(data), path)

    def end_run(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run as FINISHED, FAILED or KILLED; ending an ended run again is harmless."""
        with _refusals("end run", run_id):
            self.client.set_terminated(run_id, status)

    def log_model(self, run_id: str, model: ServedModel) -> str:
        """Log a model from code into a run; answers its URI (`models:/m-…`). No pickle is written."""
        import mlflow

        with _refusals("log the model of run", run_id):
            # The fluent call is MLflow's only way to log a model; it reads these two process-wide settings.
            mlflow.set_tracking_uri(self._settings.tracking_uri)
            mlflow.set_registry_uri(self._settings.tracking_uri)
            with mlflow.start_run(run_id=run_id):
                info = mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(model.code),
                    code_paths=[str(package) for package in model.packages],
                    artifacts={CHECKPOINT: str(model.checkpoint)},
                    signature=model.signature,
                    input_example=model.example,
                    pip_requirements=list(model.requirements),
                    metadata=dict(model.metadata),
                )
            return str(info.model_uri)

    def register(self, dataset_name: str, model_uri: str, run_id: str, tags: Mapping[str, str]) -> int:
        """Register a logged model as the next version of the dataset's model; answers the version."""
        from mlflow.exceptions import MlflowException

        with _refusals("register a model of dataset", dataset_name):
            try:
                self.client.get_registered_model(dataset_name)
            except MlflowException:
                self.client.create_registered_model(dataset_name)
            version = self.client.create_model_version(
                dataset_name, model_uri, run_id=run_id, tags=dict(tags), model_id=model_uri.rpartition("/")[2]
            )
            return int(version.version)

    def tag_version(self, dataset_name: str, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a registered version."""
        with _refusals(f"tag version {version} of", dataset_name):
            for key, value in tags.items():
                self.client.set_model_version_tag(dataset_name, str(version), key, value)

    def set_champion(self, dataset_name: str, version: int) -> None:
        """Point the alias `champion` at a version: a promotion's last step, so a crash leaves the old one serving."""
        with _refusals(f"promote version {version} of", dataset_name):
            self.client.set_registered_model_alias(dataset_name, CHAMPION, str(version))

    def champion_version(self, dataset_name: str) -> int | None:
        """The version that the alias `champion` points at; None where there is no model or no alias."""
        from mlflow.exceptions import MlflowException

        with _refusals("ask for the champion of", dataset_name):
            try:
                aliases = self.client.get_registered_model(dataset_name).aliases
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
            return int(aliases[CHAMPION]) if CHAMPION in aliases else None

    def clear_champion(self, dataset_name: str, version: int) -> None:
        """Take the alias `champion` off a version; nothing happens where it is not on it."""
        from mlflow.exceptions import MlflowException

        with _refusals(f"withdraw version {version} of", dataset_name):
            try:
                aliases = self.client.get_registered_model(dataset_name).aliases
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return
                raise
            if int(aliases.get(CHAMPION, 0)) == version:
                self.client.delete_registered_model_alias(dataset_name, CHAMPION)

    def registered_version(self, dataset_name: str, run_id: str) -> int | None:
        """The registered version that a run's model became; None where it was never registered."""
        with _refusals("look for the model of run", run_id):
            found = self.client.search_model_versions(f"run_id = '{run_id}'")
            return max(
                (int(version.version) for version in found if version.name == dataset_name), default=None
            )

    def model_folder(self, dataset_name: str, version: int) -> Path:
        """The folder of a registered version on this machine, downloaded when it lies elsewhere."""
        import mlflow

        with _refusals(f"fetch version {version} of", dataset_name):
            # Not by models:/name/version, which MLflow resolves once per process, whatever the database.
            source = (
                self.client.get_model_version(dataset_name, str(version)).source or ""
            )  # models:/<model id>
            location = self.client.get_logged_model(source.rpartition("/")[2]).artifact_location
            if not self._remote:
                return Path(url2pathname(urlparse(location).path))
            fetched = self._settings.home / "models" / dataset_name / str(version)
            if not (fetched / "complete").exists():
                fetched.mkdir(parents=True, exist_ok=True)
                mlflow.artifacts.download_artifacts(
                    location, dst_path=str(fetched), tracking_uri=self._settings.tracking_uri
                )
                (fetched / "complete").touch()
            return fetched / PurePosixPath(urlparse(location).path).name

    def checkpoint_folder(self, dataset_name: str, version: int) -> Path:
        """The folder of a registered version's weights on this machine, downloaded when it lies elsewhere."""
        checkpoint = self.model_folder(dataset_name, version) / "artifacts" / CHECKPOINT
        if not checkpoint.is_dir():
            raise TrackingError(
                f"Version {version} of model '{dataset_name}' holds no folder artifacts/{CHECKPOINT}. It was not "
                "registered by this product; promote another version."
            )
        return checkpoint

    @property
    def _remote(self) -> bool:
        return urlparse(self._settings.tracking_uri).scheme in {"http", "https"}

    def _artifact_root(self, dataset_name: str) -> str | None:
        """Where an experiment keeps its files; None leaves the choice to a remote server."""
        if self._remote:
            return None
        return (self._settings.artifacts_folder / dataset_name).as_uri()


class _refusals:  # noqa: N801 (reads as a phrase: `with _refusals("start run", name)`)
    """Turn what MLflow and its transport raise into one error of ours that names the action, the thing and a remedy."""

    def __init__(self, action: str, thing: str) -> None:
        self._what = f"{action} '{thing}'"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is None or error is None:
            return
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException | ConnectionError | TimeoutError | OSError):
            away = not isinstance(error, MlflowException) or error.error_code in _AWAY
            raise (TrackingUnavailable if away else TrackingError)(
                f"MLflow could not {self._what}: {error}. Check SIMPLENET_TRACKING_URI and that the MLflow "
                "server or its database is in reach, then try again."
            ) from error
