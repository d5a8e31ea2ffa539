"""What a worker tells people of itself."""

import os
import socket
import threading
import time

import pytest
import torch

from storage import workers
from storage.errors import StudyNotFound
from tuning.worker import device_name, run_worker, worker_name


def registered(workspace, **keywords):
    """The row of a worker while it waits for studies."""
    stop = threading.Event()
    thread = threading.Thread(target=run_worker, args=(workspace,), kwargs={"stop": stop, **keywords})
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while True:
            with workspace.session() as session:
                rows = workers.list_workers(session)
            if rows:
                return rows[0]
            assert time.monotonic() < deadline, "no worker came"
            time.sleep(0.05)
    finally:
        stop.set()
        thread.join(30)


def test_worker_is_listed_where_it_was_said_to_be_and_with_its_process(workspace):
    worker = registered(workspace, worker_id=worker_name("ray-box-3fa2b1"), place="ray-box-3fa2b1")
    assert worker.hostname == "ray-box-3fa2b1"
    assert worker.id.startswith(f"ray-box-3fa2b1-{os.getpid()}-")
    assert worker.pid == os.getpid()


def test_worker_is_on_this_machine_where_nothing_was_said(workspace):
    worker = registered(workspace, worker_id=worker_name())
    assert worker.hostname == socket.gethostname()
    assert worker.id.startswith(f"{socket.gethostname()}-")


def test_worker_for_a_study_that_there_is_not_ends_and_says_so(workspace):
    stop = threading.Event()
    timer = threading.Timer(20, stop.set)  # what would otherwise go on for ever
    timer.start()
    try:
        with pytest.raises(StudyNotFound, match="no study with id 99"):
            run_worker(workspace, worker_id="here", stop=stop, study_id=99)
    finally:
        timer.cancel()
    with workspace.session() as session:
        assert workers.list_workers(session) == []


@pytest.mark.parametrize(
    ("visible", "device", "name"),
    [("3", "cuda", "cuda (GPU 3)"), (None, "cuda:1", "cuda:1"), ("", "cpu", "cpu"), ("3", "cpu", "cpu")],
)
def test_device_is_told_with_the_gpu_that_the_process_is_pinned_to(monkeypatch, visible, device, name):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device_name(torch.device(device)) == name
