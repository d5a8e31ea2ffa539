"""What tests put in the place of `tuning.trial.run_trial`: the process that computes imports it by its name.

They are told what to do by what every trial has: its configuration, and the folder of its installation.
"""

import os
import signal
import time

import optuna
import torch

from engine.errors import TrainingDiverged
from tuning.trial import run_trial

PAPERS_NOISE = 0.015  # of the first configuration of every study that searches it


def diverge(data, config, **_):
    raise TrainingDiverged("the loss is nan")


def first_diverges(data, config, **keywords):
    if config.noise_std == PAPERS_NOISE:
        raise TrainingDiverged("the loss is nan")
    return run_trial(data, config, **keywords)


def break_down(data, config, **_):
    raise KeyError("surprise")


def first_breaks_down(data, config, **keywords):
    if config.noise_std == PAPERS_NOISE:
        raise KeyError("surprise")
    return run_trial(data, config, **keywords)


def kill_itself(data, config, **_):
    os.kill(os.getpid(), signal.SIGKILL)


def first_crashes(data, config, **keywords):
    """A poisoned configuration: it takes the process with it, every time."""
    if config.noise_std == PAPERS_NOISE:
        os.kill(os.getpid(), signal.SIGSEGV)
    return run_trial(data, config, **keywords)


def killed_once(data, config, **keywords):
    """Killed in the middle of the first trial, as the kernel does when memory runs out."""
    if not _done(data, "killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    return run_trial(data, config, **keywords)


def needs_small_batches(data, config, **keywords):
    if config.batch_patches > 64:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    return run_trial(data, config, **keywords)


def never_enough_memory(data, config, **keywords):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def slowly(data, config, *, on_epoch, **keywords):
    """Half a second more per epoch: long enough to be met in the middle."""

    def after(*about):
        on_epoch(*about)
        time.sleep(0.5)

    return run_trial(data, config, on_epoch=after, **keywords)


def deaf(data, config, **_):
    """Computes without end and never looks up."""
    while True:
        torch.ones(10).sum()


class SlowSampler(optuna.samplers.RandomSampler):
    """Computes for three seconds before it proposes, and leaves a mark while it does."""

    def __init__(self, mark):
        super().__init__(seed=0)
        self.mark = mark

    def infer_relative_search_space(self, study, trial):
        self.mark.touch()
        time.sleep(3)
        self.mark.unlink()
        return {}


def _done(data, what):
    """Whether this was asked before in this installation."""
    mark = data.workspace.settings.home / what
    before = mark.exists()
    mark.touch()
    return before


def fills_the_disk(data, config, **keywords):
    """Leaves no room for the head that it has trained."""
    result = run_trial(data, config, **keywords)
    fill(data.workspace.settings.home, 0)
    return result


def leaves_room_for_half_a_checkpoint(data, config, **keywords):
    """Fills the disk of the checkpoints until half of the head fits that it has trained."""
    result = run_trial(data, config, **keywords)
    fill(data.workspace.settings.checkpoints_folder, _head_bytes(result) // 2)
    return result


def leaves_room_for_half_an_artifact(data, config, **keywords):
    """As before, on the disk of MLflow's artifacts: the head is copied there, after some small files."""
    result = run_trial(data, config, **keywords)
    fill(data.workspace.settings.artifacts_folder, _head_bytes(result) // 2)
    return result


def fill(folder, leave):
    """Take all room on the disk of a folder but so many bytes; answers the file that takes it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        status = os.statvfs(folder)
        rest = max(0, status.f_bavail * status.f_frsize - leave)
        while rest and (written := file.write(bytes(min(rest, 65_536)))):
            rest -= written
    return filler


def _head_bytes(result):
    return sum(values.nbytes for values in result.head.state_dict().values())
