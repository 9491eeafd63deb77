"""Activation functions and their slopes, by the names that ``model.activation`` takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from convlens.core.errors import UserError, nearest

NONE = "none"
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    NONE: torch.clone,
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
BOUNDED = ("tanh", "sigmoid")  # their values stay between -1 and 1


def find_activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation function ``name``; ``none`` returns its input.

    Raises:
        UserError: There is no such function.

    >>> find_activation("relu")(torch.tensor([-2.0, 3.0])).tolist()
    [0.0, 3.0]
    """
    if name not in ACTIVATIONS:
        raise UserError(f"activation={name}: no such function; {nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


def compute_slope(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Return the derivative of a function of single numbers at each of the numbers ``at``."""
    x = at.detach().requires_grad_()
    (slope,) = torch.autograd.grad(function(x).sum(), x)
    return slope
