"""What a fresh network is made of: activation functions, and how weights are drawn."""

from __future__ import annotations

from functools import partial

from torch import nn

from convlens.core.errors import check_name

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


def build_activation(name: str) -> nn.Module:
    """A new activation layer by its name.

    Raises:
        UserError: the name is unknown.
    """
    check_name("model.activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


def initialise(module: nn.Module, how: str) -> None:
    """Draw the weights of every convolution and dense layer of ``module``, in place.

    ``keras``: Glorot uniform weights (Glorot & Bengio 2010), zero biases, which is what the
    recipes of the source documents started from. ``torch``: PyTorch's own (Kaiming uniform with
    a = sqrt(5), He et al. 2015), which the layers already have when they are made.

    Raises:
        UserError: ``how`` is neither.
    """
    check_name("model.initialisation", how, ("keras", "torch"))
    if how == "torch":
        return
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
