"""Filter pictures of a network, whatever the image: kernels, and what excites single units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from convlens.core.errors import UserError
from convlens.draw.filter_sheet import filter_sheet, kernel_sheet
from convlens.explain.filters import gradient_ascent, kernels, logits_layer, recipe, to_display
from convlens.explain.layers import choose_layers, takes_image
from convlens.explain.layouts import find_module

_LAYERS, _UNITS = 8, 16  # layers where none are named, units of each
_ASCENT = {"steps": 30, "step_size": 0.02, "batch": 32, **recipe("robust")}


def filter_panels(
    network: nn.Module, shape: tuple[int, int, int], class_names: Sequence[str],
    layers: str | list[str], *, seed: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """``filters/<layer>`` -> its panel, uint8 ``(H, W, 3)``.

    The kernels of convolutions that read the image itself; of deeper convolutions and of dense
    layers images that excite single units most, found by gradient ascent.

    Args:
        network: pictures ``(B, C, H, W)`` in [0, 1] to logits.
        shape: ``(C, H, W)`` of a picture.
        class_names: of the logits.
        layers: as :func:`convlens.explain.choose_layers` takes them; convolutions or dense layers.
        seed: of the images that the ascent starts from.

    Raises:
        UserError: an unknown layer, or one that is neither a convolution nor dense.
    """
    example = torch.full((1, *shape), 0.5)
    chosen = choose_layers(network, layers, "filters", example=example, limit=_LAYERS)
    first = takes_image(network, example)
    logits = logits_layer(network, chosen, example)
    panels = {}
    for layer in chosen:
        if layer in first:
            weights = kernels(find_module(network, layer))
            panel = kernel_sheet(weights, title=f"{layer} · kernels")
        else:
            names = class_names if layer == logits else None
            panel = _ascent(network, layer, shape, names, seed)
        panels[f"filters/{layer}"] = panel
    return panels


def _ascent(
    network: nn.Module, layer: str, shape: tuple[int, int, int], names: Sequence[str] | None,
    seed: int,
) -> np.ndarray:  # fmt: skip
    """Pictures of some units, evenly spread; ``names``: of the layer that gives the logits."""
    module = find_module(network, layer)
    total = getattr(module, "out_channels", None) or getattr(module, "out_features", None)
    if total is None:
        raise UserError(f"layer {layer!r} is no convolution and no dense layer: it has no filters")
    count = min(_UNITS, total)
    units, signs = [round(i * total / count) for i in range(count)], None
    labels = [names[unit] for unit in units] if names and total == len(names) else None
    if names and total == 1:
        units, signs, labels = [0, 0], [-1, 1], list(names)
    found = gradient_ascent(
        network, layer, units, signs=signs, size=shape[1:], channels=shape[0], seed=seed, **_ASCENT
    )
    return filter_sheet(
        to_display(found.images), found.units, labels=labels,
        marks=["zero gradient" if stuck else None for stuck in found.stuck.tolist()],
        title=f"{layer} · gradient ascent, {len(set(units))} of {total} units",
    )  # fmt: skip
