"""A look at a small untrained network, for the tests of single callbacks."""

from __future__ import annotations

import torch
from convlens.callbacks.base import Look
from torch import nn

from convlens.config.compose import compose
from convlens.data.probes import Probes
from convlens.training import ClassifierModule
from support.tiny import TINY

NAMES = ("cat", "dog", "emu")


def untrained(*words: str, names: tuple[str, ...] = NAMES) -> nn.Module:
    return ClassifierModule(compose([*TINY, *words]), list(names)).model.eval()


def look_at(
    network: nn.Module, *, names: tuple[str, ...] = NAMES, wrong: int | None = None,
    unknown: int | None = None,
) -> Look:  # fmt: skip
    """Four probes p0 … p3, answered rightly but for ``wrong`` and for ``unknown``, whose true class
    nobody knows."""
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = network(images).argmax(1)
    if wrong is not None:
        labels[wrong] = (labels[wrong] + 1) % len(names)
    if unknown is not None:
        labels[unknown] = -1
    probes = Probes(images, labels, [f"p{i}" for i in range(4)], [f"p{i}" for i in range(4)])
    return Look(network, probes, names, 0, False, float("inf"), 0)
