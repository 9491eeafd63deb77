"""What excites a unit among real pictures: the places where it answers most, cut out.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width of the pictures, ``U`` units asked
for, ``N`` patches of each, ``h w`` size of a patch.

M. D. Zeiler, R. Fergus, *Visualizing and Understanding Convolutional Networks*, ECCV 2014 (its
figure 2, right), https://arxiv.org/abs/1311.2901
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.filters import checked_signs, checked_units
from convlens.explain.mode import chunks, explaining, prepare_images
from convlens.explain.receptive import Field
from convlens.explain.taps import record

_OUTSIDE = 0.5  # grey, where a patch reaches over the picture's edge


@dataclass(frozen=True, eq=False)
class ExcitingPatches:
    """The ``N`` pictures, and the places in them, at which ``U`` units of one layer answer most.

    Attributes:
        patches: ``(U, N, C, h, w)`` in the pictures' own range, the most exciting first; grey 0.5
            where a receptive field reaches over the picture's edge.
        activations: ``(U, N)`` the unit's output there, as the layer gives it; falling (rising
            for a unit with sign -1). Not finite where the network's output is not.
        pictures: ``(U, N)`` int64, which picture of the stream, from 0.
        places: ``(U, N, 4)`` int64, the patch in its picture: top, left, bottom, right in pixels,
            the last two exclusive; may lie beyond the picture.
        units: the channel numbers, in the order of the patches.
        search_count: images searched.
    """

    patches: Tensor
    activations: Tensor
    pictures: Tensor
    places: Tensor
    units: tuple[int, ...]
    search_count: int


class _Search:
    """The running best of one layer: never more than ``count`` patches of a unit are held."""

    def __init__(
        self, model: nn.Module, layer: str, units: Sequence[int] | None,
        signs: Sequence[int] | None, count: int, like: Tensor,
    ):  # fmt: skip
        """``like`` is a picture as they will come, ``(1, C, H, W)``."""
        with record(model, [layer], example=like) as taps:
            units = checked_units(layer, units, taps.channels_first(layer).shape[1])
            field = Field.measure(taps, layer, like)
        self.field, self.units, self.count = field, units, count
        self.signs = like.new_tensor(checked_signs(signs, units))[:, None]
        shape = (len(units), count, like.shape[1], *(field.size or like.shape[-2:]))
        self.patches = like.new_full(shape, _OUTSIDE)
        self.values = like.new_empty(len(units), 0)  # (U, N), times the unit's sign, falling
        self.numbers = torch.empty(len(units), 0, dtype=torch.int64, device=like.device)
        self.boxes = self.numbers.new_empty(len(units), 0, 4)

    def update(self, outputs: Tensor, pictures: Tensor, begin: int) -> None:
        """``outputs`` ``(B, channels, …)`` of ``pictures``, the first of which is ``begin``."""
        width, count = outputs.shape[-1], len(pictures)
        outputs = outputs.reshape(*outputs.shape[:2], -1)[:, self.units].transpose(0, 1)
        outputs = (outputs * self.signs[..., None]).nan_to_num(-torch.inf, torch.inf, -torch.inf)
        values, places = outputs.max(-1)  # (U, B): one place of a picture
        boxes = self.field.find_boxes(places, width, tuple(pictures.shape[-2:]))
        numbers = torch.arange(begin, begin + count, device=values.device).expand_as(values)
        kept = self.values.shape[1]
        # stable, so that the earlier of two equal pictures stays first
        values, order = torch.cat([self.values, values], 1).sort(
            dim=1, descending=True, stable=True
        )
        order = order[:, : self.count]
        self.values = values[:, : self.count]
        self.numbers = torch.cat([self.numbers, numbers], 1).gather(1, order)
        boxes = torch.cat([self.boxes, boxes], 1)
        self.boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        self._rearrange(order.tolist(), kept, pictures, begin)

    def _rearrange(self, order: list[list[int]], kept: int, pictures: Tensor, begin: int) -> None:
        """Patches held already to their new ranks, and the new ones cut."""
        numbers, boxes = self.numbers.tolist(), self.boxes.tolist()
        for unit, row in enumerate(order):
            if max(row) < kept:
                continue  # then the old ones are where they were
            self.patches[unit, : len(row)] = torch.stack(
                [
                    self.patches[unit, place]
                    if place < kept
                    else _cut(pictures[numbers[unit][rank] - begin], boxes[unit][rank])
                    for rank, place in enumerate(row)
                ]
            )

    def found(self, searched: int) -> ExcitingPatches:
        return ExcitingPatches(
            self.patches[:, : self.values.shape[1]],
            self.values * self.signs,
            self.numbers,
            self.boxes,
            tuple(self.units),
            searched,
        )


def _cut(picture: Tensor, box: list[int]) -> Tensor:
    """``(C, h, w)``: the ``box`` of a ``(C, H, W)`` picture, grey where there is none."""
    top, left, bottom, right = box
    inner = picture[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    patch = picture.new_full((len(picture), bottom - top, right - left), _OUTSIDE)
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
    """The pictures and places that excite single units of layers most, one place a picture.

    A layer's own output counts: name the convolution or dense layer itself, not the activation
    behind it. A patch is the unit's receptive field there; units that see the whole picture (dense
    layers, logits, fields larger than it) get all of it. Fed alone to the network, a patch gives
    the same activation, as long as no field reaches over the picture's edge, where the network saw
    its padding.

    The pictures are streamed, and one pass serves all layers: no more than the best ``count``
    patches of each unit and ``batch`` pictures' activations are held, whatever their number.

    Args:
        wanted: path of a layer with output ``(B, channels, h, w)`` or ``(B, channels)`` -> its
            units, channel numbers; None for all.
        batches: float pictures ``(B, C, H, W)`` in [0, 1] as the network takes them, of one size.
        count: patches of a unit; fewer where there are fewer pictures.
        signs: layer name -> for each of its units 1, or -1 for what makes its output least (the
            other class of a one-logit network); layers left out have 1.
        batch: pictures of a pass; None for the batches as they come.

    Raises:
        UserError: an unknown layer or unit, or no pictures.
    """
    if count < 1:
        raise ValueError(f"count is at least 1, not {count}")
    signs = signs or {}
    searches: dict[str, _Search] = {}
    searched, shape = 0, None
    with explaining(model), torch.no_grad():
        for pictures in batches:
            images = prepare_images(model, pictures)
            if not len(images):
                continue
            if shape not in (None, images.shape[1:]):
                raise ValueError(
                    f"pictures of two shapes: {tuple(shape)} and {tuple(images.shape[1:])}"
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
                        search.update(taps.channels_first(layer), images[part], searched)
                    searched += len(images[part])
    if not searched:
        raise UserError("no pictures to search for patches: give at least one")
    return {layer: search.found(searched) for layer, search in searches.items()}
