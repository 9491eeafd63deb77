"""Test whether maps depend on the trained weights: they must change if layers are randomised.

Shapes: ``N`` maps, ``h w`` their size, ``L`` layers.

J. Adebayo et al., *Sanity Checks for Saliency Maps*, NeurIPS 2018,
https://arxiv.org/abs/1810.03292
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from convlens.core.errors import UserError
from convlens.explain.mode import explaining
from convlens.explain.similarity import spearman, to_float_maps


@dataclass(frozen=True, eq=False)
class Randomisation:
    """How similar maps stay when ``L`` layers are randomised; lower is better.

    Attributes:
        layers: the randomised layers, in the order in which they were randomised.
        spearman: ``(L, N)`` rank correlation with the maps of the trained network, in [-1, 1];
            near 0 for maps that depend on the weights. NaN if one of the two maps is constant: the
            map of a randomised network is often blank.
        kept: layers that kept their trained weights, because they cannot draw new ones.
    """

    layers: tuple[str, ...]
    spearman: Tensor
    kept: tuple[str, ...]


def parameter_randomisation(
    model: nn.Module, explain: Callable[[], Tensor], *, seed: int
) -> Randomisation:
    """Compare a network's maps with those of the same network with randomised layers.

    This is the cascading test: the layers with weights of their own are randomised one after
    another, from the last registered to the first, until all are random. New weights are drawn by
    the layer's own ``reset_parameters`` on the CPU. They depend on ``seed`` and the layer, not on
    the device. A method whose maps stay the same shows the edges in the image, not what the network
    has learned.

    The network's original tensors are restored unchanged, even after an exception. Global random
    generators are not affected.

    Args:
        model: the network.
        explain: function that returns maps ``(N, h, w)`` of ``model`` in its current state, always
            for the same images and targets.
        seed: seed of the new weights.

    Raises:
        UserError: if no layer can draw new weights.
    """
    weighted = {
        name: module
        for name, module in model.named_modules()
        if any(parameter is not None for parameter in module._parameters.values())
    }
    resettable = [name for name in reversed(weighted) if _find_reset(weighted[name])]
    if not resettable:
        raise UserError(
            f"no layer of {type(model).__name__} can be randomised: give one a reset_parameters()"
        )
    correlations = []
    with explaining(model), ExitStack() as cascade:
        trained = to_float_maps(explain()).clone()
        for name in resettable:
            cascade.enter_context(_randomise(model, weighted[name], seed))
            correlations.append(spearman(explain(), trained))
    # the network itself, with a class token perhaps, goes by the name of its class
    kept = tuple(name or type(model).__name__ for name in weighted if name not in resettable)
    return Randomisation(tuple(resettable), torch.stack(correlations), kept)


def _find_reset(module: nn.Module) -> Callable[[], None] | None:
    """Return the method that draws new weights; that of nn.MultiheadAttention is private."""
    if is_parametrized(module):
        return None  # its weight is computed from other tensors, so a reset would have no effect
    return getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)


@contextmanager
def _randomise(model: nn.Module, layer: nn.Module, seed: int) -> Iterator[None]:
    """Give a layer new weights inside a ``with`` block, then restore its original tensors.

    Copies replace parameters and buffers. The originals are not written to, so that a graph between
    a forward and a backward pass, an optimiser and ``.grad`` stay valid.
    """
    index = [*model.modules()].index(layer)
    # children too: some modules draw the weights of their children
    affected = {id(tensor) for inner in layer.modules() for _, _, tensor in _list_tensors(inner)}
    copies: dict = {}  # weights that layers share get one copy
    originals = []
    try:
        for module in model.modules():
            for store, name, tensor in _list_tensors(module):
                if id(tensor) in affected:
                    originals.append((store, name, tensor))
                    store[name] = deepcopy(tensor, copies)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed((seed * 2**20 + index) % 2**63)
            _redraw(layer)
        yield
    finally:
        for store, name, tensor in reversed(originals):
            store[name] = tensor


def _redraw(module: nn.Module) -> None:
    """Draw new weights, always on the CPU."""
    reset = _find_reset(module)
    assert reset is not None, "only layers that can draw new weights are randomised"
    devices = [(tensor, tensor.device) for _, _, tensor in _list_tensors(module)]
    for tensor, _ in devices:
        tensor.data = tensor.data.cpu()
    reset()
    for tensor, device in devices:
        tensor.data = tensor.data.to(device)


def _list_tensors(module: nn.Module) -> list[tuple[dict, str, Tensor]]:
    """Return ``(store, name, tensor)`` of a module's own parameters and buffers."""
    return [
        (store, name, tensor)
        for store in (module._parameters, module._buffers)
        for name, tensor in store.items()
        if tensor is not None
    ]
