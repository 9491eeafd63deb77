"""A network in evaluation mode, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own ``.training`` flag back afterwards."""
    with preserve_modes(model):
        for module in model.modules():
            module.training = False
        yield


@contextmanager
def preserve_modes(model: nn.Module) -> Iterator[None]:
    """Whatever is done inside, every module's own ``.training`` flag back afterwards.

    A blanket ``model.train()`` would thaw batch normalisation that was frozen on purpose.
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
