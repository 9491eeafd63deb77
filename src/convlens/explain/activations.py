"""The outputs of layers: feature maps, dead channels, sparsity.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width, ``L`` layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from convlens.explain.captum_layers import hook_layers, read_outputs
from convlens.explain.mode import chunks, explaining, prepare_images


@dataclass(frozen=True, eq=False)
class Activations:
    """Outputs of ``L`` layers for one batch of images.

    Attributes:
        layers: layer name -> ``(B, C, h, w)`` maps, even if the layer itself has its channels
            last or returns tokens, or ``(B, C)`` features; fp32, detached, on the network's
            device, in the requested order.
        rules: layer name -> the rule that decides which of its channels are dead; see
            ``convlens.explain.dead_channels``.
        placeless: layer name -> ``(B, C, p)``: what a layer on tokens returns for those without a
            place in the image, such as class tokens. Layers with maps have none.
    """

    layers: dict[str, Tensor]
    rules: dict[str, DeadRule]
    placeless: dict[str, Tensor]

    def all_values(self, layer: str) -> Tensor:
        """Return all values of a layer's channels at any position, ``(B, C, …)``."""
        if layer not in self.placeless:
            return self.layers[layer]
        return torch.cat([self.layers[layer].flatten(2), self.placeless[layer]], 2)

    def dead(self, layer: str) -> Tensor:
        """Return which channels of a layer are dead for these images, ``(C,)`` bool."""
        return dead_channels(self.all_values(layer), self.rules[layer])


def activations(
    model: nn.Module, images: Tensor, layers: Sequence[str], *, batch: int | None = None
) -> Activations:
    """Return the outputs of the named layers for ``images``, channels first.

    Captum's ``LayerActivation`` reads all layers in one forward pass.

    The modules of a convolution stage are separate layers. Name the convolution to get its raw
    output (an in-place ReLU after it does not overwrite the result), or the normalisation, the
    activation or the pooling to get theirs. For a module that is called several times, the result
    is the output of its last call.

    Args:
        model: the network.
        images: ``(B, C, H, W)``, preprocessed as the network expects them.
        layers: module paths, see ``convlens.explain.choose_layers``.
        batch: images per forward pass; None for all at once.

    Raises:
        UserError: if a layer is unknown, is never called in evaluation mode, or returns neither
            maps nor features, or tokens whose places are unknown.
    """
    with explaining(model), torch.no_grad(), hook_layers(model, layers) as layouts:
        images = prepare_images(model, images)
        parts = [read_outputs(layouts, images[part]) for part in chunks(len(images), batch)]
        maps = {
            name: torch.cat([layouts.channels_first(name, part[name]) for part in parts])
            for name in layers
        }
        rules = {
            name: _choose_rule(layouts.modules[name], layouts.readers(name)) for name in layers
        }
        placeless = {
            name: torch.cat([layouts.prefix(name, part[name]) for part in parts])
            for name in layers
            if layouts.layout(name).has_placeless
        }
    return Activations(maps, rules, placeless)


DeadRule = Literal["rectified", "constant", "none"]


def dead_channels(maps: Tensor, rule: DeadRule = "rectified") -> Tensor:
    """Return which channels carry no information about these images, ``(C,)`` bool.

    A channel is dead if all its values are equal. It is also dead if none of its values is above
    zero and a ReLU reads it (or has produced it), because the ReLU's output is zero everywhere.

    Args:
        maps: ``(B, C, H, W)`` or ``(B, C)`` outputs of one layer.
        rule: ``rectified`` for a layer that only ReLUs read; ``constant`` for others, where a
            negative value carries as much information as a positive one; ``none`` for a
            convolution or dense layer that a normalisation reads: the normalisation shifts and
            scales its values, so no channel counts as dead.

    >>> dead_channels(torch.tensor([[0.0, 1.0, 2.0], [-1.0, 1.0, 3.0]]))
    tensor([ True,  True, False])
    >>> dead_channels(torch.tensor([[0.0, 1.0, 2.0], [-1.0, 1.0, 3.0]]), "constant")
    tensor([False,  True, False])
    """
    values = _by_channel(maps)
    return _find_dead(values.amax(1), values.amin(1), rule)


def _find_dead(highest: Tensor, lowest: Tensor, rule: DeadRule) -> Tensor:
    if rule == "none":
        return torch.zeros_like(highest, dtype=torch.bool)
    constant = highest == lowest
    return constant | (highest <= 0) if rule == "rectified" else constant


def _choose_rule(module: nn.Module, readers: frozenset[str]) -> DeadRule:
    if readers == {"rectifier"}:
        return "rectified"
    # a ReLU's own output needs no rule of its own: dead means zero everywhere, so it is constant
    normalised = isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and "norm" in readers
    return "none" if normalised else "constant"


def sparsity(maps: Tensor) -> Tensor:
    """Return the fraction of each channel's values that are at or below zero, ``(C,)`` in [0, 1].

    After a ReLU this is the fraction of zeros; before it, the fraction that the ReLU will set to
    zero. The mean of the result is the sparsity of the layer.

    Args:
        maps: ``(B, C, H, W)`` or ``(B, C)`` outputs of one layer.

    >>> sparsity(torch.tensor([[0.0, 1.0], [-1.0, -1.0]]))
    tensor([1.0000, 0.5000])
    """
    return (_by_channel(maps) <= 0).float().mean(1)


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Statistics of the ``C`` channels of a layer over many images.

    Attributes:
        sparsity: ``(C,)`` in [0, 1], see ``convlens.explain.sparsity``.
        dead: ``(C,)`` bool, by the layer's rule, see ``convlens.explain.dead_channels``.
    """

    sparsity: Tensor
    dead: Tensor


def compute_layer_statistics(
    model: nn.Module, batches: Iterable[Tensor], layers: Sequence[str]
) -> dict[str, LayerStatistics]:
    """Return the sparsity and the dead channels of several layers over any number of images.

    Of each batch, only one sum and two extremes per channel are kept, so memory does not grow with
    the number of images.

    Args:
        model: the network.
        batches: ``(B, C, H, W)`` each, preprocessed as the network expects them; at least one.
        layers: module paths.

    Raises:
        UserError: for a layer that ``convlens.explain.activations`` rejects.
    """
    sums: dict[str, list[Tensor]] = {}
    total = 0
    for images in batches:
        outputs = activations(model, images, layers)
        total += len(images)
        for name in outputs.layers:
            values = _by_channel(outputs.all_values(name))
            new = [(values <= 0).float().mean(1) * len(images), values.amax(1), values.amin(1)]
            if name in sums:
                sparse, high, low = sums[name]
                new = [sparse + new[0], torch.maximum(high, new[1]), torch.minimum(low, new[2])]
            sums[name] = new
    return {
        name: LayerStatistics(sparse / total, _find_dead(high, low, outputs.rules[name]))
        for name, (sparse, high, low) in sums.items()
    }


def _by_channel(maps: Tensor) -> Tensor:
    """Return the values of each channel in one row, ``(C, N)``."""
    return maps.transpose(0, 1).flatten(1)
