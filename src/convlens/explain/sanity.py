"""Does a map depend on what the network has learned? Layers are randomised, and it must change.

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
    """How alike maps stay when ``L`` layers lose what they have learned; lower is better.

    Attributes:
        layers: the layers, in the order in which they were randomised.
        spearman: ``(L, N)`` rank correlation with the trained network's maps, in [-1, 1]; near 0
            for maps that depend on the weights. NaN where one of the two maps is constant: a
            randomised network often finds nothing, and its map is blank.
        kept: layers that kept what they have learned, because they cannot draw new weights.
    """

    layers: tuple[str, ...]
    spearman: Tensor
    kept: tuple[str, ...]


def parameter_randomisation(
    model: nn.Module, explain: Callable[[], Tensor], *, seed: int
) -> Randomisation:
    """Similarity of a network's maps to those of the same network with randomised layers.

    The cascading test: every layer with weights of its own loses them, one after another, from the
    last registered to the first, until all are random. A layer's new weights are drawn by its own
    ``reset_parameters`` on the CPU, and depend on ``seed`` and the layer, not on the device. A
    method whose maps stay the same shows the picture's edges, not what the network has learned.

    The network's tensors are set aside while this lasts and are put back untouched, also after an
    exception; no global random number is drawn.

    Args:
        explain: maps ``(N, h, w)`` of ``model`` as it is when called, always of the same pictures
            and targets.
        seed: of the new weights.

    Raises:
        UserError: no layer can draw new weights.
    """
    learned = {
        name: module
        for name, module in model.named_modules()
        if any(parameter is not None for parameter in module._parameters.values())
    }
    able = [name for name in reversed(learned) if _reset(learned[name])]
    if not able:
        raise UserError(f"no layer of {type(model).__name__} can be randomised")
    ranks = []
    with explaining(model), ExitStack() as cascade:
        trained = to_float_maps(explain()).clone()
        for name in able:
            cascade.enter_context(_randomised(model, learned[name], seed))
            ranks.append(spearman(explain(), trained))
    kept = tuple(name for name in learned if name not in able)
    return Randomisation(tuple(able), torch.stack(ranks), kept)


def _reset(module: nn.Module) -> Callable[[], None] | None:
    """What draws the module's weights; nn.MultiheadAttention hides it behind an underscore."""
    if is_parametrized(module):
        return None  # its weight is computed from others: a reset would be lost
    return getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)


@contextmanager
def _randomised(model: nn.Module, layer: nn.Module, seed: int) -> Iterator[None]:
    """The ``layer`` with new weights inside, with its very own tensors afterwards.

    Copies take the places of parameters and buffers: the originals are not written to, so that a
    graph between a forward and a backward pass, an optimiser and ``.grad`` notice nothing.
    """
    number = [*model.modules()].index(layer)
    # Children too: some modules draw the weights of those within.
    concerned = {id(tensor) for inner in layer.modules() for _, _, tensor in _tensors(inner)}
    copies: dict = {}  # one for weights that layers share
    replaced = []
    try:
        for module in model.modules():
            for store, name, tensor in _tensors(module):
                if id(tensor) in concerned:
                    replaced.append((store, name, tensor))
                    store[name] = deepcopy(tensor, copies)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed((seed * 2**20 + number) % 2**63)
            _redraw(layer)
        yield
    finally:
        for store, name, tensor in reversed(replaced):
            store[name] = tensor


def _redraw(module: nn.Module) -> None:
    """New weights, drawn on the CPU whatever the device."""
    homes = [(tensor, tensor.device) for _, _, tensor in _tensors(module)]
    for tensor, _ in homes:
        tensor.data = tensor.data.cpu()
    _reset(module)()
    for tensor, device in homes:
        tensor.data = tensor.data.to(device)


def _tensors(module: nn.Module) -> list[tuple[dict, str, Tensor]]:
    """``(store, name, tensor)`` of a module's own parameters and buffers."""
    return [
        (store, name, tensor)
        for store in (module._parameters, module._buffers)
        for name, tensor in store.items()
        if tensor is not None
    ]
