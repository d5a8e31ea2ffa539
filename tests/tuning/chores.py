"""Tasks for the tests of `tuning.child`: imported by the process that runs them."""

import logging
import os
import time

import torch

from engine.errors import TrainingDiverged

logger = logging.getLogger("tuning.chores")


class Odd(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def pid(tell):
    return os.getpid()


def parent(tell):
    return os.getppid()


def count(to, tell):
    for number in range(to):
        tell(number)
    return "counted"


def die(number, tell):
    os.kill(os.getpid(), number)
    time.sleep(60)


def diverge(tell):
    raise TrainingDiverged("the loss is nan")


def raise_oddly(tell):
    raise Odd(3, 4)


def run_out(tell):
    raise torch.OutOfMemoryError("CUDA out of memory.")


def sleep_for_ever(tell):
    while True:
        time.sleep(60)


def count_with_a_file(path, tell):
    path.touch()
    try:
        while True:
            tell("counting")
            time.sleep(0.05)
    finally:
        path.unlink()


def log(message, tell):
    logger.info(message)
