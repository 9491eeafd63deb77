"""ReLU behind max pooling in place of before it: the same numbers for a quarter of the work.

The largest of a window, made non-negative, is the largest of its values made non-negative; where
it is positive it stands in the same place, and elsewhere no gradient flows. So both the maps and
the gradients are the same bit for bit, while ReLU and its gradient pass over a map of a quarter
the size (with windows of 2×2).
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


def run_pooled(part: nn.Module, values: Tensor) -> Tensor:
    """``part(values)``, a ReLU before a max pooling computed behind it.

    Only in sequences; and where somebody listens to the part or to one of the two layers, they
    are computed as they stand.
    """
    if type(part) is not nn.Sequential or has_hooks(part):
        return part(values)
    layers = iter(pairwise([*part, None]))
    for layer, following in layers:
        if _swap(layer, following):
            values = following(values)
            next(layers)
        values = layer(values)
    return values


def has_hooks(module: nn.Module) -> bool:
    """Whether a hook of its own wants to see what it takes or gives."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _swap(relu: nn.Module, pool: nn.Module | None) -> bool:
    if type(relu) is not nn.ReLU or type(pool) is not nn.MaxPool2d or pool.return_indices:
        return False
    return not (has_hooks(relu) or has_hooks(pool))
