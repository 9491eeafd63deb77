"""Random numbers that depend on nothing but a key."""

from __future__ import annotations

import numpy as np


def make_generator(*key: int) -> np.random.Generator:
    """Return a generator that depends only on ``key``: a seed, and what tells its uses apart."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
