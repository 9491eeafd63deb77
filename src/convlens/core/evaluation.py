"""Switch a network to evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, and restore each module's ``.training`` flag afterwards."""
    with preserve_modes(model):
        for module in model.modules():
            module.training = False
        yield


@contextmanager
def preserve_modes(model: nn.Module) -> Iterator[None]:
    """Restore each module's ``.training`` flag at the end of the ``with``.

    A blanket ``model.train()`` would unfreeze batch normalisation that was frozen on purpose.
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
