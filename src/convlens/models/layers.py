"""The layer table: what stands in a network, how large, and how far each layer sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from convlens.models.backbone import Backbone


@dataclass(frozen=True)
class LayerRow:
    """One leaf module.

    Attributes:
        path: module path, ``backbone.block1.conv``.
        kind: class name.
        output: shape of the output for one picture, without the batch: (C, H, W) or (features,).
        parameters: number of parameters of its own.
        receptive_field: edge in pixels of the input region that one output value depends on;
            None where it is the whole picture, and where it is not known: behind branches.
    """

    path: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    receptive_field: int | None


def layer_table(model: nn.Module, *, channels: int, size: int) -> list[LayerRow]:
    """Every leaf module of ``model`` in the order it runs, for a (channels, size, size) picture.

    The receptive field follows the chain: it grows by (kernel - 1) times the product of all
    strides before. That is exact for networks that are chains, as ``scratch`` and VGG16 are, and
    left out for others; it may exceed the picture when padding lets a layer look past the border.
    """
    rows: list[LayerRow] = []
    seen = {"field": 1, "jump": 1, "global": not is_plain_chain(model)}
    paths = {module: path for path, module in model.named_modules()}

    def visit(module: nn.Module, _inputs, output: torch.Tensor) -> None:
        window = getattr(module, "kernel_size", None)
        if isinstance(module, nn.Linear | nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            seen["global"] = True
        elif window is not None:
            edge, step, spread = (
                _edge(window),
                _edge(module.stride),
                _edge(getattr(module, "dilation", 1)),
            )
            seen["field"] += spread * (edge - 1) * seen["jump"]
            seen["jump"] *= step
        rows.append(
            LayerRow(
                paths[module],
                type(module).__name__,
                tuple(output.shape[1:]),
                sum(parameter.numel() for parameter in module.parameters()),
                None if seen["global"] else seen["field"],
            )
        )

    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(visit) for module in leaves]
    modes = {module: module.training for module in model.modules()}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, channels, size, size, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return rows


def is_plain_chain(model: nn.Module) -> bool:
    """Whether the network's layers run one after the other, without branches."""
    holders = (nn.Sequential, Backbone)
    backbone = getattr(model, "backbone", model)
    return all(
        isinstance(part, holders) or not list(part.children()) for part in backbone.modules()
    )


def _edge(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]
