"""Find the layers of a network that are worth showing, and choose among them by name.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width, ``L`` layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.explain.feature_map import find_feature_map
from convlens.explain.trace import Trace, layer_kind, trace

__all__ = [
    "KINDS",
    "choose_layers",
    "explainable_layers",
    "find_activations",
    "find_feature_map",
    "find_image_convolutions",
    "layer_kind",
]

T = TypeVar("T")
KINDS = ("activations", "stages", "filters", "grad_cam")

_FEWEST_STAGES = 3  # whole ones; fewer would not show the depth


def explainable_layers(model: nn.Module) -> list[str]:
    """Return the paths of the layers worth showing, in the order of their registration.

    These are convolutions, normalisations, activations, poolings and dense layers, innermost
    modules only (timm's ``BatchNormAct2d`` is represented by its activation). A module that is
    registered under two names appears under the first.

    >>> explainable_layers(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten()))
    ['0', '1']
    """
    return [
        name
        for name, module in model.named_modules()
        if name and [inner for inner in module.modules() if layer_kind(inner)] == [module]
    ]


def choose_layers(
    model: nn.Module,
    patterns: str | Iterable[str] = "auto",
    kind: str = "activations",
    *,
    example: Tensor | None = None,
    limit: int | None = None,
) -> list[str]:
    """Return the layers that match ``patterns``, in model order, each once.

    Args:
        model: the network.
        patterns: ``"auto"``, a path, a glob (``features.*``, ``*relu*``; ``*`` also matches dots),
            or a list of them. A full path may name any module, even a block. A glob chooses among
            the layers worth showing (for ``"filters"``: convolutions and dense layers).
        kind: purpose of the layers. ``auto`` means, for

            - ``"activations"``: every convolution (or dense layer on a map) with its
              normalisation, activation and pooling, if their maps are larger than 1×1. Layers on
              tokens or windows are represented by the output of their residual block;
            - ``"stages"``: of each such convolution and what follows it, only the last layer before
              pooling;
            - ``"filters"``: every convolution and dense layer that returns maps or features, and
              the dense layers on tokens or windows that an activation follows (units of an MLP);
            - ``"grad_cam"``: the one feature map that the classifier reads, see
              ``find_feature_map``.
        example: ``(1, C, H, W)`` image for one forward pass. ``auto`` needs it, and leaves out
            layers that are never called.
        limit: maximum number of layers from ``auto``. Whole stages are left out, evenly over the
            depth; the first and the last stage stay. If fewer than three whole stages fit, each is
            represented by its last layer before pooling, as it always is with ``"stages"``, and a
            single one is the last stage.

    Returns:
        Names of the layers. The list is empty only for ``auto``, if the network has no such layer:
        for Grad-CAM, dense networks have none.

    Raises:
        UserError: if a pattern matches nothing; the message names the most similar layers.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, not {kind!r}")
    if patterns == "auto" or (not isinstance(patterns, str) and list(patterns) == ["auto"]):
        return _choose_automatically(model, kind, example, limit)
    patterns = [patterns] if isinstance(patterns, str) else [str(p) for p in patterns]
    paths = [path for path, _ in model.named_modules(remove_duplicate=False) if path]
    layers = explainable_layers(model)
    if kind == "filters":
        layers = [p for p in layers if layer_kind(model.get_submodule(p)) in ("conv", "dense")]
    chosen: set[str] = set()
    for pattern in patterns:
        matches = [pattern] if pattern in paths else [p for p in layers if fnmatchcase(p, pattern)]
        if not matches:
            suggestion = nearest(pattern, layers)
            raise UserError(f"no layer of {type(model).__name__} matches {pattern!r}: {suggestion}")
        chosen.update(matches)
    return [path for path in paths if path in chosen]


def find_activations(model: nn.Module, example: Tensor) -> list[str]:
    """Return the activation modules with maps larger than 1×1, in the order of registration.

    These are the activations among ``choose_layers(model, "auto")``, and those on tokens or
    windows: the activations of MLPs, which ``auto`` represents by their residual blocks.

    Args:
        model: the network.
        example: ``(1, C, H, W)`` image for one forward pass.
    """
    seen = trace(model, example)
    kinds = {name: layer_kind(model.get_submodule(name)) for name in explainable_layers(model)}
    chosen = {name for stage in _find_stages(model, seen, kinds) for name in stage}
    chosen |= {name for name, call in seen.last.items() if call.layout.grid and call.size}
    return [name for name, kind in kinds.items() if kind == "activation" and name in chosen]


def find_image_convolutions(model: nn.Module, example: Tensor) -> list[str]:
    """Return the convolutions that read the channels of the image, in the order of their calls.

    Their kernels can be drawn as small pictures. Kernels of deeper layers and 1×1 kernels cannot.

    Args:
        model: the network.
        example: ``(1, C, H, W)`` image for one forward pass.
    """
    return [
        call.name
        for call in trace(model, example).calls
        if call.reads_image
        and isinstance(call.module, nn.Conv2d)
        and max(call.module.kernel_size) > 1
    ]


def _choose_automatically(
    model: nn.Module, kind: str, example: Tensor | None, limit: int | None
) -> list[str]:
    if example is None:
        raise ValueError("choose_layers needs an example image for auto")
    if kind == "grad_cam":
        layer, _ = find_feature_map(model, example)
        return [layer] if layer else []
    seen = trace(model, example)
    kinds = {name: layer_kind(model.get_submodule(name)) for name in explainable_layers(model)}
    if kind == "filters":
        dense = [name for name in kinds if kinds[name] in ("conv", "dense")]
        stages = [[name] for name in dense if _has_units(seen, name)]
    else:
        stages = _find_stages(model, seen, kinds)
    outputs = [[name for name in stage if kinds.get(name) != "pool"][-1] for stage in stages]
    if kind == "stages":
        stages = [[name] for name in outputs]
    if limit is None:
        return [name for stage in stages for name in stage]
    return _thin_out(stages, outputs, limit)


def _has_units(seen: Trace, name: str) -> bool:
    """Return whether a convolution or dense layer has units to draw.

    On tokens and windows these are the units of an MLP, which an activation reads.
    """
    call = seen.last.get(name)
    if call is None or call.layout.grid is None:
        return call is not None and call.layout.is_known
    return bool(seen.readers[name] & {"activation", "rectifier"})


def _find_stages(model: nn.Module, seen: Trace, kinds: dict[str, str | None]) -> list[list[str]]:
    """Return the layers with maps from one convolution or dense layer to the next.

    A residual block with dense layers on tokens or windows is a stage of its own.
    """
    blocks = _find_blocks(seen)
    stages: list[list[str]] = []
    for name, _ in model.named_modules():
        call, layer = seen.last.get(name), kinds.get(name)
        is_map = call is not None and call.layout.grid is None and call.size is not None
        if name in blocks:
            stages += [[name], []]
        elif layer in ("conv", "dense"):
            stages.append([name] if is_map else [])
        elif layer and is_map and stages and stages[-1]:
            has_pool = kinds[stages[-1][-1]] == "pool"  # a stage has at most one pooling
            stages[-1] += [] if has_pool and layer == "pool" else [name]
    return [stage for stage in stages if stage]


def _find_blocks(seen: Trace) -> set[str]:
    """Return the innermost residual blocks with dense layers on tokens or windows."""
    dense = [
        name for name, call in seen.last.items()
        if layer_kind(call.module) == "dense" and call.layout.order is None
    ]  # fmt: skip
    blocks: set[str] = set()
    for call in seen.calls:  # inner modules end before outer ones
        inner = call.name + "."
        is_block = call.is_sum and call.size and any(name.startswith(inner) for name in dense)
        if is_block and not any(name.startswith(inner) for name in blocks):
            blocks.add(call.name)
    return blocks


def _thin_out(stages: list[list[str]], outputs: list[str], limit: int) -> list[str]:
    """Return the layers of as many stages as the limit allows, evenly spaced over the depth.

    Args:
        stages: the layers of each stage.
        outputs: the layer that represents each stage if fewer than three whole stages fit.
        limit: maximum number of layers.
    """
    total = len(stages)
    for count in range(total, min(_FEWEST_STAGES, total) - 1, -1):
        names = [name for stage in _spread(stages, count) for name in stage]
        if len(names) <= limit:
            return names
    return _spread(outputs, min(limit, total))


def _spread(items: list[T], count: int) -> list[T]:
    """Return ``count`` evenly spaced items, from the first to the last; one item is the last."""
    if count == 1:
        return items[-1:]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
