"""Keeping processes up: real processes that die, hang or hold a port."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from storage.settings import Settings
from tuning import supervisor
from tuning.errors import SupervisorError
from tuning.supervisor import ProcessSpec, installation, running, up

SLEEP = "import time; time.sleep(600)"


def spec(name, code, **changes):
    return ProcessSpec(name=name, command=(sys.executable, "-c", code), **changes)


@pytest.fixture
def supervise(workspace):
    """Run `up` in a thread; answers the list of changes as they come. Ends everything after the test."""
    stops = []

    def start(*specs):
        changes, stop = [], threading.Event()
        thread = threading.Thread(
            target=up, args=(workspace, specs), kwargs={"stop": stop, "on_change": changes.append}
        )
        thread.start()
        stops.append((stop, thread))
        return changes, stop, thread

    yield start
    for stop, thread in stops:
        stop.set()
        thread.join(30)


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] == "Z"


def test_dead_process_is_started_again(workspace, supervise):
    changes, _, _ = supervise(spec("sleeper", SLEEP))
    wait_for(lambda: any(change.state == "ready" for change in changes))
    first = next(change.pid for change in changes if change.state == "ready")
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: any(change.state == "restarting" and "code -9" in change.detail for change in changes))
    wait_for(lambda: changes[-1].state == "ready")
    assert changes[-1].pid != first


def test_stop_ends_children_and_grandchildren(workspace, supervise):
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    changes, stop, thread = supervise(spec("parent", code))
    log = workspace.settings.logs_folder / "parent.log"
    wait_for(lambda: log.exists() and log.read_text().strip())
    grandchild, child = int(log.read_text()), running(workspace.settings)[0].pid
    stop.set()
    thread.join(30)
    assert gone(child)
    wait_for(lambda: gone(grandchild))
    assert changes[-1].state == "stopped"
    assert running(workspace.settings) == []


def test_process_that_ignores_the_request_is_killed(workspace, supervise, monkeypatch):
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.5)
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {SLEEP}"
    changes, stop, thread = supervise(spec("deaf", code))
    log = workspace.settings.logs_folder / "deaf.log"
    wait_for(lambda: log.exists() and "deaf" in log.read_text())
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert changes[-1].detail == "had to be killed"


def test_task_that_runs_once_is_not_repeated(supervise):
    changes, _, _ = supervise(
        spec("task", "print('done')", restart=False),
        spec("wrong", "raise SystemExit('no room')", restart=False),
    )
    wait_for(lambda: {change.state for change in changes} >= {"finished", "failed"})
    failed = next(change for change in changes if change.state == "failed")
    assert "no room" in failed.detail
    assert failed.log in failed.detail


def test_ready_means_that_it_answers(supervise, free_port):
    server = (
        "import http.server, time\n"
        "time.sleep(1)\n"
        f"address = ('127.0.0.1', {free_port})\n"
        "http.server.HTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()\n"
    )
    started = time.monotonic()
    changes, _, _ = supervise(spec("server", server, health_url=f"http://127.0.0.1:{free_port}/"))
    wait_for(lambda: changes and changes[-1].state == "ready")
    assert time.monotonic() - started >= 1


def test_second_supervisor_is_refused_and_told_where_the_first_is(workspace, supervise):
    changes, _, _ = supervise(spec("sleeper", SLEEP, address="http://127.0.0.1:1"))
    wait_for(lambda: changes and changes[-1].state == "ready")
    with pytest.raises(SupervisorError, match=r"running already .*http://127\.0\.0\.1:1"):
        up(workspace, [], stop=threading.Event(), on_change=lambda _: None)


def test_children_end_when_the_supervisor_is_killed(workspace, tmp_path):
    code = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from storage.settings import Settings\n"
        "from storage.workspace import open_workspace\n"
        "from tuning.supervisor import ProcessSpec, up\n"
        f"workspace = open_workspace(Settings(home=Path({str(tmp_path / 'other')!r})))\n"
        f"spec = ProcessSpec(name='sleeper', command=(sys.executable, '-c', {SLEEP!r}))\n"
        "up(workspace, [spec], stop=threading.Event(), on_change=lambda s: print(s.pid, s.state, flush=True))\n"
    )
    killed = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = 0
    for line in killed.stdout:
        pid = int(line.split()[0])
        if "ready" in line:
            break
    killed.kill()
    killed.wait()
    killed.stdout.close()
    wait_for(lambda: gone(pid))


def test_taken_port_that_was_set_is_an_error(tmp_path, free_port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port))
        other.listen()
        settings = Settings(home=tmp_path, mlflow_port=free_port)
        with pytest.raises(SupervisorError, match=f"Port {free_port} is taken.*SIMPLENET_MLFLOW_PORT"):
            installation(settings, demo=False)


def test_taken_default_port_is_replaced(tmp_path):
    default = Settings(home=tmp_path).mlflow_port
    with socket.socket() as other:
        # A port that was closed a moment ago can be taken again at once.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", default))
            other.listen()
        except OSError:
            pass  # somebody else holds it, which is as good
        server = next(
            spec for spec in installation(Settings(home=tmp_path), demo=False) if spec.name == "MLflow server"
        )
    assert int(server.environment["SIMPLENET_MLFLOW_PORT"]) > default


def test_passwords_stay_off_the_command_line(tmp_path):
    url = "postgresql+psycopg://me:secret@127.0.0.1/mlflow"
    server = installation(Settings(home=tmp_path, mlflow_database_url=url), demo=False)[0]
    assert not any("secret" in word for word in server.command)
    assert server.environment["MLFLOW_BACKEND_STORE_URI"] == url


def workers_of(specs):
    """What tells the environments of the workers apart."""
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    return [
        {name: spec.environment[name] for name in names if name in spec.environment}
        for spec in specs
        if spec.name.startswith("worker")
    ]


@pytest.fixture
def no_pinning(monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_each_gpu_has_a_worker_of_its_own(tmp_path, no_pinning):
    specs = installation(Settings(home=tmp_path), demo=False, gpus=["0", "1", "2"], cores=8)
    assert workers_of(specs) == [
        {"CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": "2"} for gpu in ("0", "1", "2")
    ]
    assert [spec.name for spec in specs if spec.name.startswith("worker")] == [
        "worker 1",
        "worker 2",
        "worker 3",
    ]


def test_without_a_gpu_one_worker_has_the_whole_processor(tmp_path, no_pinning):
    assert workers_of(installation(Settings(home=tmp_path), demo=False, gpus=[], cores=8)) == [{}]


def test_workers_on_the_processor_share_its_threads(tmp_path, no_pinning):
    specs = installation(Settings(home=tmp_path, workers=3), demo=False, gpus=[], cores=8)
    assert workers_of(specs) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert workers_of(installation(Settings(home=tmp_path, workers=0), demo=False, gpus=["0"])) == []


def test_more_workers_than_gpus_share_them_in_turn(tmp_path, no_pinning):
    specs = installation(Settings(home=tmp_path, workers=3), demo=False, gpus=["GPU-a", "GPU-b"], cores=2)
    pinned = [worker["CUDA_VISIBLE_DEVICES"] for worker in workers_of(specs)]
    assert pinned == ["GPU-a", "GPU-b", "GPU-a"]


def test_worker_is_pinned_to_nothing_where_a_device_is_set(tmp_path, no_pinning, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert supervisor.gpus_here() == ["0", "1"]
    assert workers_of(installation(Settings(home=tmp_path, device="cpu"), demo=False, cores=4)) == [{}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert workers_of(installation(Settings(home=tmp_path), demo=False, cores=4)) == [{}]


def test_threads_that_were_set_stay(tmp_path, no_pinning, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert workers_of(installation(Settings(home=tmp_path, workers=2), demo=False, gpus=[], cores=8)) == [
        {},
        {},
    ]
