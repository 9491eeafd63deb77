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
from convlens.explain.mode import chunks, explaining, ready
from convlens.explain.receptive import Probe, fitting_probe
from convlens.explain.taps import Taps, record

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
        searched: pictures looked at.
    """

    patches: Tensor
    activations: Tensor
    pictures: Tensor
    places: Tensor
    units: tuple[int, ...]
    searched: int


@dataclass(frozen=True)
class _Field:
    """Where on the picture the field of unit (0, 0) begins, its size, and from unit to unit.

    All ``(rows, columns)`` in pixels. ``size`` is None for units that see the whole picture.
    """

    first: tuple[int, int] = (0, 0)
    size: tuple[int, int] | None = None
    stride: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, taps: Taps, layer: str, example: Tensor, size: int | None) -> _Field:
        """Measured as :func:`receptive_field` does; ``size`` widens or narrows it all around."""
        probe = fitting_probe(taps, layer, example)
        field = cls._measured(probe)
        smaller = field.size and probe.canvas != tuple(example.shape[-2:])
        if smaller and not field._holds(probe, example):
            # padding that depends on the picture's size (TensorFlow's) moves the fields
            field = cls._measured(Probe(taps, layer, example))
        if not field.size or size is None:
            return field
        first = [f - (size - s) // 2 for f, s in zip(field.first, field.size, strict=True)]
        return cls(tuple(first), (size, size), field.stride)

    @classmethod
    def _measured(cls, probe: Probe | None) -> _Field:
        if probe is None or probe.sees_edge or min(probe.map) < 3:
            return cls()
        # rows and columns to spoil until the middle unit, from either side, and the next notice
        middle = [side // 2 for side in probe.map]
        found = probe.first(
            [*probe.edges, *[(axis, 0, middle[axis - 2] + 1) for axis in (2, 3)]],
        )
        starts, ends, following = found[0:4:2], found[1:4:2], found[4:]
        stride = tuple(f - s for f, s in zip(following, starts, strict=True))
        if 0 in stride:
            return cls()  # an enlarged map: several units share a field
        size = tuple(c + 2 - s - e for c, s, e in zip(probe.canvas, starts, ends, strict=True))
        first = tuple(s - 1 - m * d for s, m, d in zip(starts, middle, stride, strict=True))
        return cls(first, size, stride)

    def _holds(self, probe: Probe, example: Tensor) -> bool:
        """Whether a unit in the middle of ``example`` sees just its box: all four of its edges,
        and nothing outside."""
        shape = example.shape[-2:]
        row, column = (
            max(0, (side - size) // 2 - first) // stride
            for side, size, first, stride in zip(
                shape, self.size, self.first, self.stride, strict=True
            )
        )
        top, left = row * self.stride[0] + self.first[0], column * self.stride[1] + self.first[1]
        bottom, right = top + self.size[0], left + self.size[1]
        pictures = torch.zeros_like(example).repeat(5, 1, 1, 1)
        for picture, line in zip(
            pictures,
            [(top, top + 1, left, right), (bottom - 1, bottom, left, right),
             (top, bottom, left, left + 1), (top, bottom, right - 1, right)],
            strict=False,
        ):  # fmt: skip
            picture[:, line[0] : line[1], line[2] : line[3]] = torch.nan
        pictures[4] = torch.nan
        pictures[4, :, top:bottom, left:right] = 0
        return probe.spoilt(pictures)[:, row, column].tolist() == [True] * 4 + [False]

    def boxes(self, places: Tensor, width: int, picture: tuple[int, int]) -> Tensor:
        """``(…, 4)`` top, left, bottom, right of units at flat ``places`` of maps so wide."""
        if self.size is None:
            whole = torch.tensor([0, 0, *picture], device=places.device)
            return whole.expand(*places.shape, 4).clone()
        top = places // width * self.stride[0] + self.first[0]
        left = places % width * self.stride[1] + self.first[1]
        return torch.stack([top, left, top + self.size[0], left + self.size[1]], -1)


class _Search:
    """The running best of one layer: never more than ``count`` patches of a unit are held."""

    def __init__(self, field: _Field, units: list[int], signs: list[int], count: int, like: Tensor):
        """``like`` is a batch of pictures as they will come, ``(B, C, H, W)``."""
        self.field, self.units, self.count = field, units, count
        self.signs = like.new_tensor(signs)[:, None]
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
        boxes = self.field.boxes(places, width, tuple(pictures.shape[-2:]))
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
            old = [rank for rank, place in enumerate(row) if place < kept]
            new = [rank for rank, place in enumerate(row) if place >= kept]
            if not new:
                continue  # then the old ones are where they were
            self.patches[unit, old] = self.patches[unit, [row[rank] for rank in old]]
            for rank in new:
                picture = pictures[numbers[unit][rank] - begin]
                _cut(picture, boxes[unit][rank], self.patches[unit, rank])

    def found(self, searched: int) -> ExcitingPatches:
        return ExcitingPatches(
            self.patches[:, : self.values.shape[1]],
            self.values * self.signs,
            self.numbers,
            self.boxes,
            tuple(self.units),
            searched,
        )


def _cut(picture: Tensor, box: list[int], patch: Tensor) -> None:
    """Write the ``box`` of a ``(C, H, W)`` picture into ``patch``, grey where there is none."""
    top, left, bottom, right = box
    inner = picture[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    patch.fill_(_OUTSIDE)
    down, along = max(-top, 0), max(-left, 0)
    patch[:, down : down + inner.shape[1], along : along + inner.shape[2]] = inner


def exciting_patches(
    model: nn.Module,
    layer: str,
    units: Sequence[int] | None,
    batches: Iterable[Tensor],
    *,
    count: int = 4,
    size: int | None = None,
    signs: Sequence[int] | None = None,
    batch: int | None = 8,
) -> ExcitingPatches:
    """The pictures and places that excite single units of ``layer`` most, one place a picture.

    The layer's own output counts: name the convolution or dense layer itself, not the activation
    behind it. A patch is the unit's receptive field there, found as :func:`receptive_field` does;
    units that see the whole picture (dense layers, logits, fields larger than it) get all of it.
    Fed alone to the network, a patch gives the same activation, as long as no field reaches over
    the picture's edge, where the network saw its padding.

    The pictures are streamed: no more than the best ``count`` patches of each unit and ``batch``
    pictures' activations are held, whatever their number.

    Args:
        layer: path of a layer with output ``(B, channels, h, w)`` or ``(B, channels)``.
        units: channel numbers; None for all.
        batches: float pictures ``(B, C, H, W)`` in [0, 1] as the network takes them, of one size.
        count: patches of a unit; fewer where there are fewer pictures.
        size: side of the patches in pixels, around the field's middle; None for the field itself.
        signs: for each unit 1, or -1 for what makes its output least (the other class of a
            one-logit network); None: all 1.
        batch: pictures of a pass; None for the batches as they come.

    Raises:
        UserError: an unknown layer or unit, or no pictures.
    """
    found = search_patches(
        model, {layer: units}, batches, count=count, size=size, signs={layer: signs}, batch=batch
    )
    return found[layer]


def search_patches(
    model: nn.Module,
    wanted: Mapping[str, Sequence[int] | None],
    batches: Iterable[Tensor],
    *,
    count: int = 4,
    size: int | None = None,
    signs: Mapping[str, Sequence[int] | None] | None = None,
    batch: int | None = 8,
) -> dict[str, ExcitingPatches]:
    """:func:`exciting_patches` of several layers at the cost of one pass through the pictures.

    Args:
        wanted: layer name -> its units; None for all.
        signs: layer name -> signs of its units; layers left out have 1.
        batches, count, size, batch: see :func:`exciting_patches`.

    Raises:
        UserError: an unknown layer or unit, or no pictures.
    """
    if count < 1 or (size is not None and size < 1):
        raise ValueError(f"count and size are at least 1, not {count} and {size}")
    layers, signs = list(wanted), signs or {}
    searches: dict[str, _Search] = {}
    searched, shape = 0, None
    with explaining(model), torch.no_grad():
        for pictures in batches:
            images = ready(model, pictures)
            if not len(images):
                continue
            if shape not in (None, images.shape[1:]):
                raise ValueError(
                    f"pictures of two shapes: {tuple(shape)} and {tuple(images.shape[1:])}"
                )
            if not searches:
                shape = images.shape[1:]
                for layer in layers:
                    searches[layer] = _begun(
                        model, layer, wanted[layer], signs.get(layer), images[:1], count, size
                    )
            with record(model, layers, stop_at_last=True, example=images[:1]) as taps:
                for part in chunks(len(images), batch):
                    taps.run(images[part])
                    for layer, search in searches.items():
                        search.update(taps.channels_first(layer), images[part], searched)
                    searched += len(images[part])
    if not searched:
        raise UserError("no pictures to search for patches: give at least one")
    return {layer: search.found(searched) for layer, search in searches.items()}


def _begun(
    model: nn.Module, layer: str, units: Sequence[int] | None, signs: Sequence[int] | None,
    example: Tensor, count: int, size: int | None,
) -> _Search:  # fmt: skip
    """The search of one layer, its units checked and its field measured."""
    with record(model, [layer], stop_at_last=True, example=example) as taps:
        taps.run(example)
        units = checked_units(layer, units, taps.channels_first(layer).shape[1])
        field = _Field.of(taps, layer, example, size)
    return _Search(field, units, checked_signs(signs, units), count, example)
