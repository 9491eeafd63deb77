"""The layer table: layers of a network, their sizes and receptive fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convlens.core.evaluation import evaluation_mode
from convlens.models.backbone import is_chain


@dataclass(frozen=True)
class LayerRow:
    """A leaf module, or a module that has both children and parameters of its own.

    Attributes:
        path: module path, such as ``backbone.block1.conv``; ``""`` is the network itself.
        kind: class name.
        output: shape of the (first) output for one image: (C, H, W) or (features,). None if the
            module's forward pass is not called: it is unused, or another module reads its
            parameters.
        parameters: number of its own parameters. Parameters that several rows share are counted
            in the first of them only.
        receptive_field: edge in pixels of the input region that one output value depends on; None
            if it is the whole image, or if it is unknown because the network has branches.
        convolution: whether it is a torch convolution or a subclass.
    """

    path: str
    kind: str
    output: tuple[int, ...] | None
    parameters: int
    receptive_field: int | None
    convolution: bool


def build_layer_table(model: nn.Module, *, channels: int, size: int) -> list[LayerRow]:
    """List the layers of ``model`` in the order of their calls; modules not called come last.

    The parameters of all rows add up to those of the network.

    The receptive field follows the chain: it grows by (kernel - 1) times the product of all
    strides before. That is exact for chains, such as ``scratch`` and VGG16, and left out for other
    networks. It may exceed the image, because padding extends it past the border.

    Args:
        model: the network.
        channels: channels of the images.
        size: height and width of the images in pixels.
    """
    paths = {
        module: path
        for path, module in model.named_modules()
        if _get_own_parameters(module) or not list(module.children())
    }
    calls: list[nn.Module] = []
    outputs: list[tuple[int, ...] | None] = []
    open_calls: list[int] = []

    def enter(module: nn.Module, _inputs) -> None:
        open_calls.append(len(calls))
        calls.append(module)
        outputs.append(None)

    def leave(_module: nn.Module, _inputs, output: object) -> None:
        outputs[open_calls.pop()] = _find_shape(output)

    hooks = [module.register_forward_pre_hook(enter) for module in paths]
    hooks += [module.register_forward_hook(leave) for module in paths]
    try:
        _run_once(model, channels, size)
    finally:
        for hook in hooks:
            hook.remove()
    idle = [module for module in paths if module not in set(calls) and _get_own_parameters(module)]
    parts = model.backbone.children() if hasattr(model, "backbone") else [model]
    fields = _compute_receptive_fields(calls) if all(map(is_chain, parts)) else [None] * len(calls)
    unknown = [None] * len(idle)
    rows, counted = [], set()
    for module, output, field in zip(
        [*calls, *idle], outputs + unknown, fields + unknown, strict=True
    ):
        new = [parameter for parameter in _get_own_parameters(module) if parameter not in counted]
        counted.update(new)
        rows.append(
            LayerRow(
                paths[module],
                type(module).__name__,
                output,
                sum(parameter.numel() for parameter in new),
                field,
                isinstance(module, nn.modules.conv._ConvNd),
            )
        )
    return rows


def _get_own_parameters(module: nn.Module) -> dict[nn.Parameter, None]:
    """Return the parameters of a module itself, without its children's, each once."""
    return dict.fromkeys(module.parameters(recurse=False))


def _run_once(model: nn.Module, channels: int, size: int) -> None:
    """Run one pass in evaluation mode; each module's mode is restored."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    # a compiled network calls no hooks
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), evaluation_mode(model):
        model(torch.zeros(1, channels, size, size, device=like.device, dtype=like.dtype))


def _find_shape(output: object) -> tuple[int, ...] | None:
    """Return the shape of the (first) output for one image."""
    if isinstance(output, Tensor):
        return tuple(output.shape[1:])
    parts = output.values() if isinstance(output, Mapping) else output
    if isinstance(parts, str) or not hasattr(parts, "__iter__"):
        return None
    return next((shape for part in parts if (shape := _find_shape(part)) is not None), None)


def _compute_receptive_fields(layers: list[nn.Module]) -> list[int | None]:
    """Return the receptive fields of a chain; None from the first that sees the whole image."""
    fields: list[int | None] = []
    field, jump, whole = 1, 1, False
    for layer in layers:
        window = getattr(layer, "kernel_size", None)
        if isinstance(layer, nn.Linear | nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            whole = True
        elif window is not None:
            spread = _get_edge(getattr(layer, "dilation", 1))
            field += spread * (_get_edge(window) - 1) * jump
            jump *= _get_edge(layer.stride)
        fields.append(None if whole else field)
    return fields


def _get_edge(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]
