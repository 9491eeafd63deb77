"""Average maps down to few cells."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def shrink_maps(maps: Tensor, side: int) -> Tensor:
    """Return maps ``(..., h, w)`` with at most ``side`` cells on each side, ``(..., h', w')``.

    A cell is the mean of the cells that it covers. Maps that are small enough are returned as they
    are.
    """
    *lead, height, width = maps.shape
    goal = min(height, side), min(width, side)
    if goal == (height, width):
        return maps
    return F.adaptive_avg_pool2d(maps.reshape(-1, 1, height, width), goal).reshape(*lead, *goal)
