"""How many threads a look computes with on a CPU that other programs use, too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as L
import torch

from convlens.training import ClassifierModule

_TRIALS, _NUMBERS = 6, 2**18  # small operations that all threads share
_WAITING = 0.002  # seconds that such an operation takes only if a thread waits for its turn


def are_threads_waiting() -> bool:
    """Return whether the threads of this process wait for one another, as on a busy machine.

    Operations are divided among threads, and each ends when the last thread does. A thread whose
    core another program uses has to wait for its time slice, at every operation of a network: an
    image may then take seventy times as long as with one thread.
    """
    if torch.get_num_threads() == 1:
        return False
    numbers = torch.ones(_NUMBERS)
    for _ in range(_TRIALS):
        began = time.perf_counter()
        numbers.mul(2.0)
        if time.perf_counter() - began > _WAITING:
            return True
    return False


@contextmanager
def avoid_waiting(module: L.LightningModule) -> Iterator[None]:
    """Compute with one thread while this lasts, if several would wait for one another.

    In other projects than convlens the number of threads stays as it is: to set it for the first
    time might change how the training rounds.

    Args:
        module: the module of the run.
    """
    count = torch.get_num_threads()
    is_free = isinstance(module, ClassifierModule) and module.device.type == "cpu"
    if not is_free or not are_threads_waiting():
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)
