"""Why a method that needs attention cannot explain a network, found out once for a network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.attention import attention_maps
from convlens.explain.legrad import legrad
from convlens.explain.relevance import relevance
from convlens.explain.rollout import attention_rollout

log = logging.getLogger("convlens")

METHODS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "attention": attention_maps,
    "rollout": attention_rollout,
    "legrad": lambda network, example: legrad(network, example, torch.tensor([-1])),
    "relevance": lambda network, example: relevance(network, example, torch.tensor([-1])),
}
# what a network that cannot be followed may raise; a caller may end a pass with others
_UNEXPECTED = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
_FOUND: WeakKeyDictionary[nn.Module, dict[tuple, str]] = WeakKeyDictionary()


def find_obstacle(network: nn.Module, example: Tensor, method: str) -> str:
    """Return why a method cannot explain a network, in one line; empty if it can.

    Args:
        network: maps images to logits.
        example: ``(1, C, H, W)``, ready for the network.
        method: one of ``METHODS``.
    """
    known = _FOUND.setdefault(network, {})
    key = method, tuple(example.shape)
    if key not in known:
        # without attention there is nothing for the other methods either
        first = "" if method == "attention" else find_obstacle(network, example, "attention")
        known[key] = first or _try(network, example, method)
    return known[key]


def _try(network: nn.Module, example: Tensor, method: str) -> str:
    try:
        METHODS[method](network, example)
    except UserError as error:
        return str(error)
    except _UNEXPECTED as error:
        log.debug("traceback", exc_info=error)
        return f"{method}: {type(network).__name__} cannot be followed ({type(error).__name__})"
    return ""
