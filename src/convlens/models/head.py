"""The head: feature map to logits."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.models.activation import activation_layer

POOLS = ("flatten", "average")


class Select(nn.Module):
    """Some outputs of a head, in the order of the classes: (B, M) to (B, K).

    Args:
        outputs: K column numbers.
    """

    def __init__(self, outputs: Sequence[int]):
        super().__init__()
        self.register_buffer("outputs", torch.tensor(outputs))

    def forward(self, logits: Tensor) -> Tensor:
        return logits[:, self.outputs]


def head(
    shape: tuple[int, ...],
    outputs: int,
    *,
    pool: str,
    hidden: list[int],
    dropout: float,
    hidden_dropout: float,
    activation: str,
) -> nn.Sequential:
    """Flatten or average, dropout, dense layers, logits.

    Args:
        shape: (C, H, W) of the backbone's output.
        outputs: number of logits.
        pool: ``flatten`` keeps every place, ``average`` means over space (Lin et al. 2013).
        hidden: units of each dense layer before the logits; ``[]`` for none.
        dropout: share of the features dropped before the first dense layer, in [0, 1).
        hidden_dropout: share of the units dropped after each hidden dense layer, in [0, 1).
        activation: name of the activation after each hidden dense layer.

    Returns:
        (B, C, H, W) to (B, outputs).

    Raises:
        UserError: a value out of its range, naming the key.
    """
    if pool not in POOLS:
        raise UserError(f"model.head.pool={pool}: {nearest(str(pool), POOLS)}")
    for key, share in (("dropout", dropout), ("hidden_dropout", hidden_dropout)):
        if not 0 <= share < 1:
            raise UserError(f"model.head.{key}={share}: a share in [0, 1) is expected")
    if any(not isinstance(units, int) or units < 1 for units in hidden):
        raise UserError(f"model.head.hidden={hidden}: a list of unit counts above 0 is expected")

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if pool == "average":
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        features = shape[0]
    else:
        features = math.prod(shape)
    layers["flatten"] = nn.Flatten()
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    for number, units in enumerate(hidden, start=1):
        layers[f"dense{number}"] = nn.Linear(features, units)
        layers[f"activation{number}"] = activation_layer(activation)
        if hidden_dropout:
            layers[f"dropout{number}"] = nn.Dropout(hidden_dropout)
        features = units
    layers["logits"] = nn.Linear(features, outputs)
    return nn.Sequential(layers)
