"""The layer table: what stands in a network, how large, and how far each layer sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convlens.core.evaluation import evaluation_mode
from convlens.models.backbone import is_chain


@dataclass(frozen=True)
class LayerRow:
    """A leaf module, or a module with children that holds parameters of its own besides.

    Attributes:
        path: module path, ``backbone.block1.conv``; ``""`` is the network itself.
        kind: class name.
        output: shape of the output for one picture, without the batch: (C, H, W) or (features,);
            of several outputs the first's. None of a module whose forward pass is not called:
            another one reads its parameters, or it is unused.
        parameters: number of parameters of its own, those of an earlier row left out: what two
            modules share, or one that runs twice, is counted once.
        receptive_field: edge in pixels of the input region that one output value depends on;
            None where it is the whole picture, and where it is not known: behind branches.
        convolution: whether it is one of torch's convolutions or a kind of it.
    """

    path: str
    kind: str
    output: tuple[int, ...] | None
    parameters: int
    receptive_field: int | None
    convolution: bool


def build_layer_table(model: nn.Module, *, channels: int, size: int) -> list[LayerRow]:
    """The layers of ``model`` in the order they begin, for a (channels, size, size) picture.

    Their parameters add up to the network's. Modules that are not called come last.

    The receptive field follows the chain: it grows by (kernel - 1) times the product of all
    strides before. That is exact for networks that are chains, as ``scratch`` and VGG16 are, and
    left out for others; it may exceed the picture when padding lets a layer look past the border.
    """
    shown = {
        module: path
        for path, module in model.named_modules()
        if _own(module) or not list(module.children())
    }
    calls: list[nn.Module] = []
    outputs: list[tuple[int, ...] | None] = []
    open_calls: list[int] = []

    def enter(module: nn.Module, _inputs) -> None:
        open_calls.append(len(calls))
        calls.append(module)
        outputs.append(None)

    def leave(_module: nn.Module, _inputs, output: object) -> None:
        outputs[open_calls.pop()] = _shape(output)

    hooks = [module.register_forward_pre_hook(enter) for module in shown]
    hooks += [module.register_forward_hook(leave) for module in shown]
    try:
        _run(model, channels, size)
    finally:
        for hook in hooks:
            hook.remove()
    idle = [module for module in shown if module not in set(calls) and _own(module)]
    parts = model.backbone.children() if hasattr(model, "backbone") else [model]
    fields = _receptive_fields(calls) if all(map(is_chain, parts)) else [None] * len(calls)
    unknown = [None] * len(idle)
    rows, counted = [], set()
    for module, output, field in zip(
        [*calls, *idle], outputs + unknown, fields + unknown, strict=True
    ):
        new = [parameter for parameter in _own(module) if parameter not in counted]
        counted.update(new)
        rows.append(
            LayerRow(
                shown[module],
                type(module).__name__,
                output,
                sum(parameter.numel() for parameter in new),
                field,
                isinstance(module, nn.modules.conv._ConvNd),
            )
        )
    return rows


def _own(module: nn.Module) -> dict[nn.Parameter, None]:
    """Parameters that a module holds itself, not through a child, each once."""
    return dict.fromkeys(module.parameters(recurse=False))


def _run(model: nn.Module, channels: int, size: int) -> None:
    """One pass in evaluation mode; the modes are put back module by module."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    # a compiled network calls no hooks
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), evaluation_mode(model):
        model(torch.zeros(1, channels, size, size, device=like.device, dtype=like.dtype))


def _shape(output: object) -> tuple[int, ...] | None:
    """Of one picture's output; of several outputs the first tensor's."""
    if isinstance(output, Tensor):
        return tuple(output.shape[1:])
    parts = output.values() if isinstance(output, Mapping) else output
    if isinstance(parts, str) or not hasattr(parts, "__iter__"):
        return None
    return next((shape for part in parts if (shape := _shape(part)) is not None), None)


def _receptive_fields(layers: list[nn.Module]) -> list[int | None]:
    """Of layers that run one after the other; None from the first that sees the whole picture."""
    found: list[int | None] = []
    field, jump, whole = 1, 1, False
    for layer in layers:
        window = getattr(layer, "kernel_size", None)
        if isinstance(layer, nn.Linear | nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            whole = True
        elif window is not None:
            spread = _edge(getattr(layer, "dilation", 1))
            field += spread * (_edge(window) - 1) * jump
            jump *= _edge(layer.stride)
        found.append(None if whole else field)
    return found


def _edge(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]
