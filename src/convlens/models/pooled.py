"""Compute ReLU after max pooling instead of before it: same numbers, a quarter of the work.

ReLU and max commute: max(relu(x)) = relu(max(x)). If the result is positive, both orders pick the
same position; otherwise no gradient flows. So outputs and gradients are bit-identical, while ReLU
and its gradient run on a map of a quarter of the size (with windows of 2×2).
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


def run_pooled(part: nn.Module, values: Tensor) -> Tensor:
    """Compute ``part(values)`` with each ReLU before a max pooling moved after it.

    Only sequences are reordered, and only if neither the sequence nor the two layers have hooks.
    """
    if type(part) is not nn.Sequential or has_hooks(part):
        return part(values)
    layers = iter(pairwise([*part, None]))
    for layer, following in layers:
        if _can_swap(layer, following):
            values = following(values)
            next(layers)
        values = layer(values)
    return values


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module has hooks of its own (not those of its children)."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _can_swap(relu: nn.Module, pool: nn.Module | None) -> bool:
    if type(relu) is not nn.ReLU or type(pool) is not nn.MaxPool2d or pool.return_indices:
        return False
    return not (has_hooks(relu) or has_hooks(pool))
