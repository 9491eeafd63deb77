"""All randomness of training as a pure function of seed, epoch, batch and rank.

With nothing carried from batch to batch, no generator's state needs saving: a run that was
killed and resumed, and a run that was looked at, draw what the run left alone draws.
"""

from __future__ import annotations

import functools

import numpy as np
import torch


def seed_batch(seed: int, epoch: int, batch: int, rank: int) -> None:
    """Set torch's global generators for one training batch (dropout draws from them)."""
    number = _mix(seed, 1, epoch, batch, rank)
    if _accelerated():
        torch.manual_seed(number)
    else:
        # the same for the CPU; the call above would also write down, a formatted traceback each
        # time, what CUDA, XPU and MTIA shall do should they ever wake (0.25 ms a batch)
        torch.default_generator.manual_seed(number)


def seed_weights(seed: int) -> None:
    """Set torch's global generators for drawing the first weights."""
    torch.manual_seed(_mix(seed, 0))


@functools.cache
def _accelerated() -> bool:
    """Whether anything but the CPU has a generator; asked once, the drivers are slow to answer."""
    return torch.accelerator.is_available()


def _mix(*key: int) -> int:
    """63 well-mixed bits of the key; neighbouring keys give unrelated numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
