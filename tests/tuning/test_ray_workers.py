"""What is refused before a worker is placed on a Ray cluster; the cluster itself is met in tests/faults/test_ray.py."""

import socket
import sys
import time

import pytest

from dashboard.cli import app
from storage.settings import Settings
from tuning import ray_workers
from tuning.errors import BadPlacement, ClusterUnavailable
from tuning.ray_workers import Node, Share, check_settings, connected

GPU = Share(gpus=1, cpus=1)
CPU = Share(gpus=0, cpus=1)
POSTGRES = "postgresql://me:secret@database/one"


def node(cpus, gpus, name="box"):
    return Node(id="3fa2b1c0ffee", name=name, cpus=cpus, gpus=gpus)


@pytest.fixture
def shared_settings(tmp_path):
    """Factory of settings that several machines can share."""

    def make(**changes):
        urls = {"database_url": POSTGRES, "optuna_url": POSTGRES, "tracking_uri": "http://mlflow:5000"}
        return Settings(**{"home": tmp_path, **urls, **changes})

    return make


@pytest.mark.parametrize(
    ("share", "of", "room"),
    [
        (GPU, node(8, 2), 2),
        (GPU, node(1, 2), 1),
        (GPU, node(8, 0), 0),
        (Share(gpus=0.5, cpus=1), node(8, 2), 4),
        (Share(gpus=0.4, cpus=0), node(0, 2), 4),  # 2 on each; what is left of both is no GPU
        (Share(gpus=0.1, cpus=0), node(0, 1), 10),
        (Share(gpus=0, cpus=4), node(10, 2), 2),
        (Share(gpus=0, cpus=0.1), node(1, 0), 10),
    ],
)
def test_room_of_a_node(share, of, room):
    assert share.room(of) == room


@pytest.mark.parametrize(
    ("gpus", "cpus", "message"),
    [
        (2, 1, r"2 GPUs per worker.*computes on one.*--count"),
        (-1, 1, r"-1 GPUs per worker"),
        (1, -1, r"-1 CPUs per worker"),
        (0, 1.5, r"1\.5 CPUs per worker.*whole number"),
        (0, 0, r"0 GPUs and 0 CPUs.*--cpus-per-worker"),
    ],
)
def test_share_that_no_worker_can_have_is_refused(gpus, cpus, message):
    with pytest.raises(BadPlacement, match=message):
        Share(gpus=gpus, cpus=cpus)


def test_place_tells_nodes_of_one_name_apart_and_is_one_word():
    assert node(1, 0, name="10.0.0.7").place == "ray-10.0.0.7-3fa2b1"
    assert node(1, 0, name="hall 3/press").place == "ray-hall-3-press-3fa2b1"
    assert f"{CPU}; {Share(gpus=0.5, cpus=2)}; {GPU}" == "1 CPU, 0 GPUs; 2 CPUs, 0.5 GPUs; 1 CPU, 1 GPU"


def test_sqlite_is_refused_with_what_to_set(tmp_path, shared_settings):
    with pytest.raises(
        BadPlacement, match=r"DATABASE_URL, SIMPLENET_OPTUNA_URL, SIMPLENET_TRACKING_URI are SQL"
    ):
        check_settings(Settings(home=tmp_path), GPU)
    with pytest.raises(BadPlacement, match=r"^SIMPLENET_TRACKING_URI is a SQLite file.*http://") as refused:
        check_settings(shared_settings(tracking_uri="sqlite:///mlflow.db"), GPU)
    assert "secret" not in str(refused.value)
    check_settings(shared_settings(), GPU)


@pytest.mark.parametrize(
    ("share", "device"), [(GPU, "cpu"), (GPU, "cuda:1"), (CPU, "cuda"), (CPU, "cuda:0"), (GPU, "mps")]
)
def test_device_that_ray_does_not_give_is_refused(shared_settings, share, device):
    with pytest.raises(BadPlacement, match=rf"SIMPLENET_DEVICE is '{device}'.*Leave it out"):
        check_settings(shared_settings(device=device), share)


@pytest.mark.parametrize(("share", "device"), [(GPU, "cuda"), (GPU, "auto"), (CPU, "cpu"), (CPU, "auto")])
def test_device_that_ray_gives_is_taken(shared_settings, share, device):
    check_settings(shared_settings(device=device), share)


def test_missing_ray_is_told_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterUnavailable, match=r"ray, which is not installed.*'simplenet-automl\[ray\]'"):
        connected("auto").__enter__()


@pytest.fixture
def ray_is_here():
    pytest.importorskip("ray", reason="the ray extra is not installed")


@pytest.mark.usefixtures("ray_is_here")
@pytest.mark.parametrize("address", ["head", "6379", "ray://head:10001", "head:", "head:99999", ":6379"])
def test_address_that_is_none_is_refused(address):
    with pytest.raises(ClusterUnavailable, match=rf"'{address}' is not understood; it must be HOST:PORT"):
        connected(address).__enter__()


@pytest.mark.usefixtures("ray_is_here")
def test_nobody_at_the_address_is_told_at_once(free_port):
    started = time.monotonic()
    with pytest.raises(ClusterUnavailable, match=rf"Nobody answers .*'127\.0\.0\.1:{free_port}'.*ray start"):
        connected(f"127.0.0.1:{free_port}").__enter__()
    assert time.monotonic() - started < 2 * ray_workers.KNOCK_SECONDS


@pytest.mark.usefixtures("ray_is_here")
def test_what_is_no_cluster_is_given_up_in_bounded_time(monkeypatch):
    monkeypatch.setattr(ray_workers, "CONNECT_SECONDS", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(
            ClusterUnavailable, match=rf"'{address}' did not answer as a Ray cluster within 4 s"
        ):
            connected(address).__enter__()


@pytest.mark.usefixtures("ray_is_here")
def test_cluster_that_is_gone_and_still_noted_on_this_machine_is_given_up(monkeypatch, tmp_path, free_port):
    monkeypatch.setattr(ray_workers, "CONNECT_SECONDS", 4.0)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{free_port}")
    with pytest.raises(ClusterUnavailable, match=r"'auto' did not answer as a Ray cluster within 4 s"):
        connected("auto").__enter__()


def test_command_refuses_in_one_line(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.setenv("SIMPLENET_HOME", str(tmp_path / "home"))
    for options, message in {
        ("--ray", "auto"): "error: SIMPLENET_DATABASE_URL",
        ("--ray", "auto", "--gpus-per-worker", "3"): "error: 3 GPUs per worker",
    }.items():
        result = CliRunner().invoke(app, ["workers", *options])
        assert result.exit_code == 1
        assert result.stderr.startswith(message)
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "home").exists(), "nothing is made for what is refused"
    assert CliRunner().invoke(app, ["workers"]).exit_code == 2
