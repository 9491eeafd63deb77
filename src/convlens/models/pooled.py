"""ReLU behind max pooling in place of before it: the same numbers for a quarter of the work.

The largest of a window, made non-negative, is the largest of its values made non-negative; where
it is positive it stands in the same place, and elsewhere no gradient flows. So both the maps and
the gradients are the same bit for bit, while ReLU and its gradient pass over a map of a quarter
the size (with windows of 2×2).
"""

from __future__ import annotations

from torch import Tensor, nn


def run_pooled(part: nn.Module, values: Tensor) -> Tensor:
    """``part(values)``, a ReLU before a max pooling computed behind it.

    Only in sequences; and where somebody listens to the part or to one of the two layers, they
    are computed as they stand.
    """
    if type(part) is not nn.Sequential or watched(part):
        return part(values)
    layers = list(part)
    place = 0
    while place < len(layers):
        if _swap(layers[place : place + 2]):
            values = layers[place](layers[place + 1](values))
            place += 2
        else:
            values = layers[place](values)
            place += 1
    return values


def watched(module: nn.Module) -> bool:
    """Whether a hook of its own wants to see what it takes or gives."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _swap(pair: list[nn.Module]) -> bool:
    if len(pair) < 2 or any(map(watched, pair)):
        return False
    relu, pool = pair
    return type(relu) is nn.ReLU and type(pool) is nn.MaxPool2d and not pool.return_indices
