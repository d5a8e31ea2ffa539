"""Settings of an installation: from the environment (`SIMPLENET_…`) and `$SIMPLENET_HOME/settings.toml`.

What is passed to `Settings(…)` wins over the environment, that over the file, that over the defaults.
Every other part of the program gets a `Settings` passed in; none reads the environment itself.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from storage.errors import SettingsError

PREFIX = "SIMPLENET_"
DEFAULT_HOME = Path("~/.simplenet")
FILE_NAME = "settings.toml"
BUCKET_SCHEME = "s3://"
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 (hosts that stand for all addresses of this machine)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()=-]+)*")


def _sqlite_in_home(file_name: str) -> Any:
    return Field(default_factory=lambda data: f"sqlite:///{data['home'] / file_name}", repr=False)


class Settings(BaseSettings):
    """All settings, validated and frozen.

    Raises:
        SettingsError: a key of the file is unknown, or a value breaks its rule.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,  # addresses may carry passwords
    )

    home: Path = DEFAULT_HOME  # holds all that an installation keeps; never set in the file, which lies in it

    # Three databases, because Optuna's and MLflow's migrations each own a table `alembic_version` as ours do.
    # Not part of repr: an address may carry a password.
    database_url: str = _sqlite_in_home("app.db")
    optuna_url: str = _sqlite_in_home("optuna.db")
    mlflow_database_url: str = _sqlite_in_home("mlflow.db")
    # Where MLflow's clients write: its database itself on one machine, http://… where several share a server.
    tracking_uri: str = Field(default_factory=lambda data: data["mlflow_database_url"], repr=False)

    # Where pictures and masks lie: empty is the home's folder `blobs`. Several machines share a folder
    # (/mnt/parts/blobs or file:///mnt/parts/blobs) or a bucket (s3://bucket/prefix), with its credentials elsewhere.
    blobs_url: str = Field(default="", repr=False)  # not shown: a refused one may hold a key
    blobs_cache_gb: float = Field(default=20.0, gt=0)  # for copies of pictures from a bucket on this machine

    host: str = Field(default="127.0.0.1", min_length=1)  # the address that the servers listen on
    dashboard_port: int = Field(default=8501, ge=1, le=65535)
    mlflow_port: int = Field(default=5000, ge=1, le=65535)
    mlflow_public_url: str | None = None  # what browsers call MLflow, if a proxy stands before it

    # The model server listens where it is told apart from the others: beyond this machine it asks for API keys.
    serve_host: str = Field(default="127.0.0.1", min_length=1)
    serve_port: int = Field(default=8600, ge=1, le=65535)
    serve_url: str | None = None  # where the pages find it; none: on this machine at its port
    serve_public_url: str | None = None  # what programs call it, if a proxy stands before it
    serve_require_key: bool = False  # ask for API keys on this machine too, as behind a proxy
    serve_models: int = Field(default=2, ge=1)  # champions held in memory, the ones used last
    serve_threads: int = Field(default=2, ge=1, le=256)  # pictures scored at once
    serve_queue: int = Field(default=64, ge=0)  # requests that may wait for them; more are answered 503
    serve_max_request_mb: float = Field(default=64, gt=0)  # of one request, megabytes
    serve_max_megapixels: float = Field(default=64, gt=0, le=64)  # of one picture

    backbone: str = Field(default="auto", min_length=1)  # a name of timm's, or "auto"
    weights: Path | None = None  # safetensors file with the backbone's weights
    device: str = Field(default="auto", min_length=1)  # "auto", "cpu", "cuda", "cuda:0", "mps"
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    # Held in memory of a trial's features of training, validation and calibration each; more lie in a file.
    features_gb: float = Field(default=4.0, gt=0)

    kept_heads: int = Field(
        default=3, ge=1, le=1000
    )  # weights of so many of a study's best trials stay in MLflow

    # Folders on this machine that pages may read pictures from; none by default. The command line reads any.
    picture_roots: tuple[Path, ...] = ()

    upload_max_gb: float = Field(default=100.0, gt=0)  # of one upload through the dashboard

    # Processes that run studies: "auto" is one per GPU, or one on the CPU.
    workers: Annotated[int, Field(ge=0, le=1024)] | Literal["auto"] = "auto"
    lease_seconds: float = Field(default=60, gt=0)  # so long without heartbeat frees a study
    heartbeat_seconds: float = Field(default=5, gt=0)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(_explain(error, values)) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (pydantic passes all four by name)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Replace pydantic's other sources by our file, which lies in the home that the first two name."""
        file = settings_file(init_settings().get("home"))
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=read_file(file))

    @field_validator("home", "weights")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        # Workers and servers are started in folders of their own.
        return None if value is None else value.expanduser().absolute()

    @field_validator("database_url", "optuna_url", "mlflow_database_url", "tracking_uri")
    @classmethod
    def _psycopg(cls, value: str) -> str:
        # The driver we install is psycopg 3; which one a bare address means depends on SQLAlchemy's version.
        scheme, separator, rest = value.partition("://")
        return f"postgresql+psycopg://{rest}" if separator and scheme in ("postgres", "postgresql") else value

    @field_validator("blobs_url")
    @classmethod
    def _place(cls, value: str) -> str:
        return blobs_place(value)

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _heartbeat_fits_lease(self) -> Self:
        # One heartbeat may be late without the study being taken away.
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                f"lease_seconds is {self.lease_seconds:g} and heartbeat_seconds {self.heartbeat_seconds:g}; "
                "a lease must last at least two heartbeats. Raise the first or lower the second"
            )
        return self

    def environment(self) -> dict[str, str]:
        """What another process must find in its environment to have these settings: the home, and whatever was set.

        It may carry passwords. Defaults are left out, for the other process may stand on another machine.
        """
        values = self.model_dump(mode="json", include={"home", *self.model_fields_set}, exclude_none=True)
        return {
            f"{PREFIX}{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }

    @property
    def blobs_folder(self) -> Path:
        """Files of images and masks on this machine, by digest: all, or copies of those in a bucket."""
        if self.blobs_in_bucket:
            return self.home / "fetched"
        return Path(self.blobs_url) if self.blobs_url else self.home / "blobs"

    @property
    def blobs_in_bucket(self) -> bool:
        """Whether images and masks lie in a bucket, and not in a folder."""
        return self.blobs_url.startswith(BUCKET_SCHEME)

    @property
    def features_folder(self) -> Path:
        """Cached features; can be deleted at any time."""
        return self.home / "features"

    @property
    def artifacts_folder(self) -> Path:
        """What MLflow keeps beside its database."""
        return self.home / "artifacts"

    @property
    def checkpoints_folder(self) -> Path:
        """Heads of the trials of studies."""
        return self.home / "checkpoints"

    @property
    def maps_folder(self) -> Path:
        """Cached scores and anomaly maps; can be deleted at any time."""
        return self.home / "maps"

    @property
    def thumbnails_folder(self) -> Path:
        """Small copies of pictures; can be deleted at any time."""
        return self.home / "thumbnails"

    @property
    def staging_folder(self) -> Path:
        """What has arrived and is no dataset yet; can be deleted while nobody uploads."""
        return self.home / "staging"

    @property
    def exports_folder(self) -> Path:
        """Archives of versions, to be downloaded; can be deleted at any time."""
        return self.home / "exports"

    @property
    def batches_folder(self) -> Path:
        """Pictures that were scored from a page, with what came of them, until somebody deletes them."""
        return self.home / "batches"

    @property
    def jobs_folder(self) -> Path:
        """Progress and outcome of work in the background."""
        return self.home / "jobs"

    @property
    def logs_folder(self) -> Path:
        """One log per process."""
        return self.home / "logs"

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders that an installation makes; one that machines share is made by a person, once."""
        shared = bool(self.blobs_url) and not self.blobs_in_bucket
        return (
            self.home,
            *(() if shared else (self.blobs_folder,)),
            self.features_folder,
            self.artifacts_folder,
            self.checkpoints_folder,
            self.maps_folder,
            self.thumbnails_folder,
            self.jobs_folder,
            self.staging_folder,
            self.exports_folder,
            self.batches_folder,
            self.logs_folder,
        )

    @property
    def mlflow_url(self) -> str:
        """Where a browser finds MLflow's pages, without a slash at the end."""
        return (self.mlflow_public_url or f"http://{reachable(self.host)}:{self.mlflow_port}").rstrip("/")

    @property
    def dashboard_url(self) -> str:
        """Where a browser on this machine finds the dashboard, without a slash at the end."""
        return f"http://{reachable(self.host)}:{self.dashboard_port}"

    @property
    def model_server_url(self) -> str:
        """Where the pages and commands of this installation find the model server, without a slash at the end."""
        return (self.serve_url or f"http://{reachable(self.serve_host)}:{self.serve_port}").rstrip("/")

    @property
    def model_server_public_url(self) -> str:
        """What programs call the model server, without a slash at the end."""
        return (self.serve_public_url or self.model_server_url).rstrip("/")


def reachable(host: str) -> str:
    """What stands in an address for a host that is listened on: listening everywhere is nothing to call."""
    if host in EVERYWHERE:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def blobs_place(value: str) -> str:
    """Where blobs lie as it is kept: empty, the path of a folder, or a bucket's address without a slash at the end.

    Raises:
        ValueError: it is none of these; an address that carries credentials is not repeated.
    """
    value = value.strip()
    if "://" not in value:
        return str(Path(value).expanduser().absolute()) if value else ""
    parts = urlsplit(value)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.strip("/"):
        return str(Path(unquote(parts.path)))
    if "@" in value or parts.query or parts.fragment:
        raise ValueError(
            "an address of a bucket holds no user, key or option; credentials come from the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or a profile. Write s3://bucket/prefix"
        )
    place = value.removeprefix(BUCKET_SCHEME).rstrip("/")
    if parts.scheme != "s3" or not _BUCKET.fullmatch(place) or ".." in place:
        raise ValueError(
            f"{value!r} is no place for pictures, which lie in a folder (/mnt/parts/blobs, file:///mnt/parts/blobs) "
            "or in a bucket (s3://bucket/prefix; small letters, digits, dots and hyphens)"
        )
    return f"{BUCKET_SCHEME}{place}"


def settings_file(home: Path | str | None = None) -> Path:
    """Path of the settings file, existing or not: in `home`, else `$SIMPLENET_HOME`, else `~/.simplenet`."""
    folder = home or os.environ.get(f"{PREFIX}HOME") or DEFAULT_HOME
    return Path(folder).expanduser().absolute() / FILE_NAME


def read_file(file: Path) -> dict[str, Any]:
    """Read the settings file.

    Returns:
        Key to value as written, not validated yet; empty where the file doesn't exist.
    Raises:
        SettingsError: it can't be read, isn't TOML, or has a key that is no setting.
    """
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"Settings file {file} can't be read: {error}. Repair it or remove it."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f"Settings file {file} is not valid TOML: {error}. Write for instance: workers = 2"
        ) from error
    if "home" in values:
        raise SettingsError(
            f"Settings file {file} sets 'home', which it is found through. "
            f"Set {PREFIX}HOME in the environment instead."
        )
    allowed = sorted(set(Settings.model_fields) - {"home"})
    unknown = [key for key in values if key not in allowed]
    if unknown:
        raise SettingsError(
            f"Settings file {file} has the unknown key {', '.join(map(repr, unknown))}. "
            f"Allowed are {', '.join(allowed)}."
        )
    return values


def _explain(error: ValidationError, given: Mapping[str, Any]) -> str:
    """One sentence per broken rule, each naming where the value came from."""
    sentences = []
    for broken in error.errors(include_url=False):
        reason = broken["msg"].removeprefix("Value error, ")
        if not broken["loc"]:
            sentences.append(f"{reason}.")
            continue
        key = str(broken["loc"][0])
        if broken["type"] == "extra_forbidden":
            sentences.append(
                f"{key!r} is no setting. Allowed are {', '.join(sorted(Settings.model_fields))}."
            )
            continue
        if key in given:
            origin = f"Setting {key!r}"
        elif f"{PREFIX}{key.upper()}" in os.environ:
            origin = f"Environment variable {PREFIX}{key.upper()}"
        else:
            origin = f"Setting {key!r} in {settings_file(given.get('home'))}"
        # What is not part of repr may carry a password.
        shown = f"{broken['input']!r}" if Settings.model_fields[key].repr else "not allowed"
        sentences.append(f"{origin} is {shown}: {reason}. Correct it or leave it out.")
    return " ".join(sentences)
