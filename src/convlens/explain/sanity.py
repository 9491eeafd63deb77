"""Does a map depend on what the network has learned? Layers are randomised, and it must change.

Shapes: ``N`` maps, ``h w`` their size, ``L`` layers.

J. Adebayo et al., *Sanity Checks for Saliency Maps*, NeurIPS 2018,
https://arxiv.org/abs/1810.03292
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from convlens.core.errors import UserError
from convlens.explain.layouts import find_module
from convlens.explain.mode import explaining
from convlens.explain.similarity import numbers, spearman, ssim


@dataclass(frozen=True, eq=False)
class Randomisation:
    """How alike maps stay when ``L`` layers lose what they have learned; lower is better.

    Attributes:
        layers: the layers, in the order in which they were randomised.
        spearman: ``(L, N)`` rank correlation with the trained network's maps, in [-1, 1]; near 0
            for maps that depend on the weights. NaN where one of the two maps is constant: a
            randomised network often finds nothing, and its map is blank.
        ssim: ``(L, N)`` structural similarity, in [-1, 1], NaN likewise; None if not asked for.
        kept: layers that kept what they have learned, because they cannot draw new weights (where
            no layers were named).
    """

    layers: tuple[str, ...]
    spearman: Tensor
    ssim: Tensor | None
    kept: tuple[str, ...]


def parameter_randomisation(
    model: nn.Module,
    explain: Callable[[], Tensor],
    order: Literal["cascading", "independent"] = "cascading",
    layers: Sequence[str] | None = None,
    *,
    seed: int,
    structure: bool = False,
) -> Randomisation:
    """Similarity of a network's maps to those of the same network with randomised layers.

    ``"cascading"``: layer after layer loses its weights, from the logits down, until all of
    ``layers`` are random. ``"independent"``: one layer at a time, the others as trained. A layer's
    new weights are drawn by its own ``reset_parameters`` on the CPU, and depend on ``seed`` and the
    layer, not on the order or the device. A method whose maps stay the same shows the picture's
    edges, not what the network has learned.

    The network's tensors are set aside while this lasts and are put back untouched, also after an
    exception; no global random number is drawn.

    Args:
        explain: maps ``(N, h, w)`` of ``model`` as it is when called, always of the same pictures
            and targets.
        order: see above.
        layers: module paths, in the order in which to randomise; a block loses all weights within.
            None for every layer with weights of its own, from the last registered to the first.
        seed: of the new weights.
        structure: SSIM too; maps must be at least 11 x 11.

    Raises:
        UserError: an unknown order or layer, a layer without weights or that cannot draw them anew.
    """
    if order not in ("cascading", "independent"):
        raise UserError(f"order={order}: choose cascading or independent")
    plans, kept = _everywhere(model) if layers is None else (_named(model, layers), [])
    if not plans:
        raise UserError(f"no layer of {type(model).__name__} can be randomised: name some")
    rows: list[tuple[Tensor, Tensor | None]] = []
    with explaining(model), ExitStack() as cascade:
        trained = numbers(explain()).clone()
        for plan in plans.values():
            with ExitStack() as alone:
                stack = cascade if order == "cascading" else alone
                stack.enter_context(_randomised(model, plan, seed))
                maps = explain()
            rows.append((spearman(maps, trained), ssim(maps, trained) if structure else None))
    ranks, structures = zip(*rows, strict=True)
    return Randomisation(
        tuple(plans),
        torch.stack(ranks),
        torch.stack(structures) if structure else None,
        tuple(kept),
    )


def _resettable(model: nn.Module) -> tuple[list[str], list[str]]:
    """Paths of modules with parameters of their own: those that can draw them anew, the others."""
    able, unable = [], []
    for name, module in model.named_modules():
        if module._parameters and any(p is not None for p in module._parameters.values()):
            (able if _reset(module) else unable).append(name)
    return able, unable


def _reset(module: nn.Module) -> Callable[[], None] | None:
    """What draws the module's weights; nn.MultiheadAttention hides it behind an underscore."""
    if is_parametrized(module):
        return None  # its weight is computed from others: a reset would be lost
    return getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)


def _everywhere(model: nn.Module) -> tuple[dict[str, list[nn.Module]], list[str]]:
    """Layer -> the module itself, from the last registered to the first; and those left out."""
    able, unable = _resettable(model)
    modules = dict(model.named_modules())
    return {name: [modules[name]] for name in reversed(able)}, unable


def _named(model: nn.Module, layers: Sequence[str]) -> dict[str, list[nn.Module]]:
    """Layer -> all modules within that are to be reset."""
    plans = {}
    for name in layers:
        top = find_module(model, name)
        able, unable = _resettable(top)
        if unable:
            inner = f"{name}.{unable[0]}".rstrip(".")
            raise UserError(
                f"layer {name!r} cannot draw new weights ({inner} has no reset_parameters): "
                "choose others"
            )
        if not able:
            raise UserError(f"layer {name!r} has no weights to randomise: choose another")
        modules = dict(top.named_modules())
        plans[name] = [modules[path] for path in able]
    return plans


@contextmanager
def _randomised(model: nn.Module, plan: list[nn.Module], seed: int) -> Iterator[None]:
    """The planned modules with new weights inside, with their very own tensors afterwards.

    Copies take the places of parameters and buffers: the originals are not written to, so that a
    graph between a forward and a backward pass, an optimiser and ``.grad`` notice nothing.
    """
    numbered = {id(module): number for number, module in enumerate(model.modules())}
    # Children too: some modules draw the weights of those within.
    concerned = {
        id(tensor)
        for module in plan
        for inner in module.modules()
        for _, _, tensor in _tensors(inner)
    }
    copies: dict[int, Tensor] = {}
    replaced = []
    try:
        for module in model.modules():
            for store, name, tensor in _tensors(module):
                if id(tensor) in concerned:
                    # one copy for weights that layers share
                    copy = copies.setdefault(id(tensor), _copy(tensor))
                    replaced.append((store, name, tensor))
                    store[name] = copy
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for module in plan:
                key = seed * 2**20 + numbered[id(module)]
                torch.default_generator.manual_seed(key % 2**63)
                _redraw(module)
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


def _copy(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy
