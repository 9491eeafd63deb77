"""Find the image patches that excite a unit most.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width of the images, ``U`` units, ``N``
patches per unit, ``h w`` size of a patch.

M. D. Zeiler, R. Fergus, *Visualizing and Understanding Convolutional Networks*, ECCV 2014 (its
figure 2, right), https://arxiv.org/abs/1311.2901
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.filters import check_signs, check_units
from convlens.explain.mode import chunks, explaining, image_size, prepare_images
from convlens.explain.receptive import Field
from convlens.explain.taps import record

_OUTSIDE = 0.5  # grey, for the part of a patch that is outside the image


@dataclass(frozen=True, eq=False)
class ExcitingPatches:
    """The ``N`` patches that excite each of ``U`` units of a layer most.

    Attributes:
        patches: ``(U, N, C, h, w)`` in the range of the images, the most exciting first; grey 0.5
            where a receptive field extends beyond the image.
        activations: ``(U, N)`` output of the unit at the patch, in descending order (ascending for
            a unit with sign -1). Not finite where the network's output is not.
        pictures: ``(U, N)`` int64, index of the image in the stream, from 0.
        places: ``(U, N, 4)`` int64, box of the patch in its image: top, left, bottom, right in
            pixels, the last two exclusive; it may extend beyond the image.
        units: indices of the channels, in the order of the patches.
        search_count: number of images searched.
    """

    patches: Tensor
    activations: Tensor
    pictures: Tensor
    places: Tensor
    units: tuple[int, ...]
    search_count: int


class _Search:
    """The best patches so far of one layer; holds at most ``count`` patches of each unit.

    Args:
        model: the network.
        layer: name of the layer.
        units: indices of its channels; None for all.
        signs: sign of each unit; None for all 1.
        count: number of patches per unit.
        example: ``(1, C, H, W)`` image of the size of all others.
    """

    def __init__(
        self, model: nn.Module, layer: str, units: Sequence[int] | None,
        signs: Sequence[int] | None, count: int, example: Tensor,
    ):  # fmt: skip
        with record(model, [layer], example=example) as taps:
            units = check_units(layer, units, taps.channels_first(layer).shape[1])
            field = Field.measure(taps, layer, example)
        self.field, self.units, self.count = field, units, count
        self.signs = example.new_tensor(check_signs(signs, units))[:, None]
        shape = (len(units), count, example.shape[1], *(field.size or example.shape[-2:]))
        self.patches = example.new_full(shape, _OUTSIDE)
        self.values = example.new_empty(len(units), 0)  # (U, N), times the sign, descending
        self.indices = torch.empty(len(units), 0, dtype=torch.int64, device=example.device)
        self.boxes = self.indices.new_empty(len(units), 0, 4)

    def update(self, outputs: Tensor, images: Tensor, begin: int) -> None:
        """Merge the patches of a batch into the best ones.

        Args:
            outputs: ``(B, channels, …)`` output of the layer.
            images: ``(B, C, H, W)``.
            begin: index of the first of these images in the stream.
        """
        width, count = outputs.shape[-1], len(images)
        outputs = outputs.reshape(*outputs.shape[:2], -1)[:, self.units].transpose(0, 1)
        outputs = (outputs * self.signs[..., None]).nan_to_num(-torch.inf, torch.inf, -torch.inf)
        values, places = outputs.max(-1)  # (U, B): one place per image
        boxes = self.field.find_boxes(places, width, image_size(images))
        indices = torch.arange(begin, begin + count, device=values.device).expand_as(values)
        old_count = self.values.shape[1]
        # stable, so that the earlier of two equal images stays first
        values, order = torch.cat([self.values, values], 1).sort(
            dim=1, descending=True, stable=True
        )
        order = order[:, : self.count]
        self.values = values[:, : self.count]
        self.indices = torch.cat([self.indices, indices], 1).gather(1, order)
        boxes = torch.cat([self.boxes, boxes], 1)
        self.boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        self._rearrange(order.tolist(), old_count, images, begin)

    def _rearrange(
        self, order: list[list[int]], old_count: int, images: Tensor, begin: int
    ) -> None:
        """Move the old patches to their new ranks, and cut out the new ones."""
        indices, boxes = self.indices.tolist(), self.boxes.tolist()
        for unit, row in enumerate(order):
            if max(row) < old_count:
                continue  # no new patch, so the order is unchanged
            self.patches[unit, : len(row)] = torch.stack(
                [
                    self.patches[unit, source]
                    if source < old_count
                    else _cut(images[indices[unit][rank] - begin], boxes[unit][rank])
                    for rank, source in enumerate(row)
                ]
            )

    def build_result(self, search_count: int) -> ExcitingPatches:
        """Return the best patches of the ``search_count`` images searched."""
        return ExcitingPatches(
            self.patches[:, : self.values.shape[1]],
            self.values * self.signs,
            self.indices,
            self.boxes,
            tuple(self.units),
            search_count,
        )


def _cut(image: Tensor, box: list[int]) -> Tensor:
    """Cut a box ``(C, h, w)`` out of an image ``(C, H, W)``, grey outside of the image."""
    top, left, bottom, right = box
    inner = image[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    patch = image.new_full((len(image), bottom - top, right - left), _OUTSIDE)
    down, along = max(-top, 0), max(-left, 0)
    patch[:, down : down + inner.shape[1], along : along + inner.shape[2]] = inner
    return patch


def search_patches(
    model: nn.Module,
    wanted: Mapping[str, Sequence[int] | None],
    batches: Iterable[Tensor],
    *,
    count: int = 4,
    signs: Mapping[str, Sequence[int] | None] | None = None,
    batch: int | None = 8,
) -> dict[str, ExcitingPatches]:
    """Find the image patches that excite units of layers most, one patch per image.

    A unit's value is the output of the layer itself: to rank by values before the activation, name
    the convolution or dense layer. A patch is the receptive field of the unit at its highest value.
    For units that see the whole image (dense layers, logits, fields larger than the image), the
    patch is the whole image. Fed to the network on its own, a patch gives the same activation,
    unless it extends beyond the image, where the network saw padding.

    The images are streamed, and one pass serves all layers. Memory holds the best ``count`` patches
    of each unit and the activations of ``batch`` images, however many images are searched.

    Args:
        model: the network.
        wanted: path of a layer with output ``(B, channels, h, w)`` or ``(B, channels)`` -> indices
            of its channels; None for all.
        batches: float images ``(B, C, H, W)`` in [0, 1], ready for the network, all of one size.
        count: number of patches per unit; fewer if there are fewer images.
        signs: layer name -> for each of its units 1, or -1 to search for the lowest output (the
            other class of a one-logit network). For layers that are left out, all signs are 1.
        batch: images per forward pass; None to keep the batches as they are.

    Returns:
        Layer name -> patches of its units.

    Raises:
        UserError: if a layer or unit is unknown, or if there are no images.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    signs = signs or {}
    searches: dict[str, _Search] = {}
    search_count, shape = 0, None
    with explaining(model), torch.no_grad():
        for images in batches:
            images = prepare_images(model, images)
            if not len(images):
                continue
            if shape not in (None, images.shape[1:]):
                raise ValueError(
                    f"images must have one shape, got {tuple(shape)} and {tuple(images.shape[1:])}"
                )
            if not searches:
                shape = images.shape[1:]
                searches = {
                    layer: _Search(model, layer, units, signs.get(layer), count, images[:1])
                    for layer, units in wanted.items()
                }
            with record(model, list(wanted), example=images[:1]) as taps:
                for part in chunks(len(images), batch):
                    taps.run(images[part])
                    for layer, search in searches.items():
                        search.update(taps.channels_first(layer), images[part], search_count)
                    search_count += len(images[part])
    if not search_count:
        raise UserError("no images to search for patches: give at least one")
    return {layer: search.build_result(search_count) for layer, search in searches.items()}
