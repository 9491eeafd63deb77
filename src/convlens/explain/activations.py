"""What each layer answers to given pictures: feature maps, dead channels, sparsity.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width, ``L`` layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from convlens.explain.captum_layers import layer_outputs, reading
from convlens.explain.mode import chunks, explaining, prepare_images


@dataclass(frozen=True, eq=False)
class Activations:
    """Outputs of ``L`` layers for one batch of pictures.

    Attributes:
        layers: layer name -> ``(B, C, h, w)`` maps, also of a layer that holds its channels last,
            or ``(B, C)`` features; fp32, detached, on the network's device, in the order the layers
            were asked for.
        rules: layer name -> what makes a channel of it dead; see :func:`dead_channels`.
    """

    layers: dict[str, Tensor]
    rules: dict[str, DeadRule]

    def dead(self, layer: str) -> Tensor:
        """The channels of a layer that are dead for these pictures: ``(C,)`` bool."""
        return dead_channels(self.layers[layer], self.rules[layer])


def activations(
    model: nn.Module, images: Tensor, layers: Sequence[str], *, batch: int | None = None
) -> Activations:
    """The outputs of the named layers for ``images``, as they leave each layer, channels first.

    Captum's ``LayerActivation`` reads all layers in one forward pass.

    The taps of one convolution stage are layers of their own: name the convolution for its raw
    output (an in-place ReLU behind it does not spoil it), the normalisation for what comes after
    it, the activation, the pooling. A module called several times reports its last call.

    Args:
        images: ``(B, C, H, W)`` as the network takes them.
        layers: module paths, see :func:`convlens.explain.choose_layers`.
        batch: pictures a forward pass; None for all at once.

    Raises:
        UserError: an unknown layer, one that is never called in evaluation mode, or one whose
            output is neither maps nor features (tokens, windows).
    """
    with explaining(model), torch.no_grad(), reading(model, layers) as layouts:
        images = prepare_images(model, images)
        parts = [layer_outputs(layouts, images[part]) for part in chunks(len(images), batch)]
        maps = {
            name: torch.cat([layouts.channels_first(name, part[name]) for part in parts])
            for name in layers
        }
        rules = {name: _dead_rule(layouts.modules[name], layouts.readers(name)) for name in layers}
    return Activations(maps, rules)


DeadRule = Literal["rectified", "constant", "none"]


def dead_channels(maps: Tensor, rule: DeadRule = "rectified") -> Tensor:
    """Channels that tell nothing about these pictures: ``(C,)`` bool.

    A channel is dead if all its values are equal, and also if no value of it is above zero and a
    ReLU takes it (or has just given it), which makes zero of it everywhere.

    Args:
        maps: ``(B, C, H, W)`` or ``(B, C)`` outputs of one layer.
        rule: ``rectified`` for a layer that nothing but ReLUs reads; ``constant`` for others, where
            a value below zero tells as much as one above; ``none`` for a convolution or dense layer
            that a normalisation reads, which moves and stretches whatever comes: none is dead.

    >>> dead_channels(torch.tensor([[0.0, 1.0, 2.0], [-1.0, 1.0, 3.0]]))
    tensor([ True,  True, False])
    >>> dead_channels(torch.tensor([[0.0, 1.0, 2.0], [-1.0, 1.0, 3.0]]), "constant")
    tensor([False,  True, False])
    """
    values = _by_channel(maps)
    return _dead(values.amax(1), values.amin(1), rule)


def _dead(highest: Tensor, lowest: Tensor, rule: DeadRule) -> Tensor:
    if rule == "none":
        return torch.zeros_like(highest, dtype=torch.bool)
    constant = highest == lowest
    return constant | (highest <= 0) if rule == "rectified" else constant


def _dead_rule(module: nn.Module, readers: frozenset[str]) -> DeadRule:
    if readers == {"rectifier"}:
        return "rectified"
    # what a ReLU gave is dead where it is zero everywhere, which is constant
    moved = isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and "norm" in readers
    return "none" if moved else "constant"


def sparsity(maps: Tensor) -> Tensor:
    """Share of values at or below zero, channel by channel: ``(C,)`` in [0, 1].

    After a ReLU this is the share of silent positions, before it the share it will silence. The
    mean over the result is the sparsity of the layer.

    Args:
        maps: ``(B, C, H, W)`` or ``(B, C)`` outputs of one layer.

    >>> sparsity(torch.tensor([[0.0, 1.0], [-1.0, -1.0]]))
    tensor([1.0000, 0.5000])
    """
    return (_by_channel(maps) <= 0).float().mean(1)


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """What ``C`` channels of a layer did over many pictures.

    Attributes:
        sparsity: ``(C,)`` in [0, 1], see :func:`sparsity`.
        dead: ``(C,)`` bool, by the layer's rule, see :func:`dead_channels`.
    """

    sparsity: Tensor
    dead: Tensor


def compute_layer_statistics(
    model: nn.Module, batches: Iterable[Tensor], layers: Sequence[str]
) -> dict[str, LayerStatistics]:
    """Sparsity and dead channels of several layers over any number of pictures.

    Batches flow through one by one and only their counts are kept, so memory does not grow with
    the number of pictures.

    Args:
        batches: ``(B, C, H, W)`` each, as the network takes them; at least one.
        layers: module paths.

    Raises:
        UserError: a layer that :func:`activations` refuses.
    """
    sums: dict[str, list[Tensor]] = {}
    total = 0
    for images in batches:
        found = activations(model, images, layers)
        total += len(images)
        for name, maps in found.layers.items():
            values = _by_channel(maps)
            now = [(values <= 0).float().mean(1) * len(images), values.amax(1), values.amin(1)]
            if name in sums:
                share, high, low = sums[name]
                now = [share + now[0], torch.maximum(high, now[1]), torch.minimum(low, now[2])]
            sums[name] = now
    return {
        name: LayerStatistics(share / total, _dead(high, low, found.rules[name]))
        for name, (share, high, low) in sums.items()
    }


def _by_channel(maps: Tensor) -> Tensor:
    return maps.transpose(0, 1).flatten(1)
