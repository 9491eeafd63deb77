"""Switch a network to evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, and restore each module's ``.training`` flag afterwards."""
    with preserve_modes(model), _forget_biases(model):
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


@contextmanager
def _forget_biases(model: nn.Module) -> Iterator[None]:
    """Remove the attention biases that networks of timm keep from a pass in evaluation mode.

    LevIT, EfficientFormer, TinyViT and others compute them once, and anew only after ``train()`` is
    called, which may do anything in a user's module. So those they keep may be of earlier weights.
    """
    name = "attention_bias_cache"
    keeping = [module for module in model.modules() if isinstance(vars(module).get(name), dict)]
    for module in keeping:
        setattr(module, name, {})
    try:
        yield
    finally:
        for module in keeping:
            setattr(module, name, {})
