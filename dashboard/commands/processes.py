"""Commands that run the processes of an installation: up, dashboard, worker, workers, mlflow, migrate, version."""

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from dashboard.commands import reporting
from dashboard.commands.reporting import ExitCode, command

if TYPE_CHECKING:
    from storage.settings import Settings
    from tuning.supervisor import ProcessStatus

Database = Annotated[str | None, typer.Option(metavar="URL", help="Database of the installation to join.")]
Optuna = Annotated[str | None, typer.Option(metavar="URL", help="Optuna's database of that installation.")]
TrackingServer = Annotated[
    str | None, typer.Option(metavar="URL", help="MLflow server of the installation to join.")
]
Pictures = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE",
        help="Where its pictures are: a shared folder, or s3://bucket/prefix with credentials in the environment.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `simplenet`."""
    for function in (up, dashboard, worker, workers, mlflow, migrate, version):
        app.command()(function)


@command
def up(
    demo: Annotated[
        bool,
        typer.Option(
            "--demo", help="On an empty installation, load the demo dataset and launch its first study."
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Processes that run studies. Default: the setting, else one per GPU, or one."
        ),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser", help="Open the dashboard in the browser once it answers.")
    ] = False,
) -> None:
    """Start the MLflow server, the model server, the workers and the dashboard; Ctrl-C stops them all."""
    from dashboard import logs
    from tuning import supervisor

    workspace = reporting.open_workspace()
    settings = (
        workspace.settings if workers is None else workspace.settings.model_copy(update={"workers": workers})
    )
    logs.configure(settings.log_level)
    stop = _stop_on_signals()
    opened = not browser

    def show(status: "ProcessStatus") -> None:
        nonlocal opened
        typer.echo(_process_line(status))
        if status.name == "dashboard" and status.state == "ready" and not opened:
            opened = True
            typer.launch(str(status.address))

    typer.echo(f"Home: {settings.home}, pictures: {workspace.blobs.where}. Ctrl-C stops everything.")
    supervisor.up(workspace, supervisor.installation(settings, demo=demo), stop=stop, on_change=show)


@command
def dashboard() -> None:
    """Run the dashboard alone."""
    from dashboard.server import command as dashboard_command

    workspace = reporting.open_workspace()
    reporting.say(f"Dashboard: {workspace.settings.dashboard_url}")
    _become(dashboard_command(workspace.settings), {"SIMPLENET_HOME": str(workspace.settings.home)})


@command
def worker(
    study: Annotated[int | None, typer.Option(metavar="STUDY", help="Run this study only, then end.")] = None,
    database: Database = None,
    optuna: Optuna = None,
    tracking: TrackingServer = None,
    place: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where it runs, as pages show it. Default: this machine's name."),
    ] = None,
    blobs: Pictures = None,
) -> None:
    """Run a worker: it takes waiting studies and runs their trials. Ctrl-C ends it after its present step.

    On any machine that reaches the PostgreSQL databases, the MLflow server and the pictures it joins an installation.
    """
    from dashboard import logs
    from tuning import joining
    from tuning.worker import run_worker, worker_name

    settings = _settings(database, optuna, tracking, blobs)
    if database is not None:
        joining.check_addresses(settings)
    workspace = reporting.open_workspace(settings)
    logs.configure(settings.log_level)
    joining.check_joined(workspace)
    reporting.say(f"Pictures: {workspace.blobs.where}")
    stop = _stop_on_signals()
    run_worker(workspace, worker_id=worker_name(place), stop=stop, place=place, study_id=study)


@command
def workers(
    ray: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="HOST:PORT of the cluster's head, or auto on one of its machines."
        ),
    ],
    gpus_per_worker: Annotated[
        float, typer.Option(help="GPUs of each worker, 0 to 1: at 0.5 two share one, at 0 none is used.")
    ] = 1.0,
    cpus_per_worker: Annotated[float, typer.Option(help="CPUs of each worker; its threads.")] = 1.0,
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Workers; they wait for room. Default: as many as there is room for, more when nodes join.",
        ),
    ] = None,
    database: Database = None,
    optuna: Optuna = None,
    tracking: TrackingServer = None,
    blobs: Pictures = None,
) -> None:
    """Keep workers placed on a Ray cluster, and restart them elsewhere when a node dies. Ctrl-C ends them all.

    Run it on a machine of the cluster. It needs PostgreSQL, the installation's folder shared by all nodes, and
    the extra `ray`.
    """
    from dashboard import logs
    from tuning import ray_workers

    share = ray_workers.Share(gpus=gpus_per_worker, cpus=cpus_per_worker)
    settings = _settings(database, optuna, tracking, blobs)
    ray_workers.check_settings(settings, share)
    with ray_workers.connected(ray):
        stop = _stop_on_signals()  # Ray has put its own handler in the place of one that stood before
        workspace = reporting.open_workspace(settings)
        logs.configure(settings.log_level)
        typer.echo(f"Each worker gets {share}. Ctrl-C stops all workers.")
        ray_workers.keep_workers(
            workspace,
            share=share,
            count=count,
            stop=stop,
            on_change=lambda status: typer.echo(_process_line(status)),
        )


@command
def mlflow() -> None:
    """Run the MLflow server alone."""
    from tuning.supervisor import mlflow_command, mlflow_environment

    workspace = reporting.open_workspace()
    reporting.say(f"MLflow: {workspace.settings.mlflow_url}")
    _become(mlflow_command(workspace.settings), mlflow_environment(workspace.settings))


@command
def migrate() -> None:
    """Make the database, or bring it up to date. Every other command does so too; this one does nothing else."""
    workspace = reporting.open_workspace()
    reporting.say(f"The database of {workspace.settings.home} is up to date.")


def version() -> None:
    """Print the versions of SimpleNet AutoML and of what it stands on."""
    from dashboard.versions import installed

    typer.echo("\n".join(f"{name} {number}" for name, number in installed().items()))


def _settings(
    database: str | None, optuna: str | None, tracking: str | None, blobs: str | None
) -> "Settings":
    """Those of the installation to join."""
    given = {"database_url": database, "optuna_url": optuna, "tracking_uri": tracking, "blobs_url": blobs}
    return reporting.read_settings({name: url for name, url in given.items() if url is not None})


def _stop_on_signals() -> threading.Event:
    """An event that Ctrl-C or SIGTERM sets; a second Ctrl-C ends at once."""
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise SystemExit(ExitCode.INTERRUPTED)
        stop.set()

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return stop


def _become(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Turn this process into another program: its signals and its exit code are then its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(arguments[0], list(arguments), {**os.environ, **environment})  # noqa: S606


def _process_line(status: "ProcessStatus") -> str:
    """'dashboard      ready       http://127.0.0.1:8501'."""
    about = status.detail or status.address or ""
    return f"{status.name:<15} {status.state:<11} {about}".rstrip()
