"""How fresh weights are drawn."""

from __future__ import annotations

from torch import nn

from convlens.core.errors import UserError, nearest

INITIALISATIONS = ("keras", "torch")


def initialise(module: nn.Module, how: str) -> None:
    """Draw the weights of every convolution and dense layer of ``module``, in place.

    ``keras``: Glorot uniform weights (Glorot & Bengio 2010), zero biases, which is what the
    recipes of the source documents started from. ``torch``: PyTorch's own (Kaiming uniform with
    a = sqrt(5), He et al. 2015), which the layers already have when they are made.

    Raises:
        UserError: ``how`` is neither.
    """
    if how not in INITIALISATIONS:
        raise UserError(f"model.initialisation={how}: {nearest(str(how), INITIALISATIONS)}")
    if how == "torch":
        return
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
