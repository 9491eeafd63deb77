"""All randomness of training as a pure function of seed, epoch, batch and rank.

With nothing carried from batch to batch, no generator's state needs saving: a run that was
killed and resumed, and a run that was looked at, draw what the run left alone draws.
"""

from __future__ import annotations

import numpy as np
import torch


def seed_batch(seed: int, epoch: int, batch: int, rank: int) -> None:
    """Set torch's global generators for one training batch (dropout draws from them)."""
    torch.manual_seed(_mix(seed, 1, epoch, batch, rank))


def seed_weights(seed: int) -> None:
    """Set torch's global generators for drawing the first weights."""
    torch.manual_seed(_mix(seed, 0))


def _mix(*key: int) -> int:
    """63 well-mixed bits of the key; neighbouring keys give unrelated numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
