"""Why a method that needs attention cannot explain a network, found out once for a network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from convlens.callbacks.look import OutOfTime
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.attention import attention_maps
from convlens.explain.legrad import legrad
from convlens.explain.rollout import attention_rollout

log = logging.getLogger("convlens")

METHODS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "attention": attention_maps,
    "rollout": attention_rollout,
    "legrad": lambda network, example: legrad(network, example, torch.tensor([-1])),
}
_FOUND: WeakKeyDictionary[nn.Module, dict[tuple, str]] = WeakKeyDictionary()


def find_obstacle(network: nn.Module, example: Tensor, method: str) -> str:
    """Return why a method cannot explain a network, in one line; empty if it can.

    Args:
        network: the network to explain.
        example: one image, (1, C, H, W).
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
    except OutOfTime:  # that says nothing about the network
        raise
    except UserError as error:
        return str(error)
    except Exception as error:  # a network that cannot be followed must not end the run
        log.debug("traceback", exc_info=error)
        return f"{method}: {type(network).__name__} cannot be followed ({type(error).__name__})"
    return ""
