"""The head: feature map to logits."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convlens.config.schema import HeadConfig
from convlens.config.schema.model import POOLS
from convlens.core.errors import check_name
from convlens.models.fresh import build_activation


class Select(nn.Module):
    """Selects K of M logits, in the order of the classes: (B, M) to (B, K).

    Args:
        outputs: K column numbers.
    """

    def __init__(self, outputs: Sequence[int]):
        super().__init__()
        self.register_buffer("outputs", torch.tensor(outputs))

    def forward(self, logits: Tensor) -> Tensor:
        return logits[:, self.outputs]


class AverageMaxPool(nn.Module):
    """Joins each channel's average and maximum over space: (B, C, H, W) to (B, C, 1, 2).

    Where several positions share the maximum, its gradient is divided equally among them, so that
    it does not depend on the device.
    """

    def forward(self, features: Tensor) -> Tensor:
        joined = torch.stack([features.mean((2, 3)), features.amax((2, 3))], dim=-1)
        return joined.unsqueeze(2)


def build_head(
    shape: tuple[int, ...], outputs: int, spec: HeadConfig, activation: str,
    *, map_norm: nn.Module | None = None, vector_norm: nn.Module | None = None,
) -> nn.Sequential:  # fmt: skip
    """Build the head: pool or flatten, dropout, dense layers, logits.

    Args:
        shape: (C, H, W) of the backbone's output.
        outputs: number of logits.
        spec: the config group ``model.head``; ``pool: flatten`` keeps every position, ``average``
            averages over space (Lin et al. 2013), ``average_max`` joins average and maximum.
        activation: name of the activation after each hidden dense layer.
        map_norm: a norm of (B, C, h, w), computed after the pooling.
        vector_norm: a norm of (B, C), computed after the pooling; only with ``pool: average``.

    Returns:
        A network from (B, C, H, W) to (B, outputs).

    Raises:
        UserError: a name is unknown; the error names the key.
    """
    check_name("model.head.pool", spec.pool, POOLS)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if spec.pool == "average":
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        features = shape[0]
    elif spec.pool == "average_max":
        layers["pool"] = AverageMaxPool()
        features = 2 * shape[0]
    else:
        features = math.prod(shape)
    if map_norm is not None:
        layers["norm"] = map_norm
    layers["flatten"] = nn.Flatten()
    if vector_norm is not None:
        layers["norm"] = vector_norm
    return add_dense(layers, features, outputs, spec, activation)


def add_dense(
    layers: OrderedDict[str, nn.Module], features: int, outputs: int, spec: HeadConfig,
    activation: str,
) -> nn.Sequential:  # fmt: skip
    """Return a head of ``layers``, which give (B, features), dropout, dense layers and logits."""
    if spec.dropout:
        layers["dropout"] = nn.Dropout(spec.dropout)
    for number, units in enumerate(spec.hidden, start=1):
        layers[f"dense{number}"] = nn.Linear(features, units)
        layers[f"activation{number}"] = build_activation(activation)
        if spec.hidden_dropout:
            layers[f"dropout{number}"] = nn.Dropout(spec.hidden_dropout)
        features = units
    layers["logits"] = nn.Linear(features, outputs)
    return nn.Sequential(layers)
