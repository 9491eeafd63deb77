"""What each layer answers to given pictures: feature maps, dead channels, sparsity.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width, ``L`` layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convlens.errors import UserError
from convlens.explain.taps import chunks, explaining, ready, record


@dataclass(frozen=True, eq=False)
class Activations:
    """Outputs of ``L`` layers for one batch of pictures.

    Attributes:
        layers: layer name -> ``(B, C, h, w)`` maps, or ``(B, C)`` for a dense layer; fp32,
            detached, on the network's device, in the order the layers were asked for.
    """

    layers: dict[str, Tensor]


def activations(
    model: nn.Module, images: Tensor, layers: Sequence[str], *, batch: int | None = None
) -> Activations:
    """The outputs of the named layers for ``images``, as they leave each layer.

    The taps of one convolution stage are layers of their own: name the convolution for its raw
    output (an in-place ReLU behind it does not spoil it), the normalisation for what comes after
    it, the activation, the pooling. A module called several times reports its last call.

    Args:
        images: ``(B, C, H, W)`` as the network takes them.
        layers: module paths, see :func:`convlens.explain.choose_layers`.
        batch: pictures a forward pass; None for all at once.

    Raises:
        UserError: an unknown layer, or one that is never called in evaluation mode.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in layers}
    with explaining(model), torch.no_grad(), record(model, layers) as taps:
        images = ready(model, images)
        for part in chunks(len(images), batch):
            taps.run(images[part])
            for name, maps in parts.items():
                if name not in taps:
                    raise UserError(f"layer {name!r} is never called: choose another")
                maps.append(taps[name])
    return Activations({name: torch.cat(maps) for name, maps in parts.items()})


def dead_channels(maps: Tensor) -> Tensor:
    """Channels that tell nothing about these pictures: ``(C,)`` bool.

    A channel is dead if no value of it is above zero (a ReLU behind it, or the one just passed,
    gives zero everywhere), or if all its values are equal.

    Args:
        maps: ``(B, C, H, W)`` or ``(B, C)`` outputs of one layer.

    >>> dead_channels(torch.tensor([[0.0, 1.0, 2.0], [-1.0, 1.0, 3.0]]))
    tensor([ True,  True, False])
    """
    values = _by_channel(maps)
    highest, lowest = values.amax(1), values.amin(1)
    return (highest <= 0) | (highest == lowest)


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
        dead: ``(C,)`` bool, see :func:`dead_channels`.
    """

    sparsity: Tensor
    dead: Tensor


def layer_statistics(
    model: nn.Module, batches: Iterable[Tensor], layers: Sequence[str]
) -> dict[str, LayerStatistics]:
    """Sparsity and dead channels of several layers over any number of pictures.

    Batches flow through one by one and only their counts are kept, so memory does not grow with
    the number of pictures.

    Args:
        batches: ``(B, C, H, W)`` each, as the network takes them; at least one.
        layers: module paths with outputs ``(B, C, …)``.

    Raises:
        UserError: an unknown layer, or one that is never called in evaluation mode.
    """
    sums: dict[str, list[Tensor]] = {}
    total = 0
    for images in batches:
        found = activations(model, images, layers).layers
        total += len(images)
        for name, maps in found.items():
            values = _by_channel(maps)
            now = [(values <= 0).float().mean(1) * len(images), values.amax(1), values.amin(1)]
            if name in sums:
                share, high, low = sums[name]
                now = [share + now[0], torch.maximum(high, now[1]), torch.minimum(low, now[2])]
            sums[name] = now
    return {
        name: LayerStatistics(share / total, (high <= 0) | (high == low))
        for name, (share, high, low) in sums.items()
    }


def _by_channel(maps: Tensor) -> Tensor:
    return maps.transpose(0, 1).flatten(1)
