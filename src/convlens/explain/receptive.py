"""Where on the picture a unit of a layer looks, and how much of it it sees.

Found by spoiling the picture, for any network, whatever its branches and functional calls: rows
(and columns) of it are set to NaN from one side, and the unit turns NaN exactly if it sees one of
them, because every operation hands NaN on. Bisection finds the first row that matters, on a canvas
not much larger than the field: some forty forward passes of one picture.

Shapes: ``C`` channels, ``H W`` height and width.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from convlens.explain.taps import Taps

_SMALLEST_CANVAS = 32


@dataclass(frozen=True)
class Field:
    """Where on the picture the field of unit (0, 0) begins, its size, and from unit to unit.

    All ``(rows, columns)`` in pixels. ``size`` is None for units that see the whole picture (dense
    layers, everything behind squeeze-and-excitation), and where it cannot be measured.
    """

    first: tuple[int, int] = (0, 0)
    size: tuple[int, int] | None = None
    stride: tuple[int, int] = (0, 0)

    @classmethod
    def measure(cls, taps: Taps, layer: str, example: Tensor) -> Field:
        """That of a layer of ``taps``, on pictures like ``example`` ``(1, C, H, W)``."""
        probe = find_probe(taps, layer, example)
        field = cls._measured(probe)
        smaller = field.size and probe.canvas != tuple(example.shape[-2:])
        if smaller and not field._holds(probe, example):
            # padding that depends on the picture's size (TensorFlow's) moves the fields
            return cls._measured(Probe(taps, layer, example))
        return field

    @classmethod
    def _measured(cls, probe: Probe | None) -> Field:
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
        row, column = (
            max(0, (side - size) // 2 - first) // stride
            for side, size, first, stride in zip(
                example.shape[-2:], self.size, self.first, self.stride, strict=True
            )
        )
        top, left = row * self.stride[0] + self.first[0], column * self.stride[1] + self.first[1]
        bottom, right = top + self.size[0], left + self.size[1]
        rows, columns = slice(top, bottom), slice(left, right)
        pictures = torch.zeros_like(example).repeat(5, 1, 1, 1)
        pictures[0, :, top : top + 1, columns] = torch.nan
        pictures[1, :, bottom - 1 : bottom, columns] = torch.nan
        pictures[2, :, rows, left : left + 1] = torch.nan
        pictures[3, :, rows, right - 1 : right] = torch.nan
        pictures[4] = torch.nan
        pictures[4, :, rows, columns] = 0
        return probe.spoilt(pictures)[:, row, column].tolist() == [True] * 4 + [False]

    def find_boxes(self, places: Tensor, width: int, picture: tuple[int, int]) -> Tensor:
        """``(…, 4)`` top, left, bottom, right of units at flat ``places`` of maps so wide."""
        if self.size is None:
            whole = torch.tensor([0, 0, *picture], device=places.device)
            return whole.expand(*places.shape, 4).clone()
        top = places // width * self.stride[0] + self.first[0]
        left = places % width * self.stride[1] + self.first[1]
        return torch.stack([top, left, top + self.size[0], left + self.size[1]], -1)


def find_probe(taps: Taps, layer: str, example: Tensor) -> Probe | None:
    """On the first canvas whose edges the middle unit does not see; None without a map.

    The first that fits of 32, 48, 64, 96, 128, … pixels, else the size of ``example``: at a
    fraction of the cost of measuring a :class:`Field`.
    """
    taps.run(example)
    if taps.channels_first(layer).dim() != 4:
        return None
    side = _SMALLEST_CANVAS
    while side < max(example.shape[-2:]):
        # the layer may not be reached on so small a canvas
        with suppress(RuntimeError, ValueError, AssertionError, IndexError):
            probe = Probe(taps, layer, example[..., :side, :side])
            if min(probe.map) > 2 and not probe.sees_edge:
                return probe
        # alternately by a half and by a third
        side = side * 3 // 2 if side & (side - 1) == 0 else side * 4 // 3
    return Probe(taps, layer, example)


class Probe:
    """Units of one layer on one canvas, and the picture rows that reach them.

    A query is ``(axis, side, unit)``: rows (2) or columns (3) of the picture, counted from the
    first (0) or the last (1), and the number of the unit along that axis.
    """

    def __init__(self, taps: Taps, layer: str, picture: Tensor):
        self.taps, self.layer = taps, layer
        self.picture = torch.zeros_like(picture)
        self.canvas = tuple(picture.shape[-2:])
        framed = torch.full_like(picture, float("nan"))
        framed[..., 1:-1, 1:-1] = 0
        spoilt = self.spoilt(framed)[0]
        self.map = tuple(spoilt.shape)
        middle = [side // 2 for side in self.map]
        self.sees_edge = bool(spoilt[middle[0], middle[1]])
        self.edges = [(axis, side, middle[axis - 2]) for axis in (2, 3) for side in (0, 1)]

    def spoilt(self, pictures: Tensor) -> Tensor:
        """``(N, h, w)``: which units turn NaN."""
        # no Winograd or FFT convolution, as cuDNN and NNPACK choose: they spread a NaN over tiles
        with torch.backends.nnpack.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
            self.taps.run(pictures)
        return self.taps.channels_first(self.layer).isnan().any(1)

    def reached(self, queries: list[tuple[int, int, int]], counts: list[int]) -> list[bool]:
        """Whether spoiling the first (or last) ``count`` rows reaches each query's unit."""
        pictures = self.picture.repeat(len(queries), 1, 1, 1)
        for picture, (axis, side, _), count in zip(pictures, queries, counts, strict=True):
            start = 0 if side == 0 else picture.shape[axis - 1] - count
            picture.narrow(axis - 1, start, count).fill_(float("nan"))
        spoilt = self.spoilt(pictures)
        other = [side // 2 for side in self.map]
        return [
            bool(spoilt[i, unit, other[1]] if axis == 2 else spoilt[i, other[0], unit])
            for i, (axis, _, unit) in enumerate(queries)
        ]

    def first(self, queries: list[tuple[int, int, int]]) -> list[int]:
        """For each query the smallest count that reaches its unit, by bisection."""
        low, high = [1] * len(queries), [self.picture.shape[axis] for axis, _, _ in queries]
        while unsettled := [i for i in range(len(queries)) if low[i] < high[i]]:
            middle = [(low[i] + high[i]) // 2 for i in unsettled]
            hits = self.reached([queries[i] for i in unsettled], middle)
            for i, count, hit in zip(unsettled, middle, hits, strict=True):
                low[i], high[i] = (low[i], count) if hit else (count + 1, high[i])
        return high
