"""The activation functions that a config may name."""

from __future__ import annotations

from functools import partial

from torch import nn

from convlens.core.errors import UserError, nearest

# In place where the gradient allows it: on two cores the saved memory traffic is worth some
# per cent of a step, and every tap of ours copies what it records.
ACTIVATIONS = {
    "relu": partial(nn.ReLU, inplace=True),
    "leaky_relu": partial(nn.LeakyReLU, inplace=True),
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def activation_layer(name: str) -> nn.Module:
    """A new activation layer by its name.

    Raises:
        UserError: the name is unknown.
    """
    if name not in ACTIVATIONS:
        raise UserError(f"model.activation={name}: {nearest(str(name), ACTIVATIONS)}")
    return ACTIVATIONS[name]()
