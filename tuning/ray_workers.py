"""Workers placed on a Ray cluster: an actor per worker, which Ray starts again elsewhere when its node dies.

The worker itself is the ordinary one, `simplenet worker`, a process beside its actor: the actor keeps it up as the
supervisor keeps those of one machine, and asks it to end when it is asked to. Ray only decides where. The actors belong
to the process that placed them and end with it.
"""

import logging
import math
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from storage.errors import StorageError
from storage.records import Worker
from storage.settings import Settings
from storage.workspace import Workspace
from tuning.errors import BadPlacement, ClusterUnavailable
from tuning.queries import live_workers
from tuning.supervisor import (
    POLL_SECONDS,
    SIMPLENET,
    STOP_SECONDS,
    WORKER_ENVIRONMENT,
    KeptProcess,
    ProcessSpec,
    ProcessStatus,
)

logger = logging.getLogger(__name__)

KNOCK_SECONDS = 5.0  # patience with an address; Ray's own gives up after 163 s and then ends the process
CONNECT_SECONDS = 30.0  # for a first connection, which shows that it is a cluster, and one of our version
LOOK_SECONDS = 1.0  # between two looks at nodes and workers
AGAIN_SECONDS = 30.0  # before an actor that could not begin is made anew
LATE_SECONDS = 5.0  # patience with the word that a worker has ended, beyond what it takes to kill one
_PROBE = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine of the cluster that is alive, with all that Ray may give away of it."""

    id: str
    name: str
    cpus: float
    gpus: float

    @property
    def label(self) -> str:
        """'10.0.0.7 (3fa2b1)': several nodes may have one name."""
        return f"{self.name} ({self.id[:6]})"

    @property
    def place(self) -> str:
        """What the names of its workers begin with, and the pages show: 'ray-10.0.0.7-3fa2b1'."""
        return f"ray-{re.sub(r'[^A-Za-z0-9.]+', '-', self.name)}-{self.id[:6]}"

    @property
    def has(self) -> str:
        """'8 CPUs, 1 GPU'."""
        return _amounts(self.cpus, self.gpus)


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one worker takes of its node.

    Raises:
        BadPlacement: a worker can't use so much, or would take nothing.
    """

    gpus: float
    cpus: float

    def __post_init__(self) -> None:
        if not 0 <= self.gpus <= 1:
            raise BadPlacement(
                f"{self.gpus:g} GPUs per worker are asked for; a worker computes on one, so 0 to 1 are allowed "
                "(0.5: two workers share a GPU). Ask for 1, and for more workers with --count."
            )
        if self.cpus < 0 or (self.cpus > 1 and self.cpus % 1):
            raise BadPlacement(
                f"{self.cpus:g} CPUs per worker are asked for; Ray takes a fraction below 1, or a whole number. "
                "Ask for instance for 0.5 or 2."
            )
        if not self.gpus and not self.cpus:
            raise BadPlacement(
                "Workers with 0 GPUs and 0 CPUs would all find room on one node; each must take a part of either. "
                "Give --cpus-per-worker 1."
            )

    def room(self, node: Node) -> int:
        """How many such workers a node has room for while nothing else runs there."""
        rooms = []
        if self.gpus:  # a share lies on one GPU
            rooms.append(_floor(node.gpus) * _floor(1 / self.gpus))
        if self.cpus:
            rooms.append(_floor(node.cpus / self.cpus))
        return min(rooms)

    def __str__(self) -> str:
        """'1 CPU, 0.5 GPUs'."""
        return _amounts(self.cpus, self.gpus)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an actor says of itself."""

    node: Node
    gpus: tuple[str, ...]  # Ray's names of those that its worker may use
    process: ProcessStatus


class WorkerActor:
    """One worker on the node that Ray has chosen. Ray runs the constructor again wherever it restarts the actor."""

    def __init__(self, number: int, environment: Mapping[str, str], shared_file: str) -> None:
        """Keep a worker from now on.

        Args:
            number: of the worker among those of the command; its log is named by it.
            environment: settings of the installation, and how many threads to use.
            shared_file: lies in the home of whoever places the workers: a node that does not see it has another folder.
        """
        import ray

        context = ray.get_runtime_context()
        here = context.get_node_id()
        self._node = next(node for node in _alive_nodes() if node.id == here)
        self._gpus = tuple(context.get_accelerator_ids().get("GPU", ()))
        self._shared_file = Path(shared_file)
        log = self._shared_file.parent / "logs" / f"worker-{self._node.place}-{number}.log"
        spec = ProcessSpec(
            name=f"worker {number}",
            # Which GPU Ray chose stands in this process's environment, which the worker inherits.
            command=(*SIMPLENET, "worker", "--place", self._node.place),
            environment=dict(environment),
        )
        self._process = KeptProcess(spec, log)
        self._status = self._process.status()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="worker", daemon=True)
        self._thread.start()

    def report(self) -> Report:
        """How the worker is."""
        return Report(node=self._node, gpus=self._gpus, process=self._status)

    def stop(self) -> Report:
        """End the worker as SIGTERM does; answers once it has ended, at the latest when it had to be killed."""
        self._stop.set()
        self._thread.join()
        return self.report()

    def _keep(self) -> None:
        process = self._process
        while not self._shared_file.exists():
            home, label = self._shared_file.parent, self._node.label
            why = f"Folder {home} on node {label} is not the installation's. Share it with that node, at the same path."
            self._status = replace(process.status(), state="refused", detail=why)
            if self._stop.wait(LOOK_SECONDS):
                return
        while not self._stop.wait(POLL_SECONDS):
            try:
                process.step(time.monotonic())
                self._status = process.status()
            except OSError as error:  # no room for its log, no process left: both may pass
                self._status = replace(process.status(), state="failed", detail=str(error))
        process.stop()
        process.wait(time.monotonic() + STOP_SECONDS)
        self._status = process.status()


def check_settings(settings: Settings, share: Share) -> None:
    """Refuse what could not work on several machines.

    Raises:
        BadPlacement: a database is a file of one machine, or the device is none that Ray gives to workers.
    """
    names = ("database_url", "optuna_url", "tracking_uri")
    files = [name for name in names if getattr(settings, name).startswith("sqlite")]
    if files:
        named = ", ".join(f"SIMPLENET_{name.upper()}" for name in files)
        one = len(files) == 1
        raise BadPlacement(
            f"{named} {'is a SQLite file' if one else 'are SQLite files'}, which several machines can not share. Set "
            f"{'it' if one else 'them'} to PostgreSQL (postgresql://…), the last one to that or to an MLflow server "
            "(http://…); docs/deployment.md tells how."
        )
    allowed = ("auto", "cuda") if share.gpus else ("auto", "cpu", "mps")
    if settings.device not in allowed:
        otherwise = "give --gpus-per-worker 0" if share.gpus else "ask for GPUs"
        raise BadPlacement(
            f"SIMPLENET_DEVICE is {settings.device!r}, and each worker gets {share} from Ray; it must be one of "
            f"{', '.join(allowed)} then. Leave it out, or {otherwise}."
        )


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be a driver of a Ray cluster. Only for the main thread; Ray takes the handler of SIGTERM meanwhile.

    Args:
        address: HOST:PORT of its head, or "auto" for the one that this machine belongs to.
    Raises:
        ClusterUnavailable: Ray is not installed, nobody answers, or what answers is no cluster for us.
    """
    if find_spec("ray") is None:
        raise ClusterUnavailable(
            "Workers on a Ray cluster need ray, which is not installed. Install the extra, here and on the cluster's "
            "machines: pip install 'simplenet-automl[ray]'."
        )
    _knock(address)
    _try_out(address)
    import ray

    ray.init(address, namespace="simplenet", log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def keep_workers(
    workspace: Workspace,
    *,
    share: Share,
    count: int | None,
    stop: threading.Event,
    on_change: Callable[[ProcessStatus], None],
) -> None:
    """Keep workers placed on the cluster that this process is connected to until `stop` is set, then end them.

    Args:
        count: how many; they wait for room where there is none. None: as many as the cluster has room for, more when
            nodes join.
        on_change: called whenever something about a worker or a node changes.
    Raises:
        BadPlacement: no node has room for a worker, and no number of them is asked for.
    """
    nodes = {node.id: node for node in _alive_nodes()}
    if count is None and not any(share.room(node) for node in nodes.values()):
        about = "; ".join(f"{node.label}: {node.has}" for node in nodes.values()) or "no node at all"
        raise BadPlacement(
            f"No node has room for a worker with {share}. The cluster has {about}. Ask for less with "
            "--gpus-per-worker and --cpus-per-worker, or give --count to wait for such nodes."
        )
    settings = workspace.settings
    environment = {
        **settings.environment(),
        **WORKER_ENVIRONMENT,
        "OMP_NUM_THREADS": str(max(1, _floor(share.cpus))),
        "PYTHONUNBUFFERED": "1",
    }
    if not share.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # it was given none, and must not take another's
    with tempfile.NamedTemporaryFile(dir=settings.home, prefix="ray-") as shared_file:
        placed: list[_Placed] = []
        tell = _Teller(on_change)
        seen: dict[str, Node] = {}
        joined: Mapping[tuple[str, int], Worker] = {}
        try:
            while not stop.is_set():
                nodes = {node.id: node for node in _alive_nodes()}
                _tell_nodes(seen, nodes, tell)
                seen = nodes
                wanted = count or max(len(placed), sum(share.room(node) for node in nodes.values()))
                for number in range(len(placed) + 1, wanted + 1):
                    placed.append(_Placed(number, share, (number, environment, shared_file.name)))
                joined = _joined(workspace) or joined
                for worker in placed:
                    worker.look(nodes, joined)
                    tell(worker.status)
                stop.wait(LOOK_SECONDS)
        finally:
            _end(placed, tell)


class _Placed:
    """One worker as the process that places it sees it, through all restarts of its actor."""

    def __init__(self, number: int, share: Share, arguments: tuple[Any, ...]) -> None:
        self._share = share
        self._arguments = arguments
        self._asked: Any = None  # for a report, and not answered yet
        self._again_at = 0.0
        self._heard_of: Report | None = None  # None: where it is, is not known
        self._make_actor()
        self.status = ProcessStatus(
            name=f"worker {number}",
            state="waiting",
            address=None,
            pid=None,
            log="",
            detail=f"for a node with {share} free",
        )

    def look(self, nodes: Mapping[str, Node], joined: Mapping[tuple[str, int], Worker]) -> None:
        """Take note of what the actor last said, and ask it again. Waits for nothing."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayError

        if self.actor is None:
            if time.monotonic() >= self._again_at:
                self._make_actor()
            return
        if self._asked is None:
            self._asked = self.actor.report.remote()
        answered, _ = ray.wait([self._asked], timeout=0)
        if answered:
            asked, self._asked = self._asked, None
            try:
                self._heard(ray.get(asked), joined)
            except ActorUnavailableError:
                self._lost()
            except RayError as error:  # what can be restarted was: it could not even begin
                self._failed(error)
        elif self._heard_of is not None and self._heard_of.node.id not in nodes:
            self._lost()

    def heard_end(self, report: Report) -> None:
        """Take note of how the worker ended."""
        self._say(report.process.state, report.process.detail)

    @property
    def begun(self) -> bool:
        """Whether there is a worker somewhere that can be asked to end."""
        return self.actor is not None and self._heard_of is not None

    def _make_actor(self) -> None:
        import ray

        options: dict[str, Any] = {
            "num_gpus": self._share.gpus,
            "num_cpus": self._share.cpus,
            "max_restarts": -1,
            "max_task_retries": 0,  # a question that was lost is asked again here
            "max_concurrency": 2,  # it answers how the worker is while it ends it
            "scheduling_strategy": "SPREAD",  # over nodes, so that a dead one takes few of them
        }
        self.actor: Any = ray.remote(**options)(WorkerActor).remote(*self._arguments)

    def _heard(self, report: Report, joined: Mapping[tuple[str, int], Worker]) -> None:
        self._heard_of = report
        process = report.process
        worker = joined.get((report.node.place, process.pid or 0))
        gpus = f", GPU {', '.join(report.gpus)}" if report.gpus else ""
        where = f"on node {report.node.label}{gpus}"
        if process.state != "ready":
            self._say(process.state, f"{where}: {process.detail}" if process.detail else where)
        elif worker is None:  # its process runs and has not come so far as to join
            self._say("starting", where)
        else:
            device = worker.device
            if device.startswith("cpu") and worker.threads is not None:
                device += f", {_amount(worker.threads, 'thread')}"
            self._say("ready", f"{where}: {worker.id} on {device}")

    def _lost(self) -> None:
        where = f"node {self._heard_of.node.label}" if self._heard_of is not None else "its node"
        self._heard_of = None
        if self.status.state != "lost":
            self._say("lost", f"{where} does not answer; Ray starts it again where {self._share} are free")

    def _failed(self, error: Exception) -> None:
        self.actor, self._heard_of = None, None
        self._again_at = time.monotonic() + AGAIN_SECONDS
        logger.warning("an actor could not begin: %s", error)
        self._say(
            "failed", f"its actor could not begin: {_last_line(str(error))}; again in {AGAIN_SECONDS:g} s"
        )

    def _say(self, state: str, detail: str) -> None:
        self.status = replace(self.status, state=state, detail=detail)


class _Teller:
    """Passes on what is new."""

    def __init__(self, on_change: Callable[[ProcessStatus], None]) -> None:
        self._on_change = on_change
        self._told: dict[str, ProcessStatus] = {}

    def __call__(self, status: ProcessStatus) -> None:
        if self._told.get(status.name) != status:
            self._told[status.name] = status
            self._on_change(status)


def _tell_nodes(before: Mapping[str, Node], nodes: Mapping[str, Node], tell: _Teller) -> None:
    for node in [*before.values(), *nodes.values()]:
        if (node.id in before) == (node.id in nodes):
            continue
        state = "joined" if node.id in nodes else "left"
        name = f"node {node.label}"
        tell(ProcessStatus(name=name, state=state, address=None, pid=None, log="", detail=node.has))


def _end(placed: Sequence[_Placed], tell: _Teller) -> None:
    """Ask all workers to end and wait for it; then nothing is restarted any more."""
    import ray
    from ray.exceptions import RayError

    asked = {worker.actor.stop.remote(): worker for worker in placed if worker.begun}
    for worker in asked.values():
        tell(replace(worker.status, state="stopping", detail=""))
    deadline = time.monotonic() + STOP_SECONDS + LATE_SECONDS
    open_questions = list(asked)
    while open_questions and (left := deadline - time.monotonic()) > 0:
        answered, open_questions = ray.wait(open_questions, timeout=left)
        for question in answered:
            worker = asked[question]
            try:
                worker.heard_end(ray.get(question))
            except RayError:
                worker.status = replace(worker.status, state="lost", detail="its node does not answer")
            tell(worker.status)
    for worker in placed:
        if worker.actor is not None:
            ray.kill(worker.actor)


def _alive_nodes() -> list[Node]:
    import ray

    return [
        Node(
            id=node["NodeID"],
            name=node["NodeName"],
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _joined(workspace: Workspace) -> Mapping[tuple[str, int], Worker] | None:
    """The workers of the installation by place and process; None while the database does not tell."""
    try:
        return {(worker.hostname, worker.pid): worker for worker in live_workers(workspace)}
    except StorageError:
        logger.warning("which workers have joined is not known: the database is away")
        return None


def _knock(address: str) -> None:
    """See whether anybody listens at an address at all.

    Raises:
        ClusterUnavailable: nobody does, or it is no address of a cluster's head.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ClusterUnavailable(
            f"Ray address {address!r} is not understood; it must be HOST:PORT of the cluster's head, as 'ray start' "
            "prints it, or 'auto'. Run this command on a machine of the cluster."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()
    except OSError as error:
        raise ClusterUnavailable(
            f"Nobody answers at Ray address '{address}': {error}. Start the cluster (ray start --head), or give the "
            "address that it printed."
        ) from error


def _try_out(address: str) -> None:
    """Connect in a process of its own: where Ray does not succeed it hangs for minutes, or ends the process.

    Raises:
        ClusterUnavailable: it does not succeed.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            capture_output=True,
            text=True,
            timeout=CONNECT_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ClusterUnavailable(
            f"What listens at Ray address '{address}' did not answer as a Ray cluster within {CONNECT_SECONDS:g} s. "
            "Give the port of its head (usually 6379, not the dashboard's 8265), and run this on one of its machines."
        ) from None
    if done.returncode:
        raise ClusterUnavailable(
            f"No connection to the Ray cluster at '{address}': {_last_line(done.stderr) or 'Ray gave no reason'}. "
            "Run this command on a machine of the cluster, with its versions of Ray and Python."
        )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else ""


def _floor(number: float) -> int:
    return math.floor(number + 1e-6)  # 0.1 goes ten times into 1


def _amounts(cpus: float, gpus: float) -> str:
    return f"{_amount(cpus, 'CPU')}, {_amount(gpus, 'GPU')}"


def _amount(number: float, unit: str) -> str:
    return f"{number:g} {unit}{'' if number == 1 else 's'}"
