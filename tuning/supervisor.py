"""One machine's processes: starts MLflow's server, model server, workers, dashboard; restarts what dies; stops all.

Each child gets a process group of its own, so that stopping it also stops what it started, and its own log file. On
Linux a child is also told to end when the supervisor dies without having been able to stop it.
"""

import contextlib
import ctypes
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from storage.settings import Settings, reachable
from storage.workspace import Workspace
from tuning.errors import SupervisorError
from tuning.ports import is_free
from tuning.queries import worker_alive

logger = logging.getLogger(__name__)

STOP_SECONDS = 15.0  # grace between asking a process to end and killing it
POLL_SECONDS = 0.25
PROBE_SECONDS = 2.0  # patience with one health check
HEALTH_SECONDS = 10.0  # between two health checks of a process that was ready
MISSES = 12  # unanswered checks in a row, on a busy machine, before a process counts as hung
BACKOFF_SECONDS = (1.0, 2.0, 5.0, 15.0, 30.0)  # waits before restarts, the last one for ever
STEADY_SECONDS = 60.0  # after so long up, the next death counts as the first again
STATE_FILE = "supervisor.json"
# Threads of a worker that wait for each other sleep instead of spinning: with other processes on the same cores
# training took half the time (docs/log.md).
WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
SIMPLENET = (sys.executable, "-m", "dashboard.cli")  # the command line, in this very environment


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """A process to keep running."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    address: str | None = None  # what people open
    health_url: str | None = None  # answers 200 when ready; None: ready when running
    restart: bool = True  # False: run once to its end


@dataclass(frozen=True, kw_only=True)
class ProcessStatus:
    """How a process is, for people."""

    name: str
    state: str  # starting, ready, restarting, finished, failed, stopping, stopped; on a cluster more
    address: str | None
    pid: int | None
    log: str
    detail: str = ""


class KeptProcess:
    """One supervised process through all its restarts. Used by one thread alone, which must outlive it."""

    def __init__(self, spec: ProcessSpec, log: Path) -> None:
        self.spec = spec
        self.log = log
        self.state = "starting"
        self.detail = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._probe_at = 0.0
        self._restart_at = 0.0
        self._deaths = 0
        self._misses = 0

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                self.spec.command,
                env={**os.environ, **self.spec.environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        self._started_at = time.monotonic()
        self._probe_at, self._misses = 0.0, 0
        self.state = "starting"

    def step(self, moment: float) -> None:
        """Look after the process once: notice its death, restart it when due, ask whether it is ready."""
        if self.state in ("finished", "failed"):
            return
        if self.process is None:
            if moment >= self._restart_at:
                self.start()
            return
        code = self.process.poll()
        if code is not None:
            self._died(code, moment)
        elif moment >= self._probe_at:
            self._probe(moment)

    def stop(self) -> None:
        """Ask the whole process group to end."""
        if self.process is not None and self.process.poll() is None:
            self.state = "stopping"
            self._signal(signal.SIGTERM)

    def wait(self, deadline: float) -> None:
        """Wait for the end, and kill what is left at the deadline (monotonic seconds)."""
        if self.process is not None:
            try:
                self.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.detail = "had to be killed"
            self._signal(signal.SIGKILL)  # also what the process itself left behind in its group
            self.process.wait()
        self.state = "stopped" if self.state != "finished" else self.state

    def status(self) -> ProcessStatus:
        running = self.process is not None and self.process.poll() is None
        return ProcessStatus(
            name=self.spec.name,
            state=self.state,
            address=self.spec.address,
            pid=self.process.pid if running and self.process else None,
            log=str(self.log),
            detail=self.detail,
        )

    def _probe(self, moment: float) -> None:
        """Ask whether the process is ready, or still is; one that has stopped answering is ended, to start again."""
        if self.spec.health_url is None or _answers(self.spec.health_url):
            self.state, self.detail, self._misses = "ready", "", 0
        elif self.state == "ready":
            self._misses += 1
            if self._misses >= MISSES:
                logger.warning("%s does not answer any more", self.spec.name)
                self._signal(signal.SIGKILL)
        self._probe_at = moment + (PROBE_SECONDS / 4 if self.state == "starting" else HEALTH_SECONDS)

    def _died(self, code: int, moment: float) -> None:
        self._signal(signal.SIGKILL)
        self.process = None
        if not self.spec.restart:
            self.state = "finished" if code == 0 else "failed"
            self.detail = (
                _last_line(self.log)
                if code == 0
                else f"{_last_line(self.log) or f'exit code {code}'} (log: {self.log})"
            )
            return
        self._deaths = 1 if moment - self._started_at > STEADY_SECONDS else self._deaths + 1
        wait = BACKOFF_SECONDS[min(self._deaths, len(BACKOFF_SECONDS)) - 1]
        self.state, self._restart_at = "restarting", moment + wait
        said = _last_line(self.log)
        why = (
            f": {said}" if code > 0 and said else ""
        )  # what a process that was killed said last is no reason
        self.detail = f"ended with code {code}{why}; again in {wait:g} s (log: {self.log})"
        logger.warning("%s %s", self.spec.name, self.detail)

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)


def up(
    workspace: Workspace,
    processes: Sequence[ProcessSpec],
    *,
    stop: threading.Event,
    on_change: Callable[[ProcessStatus], None],
) -> None:
    """Keep the processes running until `stop` is set, then end them all.

    Args:
        on_change: called whenever a process's state or detail changes.
    Raises:
        SupervisorError: another supervisor runs this installation.
    """
    with _only_supervisor(workspace.settings):
        children = [
            KeptProcess(spec, workspace.settings.logs_folder / f"{spec.name.replace(' ', '-')}.log")
            for spec in processes
        ]
        shown: dict[str, tuple[str, str]] = {}
        try:
            while not stop.is_set():
                for child in children:
                    child.step(time.monotonic())
                _tell(workspace.settings, children, shown, on_change)
                stop.wait(POLL_SECONDS)
        finally:
            for child in children:
                child.stop()
            _tell(workspace.settings, children, shown, on_change)
            deadline = time.monotonic() + STOP_SECONDS
            for child in children:
                child.wait(deadline)
            _tell(workspace.settings, children, shown, on_change)
            (workspace.settings.home / STATE_FILE).unlink(missing_ok=True)


def installation(
    settings: Settings, *, demo: bool, gpus: Sequence[str] | None = None, cores: int | None = None
) -> list[ProcessSpec]:
    """The processes of one machine.

    Args:
        demo: also load the demo and launch its study, once, if the installation is empty.
        gpus: what CUDA_VISIBLE_DEVICES calls each GPU; None: those of this machine.
        cores: of the processor, to be shared out among the workers; None: those of this machine.
    """
    settings = _with_free_ports(settings)
    environment = {
        "SIMPLENET_HOME": str(settings.home),
        "SIMPLENET_MLFLOW_PORT": str(settings.mlflow_port),
        "SIMPLENET_DASHBOARD_PORT": str(settings.dashboard_port),
        "SIMPLENET_SERVE_PORT": str(settings.serve_port),
        "PYTHONUNBUFFERED": "1",
    }
    specs = [
        ProcessSpec(
            name="MLflow server",
            command=tuple(mlflow_command(settings)),
            environment={**environment, **mlflow_environment(settings)},
            address=settings.mlflow_url,
            health_url=f"http://{reachable(settings.host)}:{settings.mlflow_port}/health",
        ),
        ProcessSpec(
            name="dashboard",
            command=(*SIMPLENET, "dashboard"),
            environment=environment,
            address=settings.dashboard_url,
            health_url=f"http://{reachable(settings.host)}:{settings.dashboard_port}/_stcore/health",
        ),
        ProcessSpec(
            name="model server",
            command=(*SIMPLENET, "serve"),
            environment={**environment, **WORKER_ENVIRONMENT},
            address=settings.model_server_url,
            health_url=f"http://{reachable(settings.serve_host)}:{settings.serve_port}/health",
        ),
    ]
    specs += [
        ProcessSpec(
            name=f"worker {number}",
            command=(*SIMPLENET, "worker"),
            environment={**environment, **WORKER_ENVIRONMENT, **its_own},
        )
        for number, its_own in enumerate(worker_environments(settings, gpus, cores), start=1)
    ]
    if demo:
        specs.append(
            ProcessSpec(
                name="demo",
                command=(*SIMPLENET, "demo", "--if-empty"),
                environment=environment,
                restart=False,
            )
        )
    return specs


def worker_environments(
    settings: Settings, gpus: Sequence[str] | None = None, cores: int | None = None
) -> list[dict[str, str]]:
    """What tells the workers of a machine apart: each has one GPU, or its share of the processor's threads.

    Args:
        gpus, cores: as for `installation`.
    """
    if gpus is None:
        gpus = gpus_here() if settings.device in ("auto", "cuda") else ()
    cores = cores or _cores_here()
    count = max(1, len(gpus)) if settings.workers == "auto" else settings.workers
    environments = []
    for number in range(count):
        environment = {}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        if count > 1 and "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, cores // count))
        environments.append(environment)
    return environments


def gpus_here() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that torch could use here; told without torch, which takes seconds."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    driver = Path("/proc/driver/nvidia/gpus")
    try:
        return [str(number) for number, _ in enumerate(driver.iterdir())]
    except OSError:
        return []


def _cores_here() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ensure_worker(workspace: Workspace, study_id: int) -> None:
    """Start a worker for one study if no worker is alive; it goes on when the caller ends, and ends with the study."""
    if worker_alive(workspace):
        return
    log = workspace.settings.logs_folder / f"worker-of-study-{study_id}.log"
    with log.open("ab") as file:
        subprocess.Popen(
            (*SIMPLENET, "worker", "--study", str(study_id)),
            env={**os.environ, **WORKER_ENVIRONMENT, "SIMPLENET_HOME": str(workspace.settings.home)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def mlflow_command(settings: Settings) -> list[str]:
    """Command line of the MLflow server; its database's address, which may hold a password, goes by the environment."""
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", settings.host, "--port", str(settings.mlflow_port), "--workers", "1"),
        *("--artifacts-destination", settings.artifacts_folder.as_uri()),
    ]


def mlflow_environment(settings: Settings) -> dict[str, str]:
    """Environment of the MLflow server."""
    return {
        "MLFLOW_BACKEND_STORE_URI": settings.mlflow_database_url,
        # Its helper processes take about 2 GB and serve features that are not used here.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def running(settings: Settings) -> list[ProcessStatus]:
    """The processes of this machine as its supervisor last wrote them down; empty where none runs."""
    try:
        data = json.loads((settings.home / STATE_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    if not _alive(int(data["pid"])):
        return []
    return [ProcessStatus(**status) for status in data["processes"]]


@contextlib.contextmanager
def _only_supervisor(settings: Settings) -> Iterator[None]:
    """Hold the lock of this installation; the system frees it even after a kill -9."""
    file: IO[str]
    with (settings.home / "supervisor.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            addresses = ", ".join(
                f"{status.name} {status.address}" for status in running(settings) if status.address
            )
            raise SupervisorError(
                f"Installation {settings.home} is running already ({addresses or 'still starting'}). "
                "Use it, stop it with Ctrl-C where it runs, or set SIMPLENET_HOME to another folder."
            ) from None
        yield


def _tell(
    settings: Settings,
    children: Sequence[KeptProcess],
    shown: dict[str, tuple[str, str]],
    on_change: Callable[[ProcessStatus], None],
) -> None:
    statuses = [child.status() for child in children]
    changed = [status for status in statuses if shown.get(status.name) != (status.state, status.detail)]
    if not changed:
        return
    for status in changed:
        shown[status.name] = (status.state, status.detail)
        on_change(status)
    file = settings.home / STATE_FILE
    partial = file.with_suffix(".partial")
    try:
        partial.write_text(
            json.dumps({"pid": os.getpid(), "processes": [asdict(status) for status in statuses]})
        )
        partial.replace(file)
    except OSError:  # a full disk must not end the processes
        logger.exception("state of the processes not written down")


def _with_free_ports(settings: Settings) -> Settings:
    """Ports as set; one that is only a default and taken by another program is replaced by the next free one.

    Raises:
        SupervisorError: a port that was set is taken.
    """
    taken: set[int] = set()
    chosen: dict[str, int] = {}
    hosts = {
        "dashboard_port": settings.host,
        "mlflow_port": settings.host,
        "serve_port": settings.serve_host,
    }
    for name, host in hosts.items():
        port = int(getattr(settings, name))
        if name in settings.model_fields_set and not is_free(host, port):
            raise SupervisorError(
                f"Port {port} is taken by another program. Free it, or set SIMPLENET_{name.upper()} to another port."
            )
        while port in taken or not is_free(host, port):
            port += 1
        taken.add(port)
        chosen[name] = port
    return settings.model_copy(update=chosen)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PROBE_SECONDS) as response:  # noqa: S310 (our own address)
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _last_line(log: Path) -> str:
    """The last thing that a process said."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _end_with_parent() -> None:
    """Ask the kernel to send SIGTERM when the supervisor is gone; runs in the new process before its program."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
