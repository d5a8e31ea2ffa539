"""A process for what may crash: what it answers, how it dies, how it is stopped."""

import logging
import os
import signal
import time
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

import pytest
import torch

from engine.errors import TrainingDiverged
from tests.tuning import chores
from tuning.bench import is_memory
from tuning.child import Child, ChildDied, traceback_of


@pytest.fixture
def child():
    with Child() as made:
        made.start()
        yield made


def run(child, task, *arguments, on_message=lambda _: True, check=lambda: None, **keywords):
    return child.run(task, *arguments, on_message=on_message, check=check, **keywords)


def test_task_is_answered_from_another_process_that_stays(child):
    first, second = run(child, chores.pid), run(child, chores.pid)
    assert first == second != os.getpid()


def test_process_is_forked_from_the_server_that_was_prepared():
    with Child() as made:
        made.prepare()
        server = forkserver._forkserver._forkserver_pid
        made.start()
        assert run(made, chores.parent) == server


def test_process_that_could_not_be_started_is_none(monkeypatch):
    def refuse(_):
        raise OSError("no more processes")

    monkeypatch.setattr(ForkServerContext.Process, "start", refuse)
    with Child() as made, pytest.raises(OSError, match="no more processes"):
        made.start()


def test_messages_come_in_order_before_the_answer(child):
    told = []
    assert run(child, chores.count, 5, on_message=lambda one: told.append(one) or True) == "counted"
    assert told == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("number", "killed"), [(signal.SIGKILL, True), (signal.SIGSEGV, False)])
def test_death_is_told_and_the_next_process_is_a_new_one(child, number, killed):
    before = child.start()
    with pytest.raises(ChildDied, match=number.name) as caught:
        run(child, chores.die, int(number))
    assert caught.value.killed is killed
    assert is_memory(caught.value) is killed
    assert child.start() == before + 1
    assert run(child, chores.pid) != os.getpid()


def test_error_comes_back_as_it_was_with_where_it_was_raised(child):
    with pytest.raises(TrainingDiverged, match="nan") as caught:
        run(child, chores.diverge)
    assert "in diverge" in traceback_of(caught.value)
    assert run(child, chores.count, 1) == "counted", "the process lives on"


def test_error_that_can_not_be_sent_is_told_in_words(child):
    with pytest.raises(RuntimeError, match="Odd: 3 and 4"):
        run(child, chores.raise_oddly)


def test_error_of_the_device_is_known_as_want_of_memory(child):
    with pytest.raises(torch.OutOfMemoryError) as caught:
        run(child, chores.run_out)
    assert is_memory(caught.value)
    assert is_memory(
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")
    )
    assert not is_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_task_that_is_not_wanted_any_more_stops_and_is_heard_no_more(child):
    told = []

    def only_three(message):
        told.append(message)
        return len(told) < 3

    assert run(child, chores.count, 1_000_000, on_message=only_three) is None
    assert told == [0, 1, 2]
    assert run(child, chores.pid) == run(child, chores.pid), "the process lives on"


def test_wish_ends_the_process_in_the_middle_of_whatever_it_does(child):
    pid = run(child, chores.pid)

    def wish():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(child, chores.sleep_for_ever, check=wish)
    assert _gone(pid)


def test_task_is_given_time_to_clean_up(child, tmp_path):
    told = []

    def wish():
        if told:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            child,
            chores.count_with_a_file,
            tmp_path / "unfinished",
            check=wish,
            on_message=lambda one: told.append(one) or True,
            grace_seconds=30,
        )
    assert list(tmp_path.iterdir()) == []
    assert run(child, chores.count, 1) == "counted", "the process lives on"


def test_what_it_logs_is_logged_here(child, caplog):
    caplog.set_level(logging.INFO, logger="tuning")
    child.kill()
    child.start()
    run(child, chores.log, "hello from there")
    assert "hello from there" in caplog.messages


def _gone(pid):
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
