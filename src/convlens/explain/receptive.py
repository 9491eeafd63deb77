"""Measure the receptive fields of a layer's units on the image.

The measurement works for any network, including branches and functional calls. Rows (or columns)
of the image are set to NaN from one side. A unit becomes NaN if and only if it sees one of them,
because every operation propagates NaN. Bisection finds the first row that matters, on a canvas not
much larger than the field. This takes about forty forward passes of one image.

Shapes: ``C`` channels, ``H W`` height and width, ``N`` images, ``h w`` height and width of the
layer's maps.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from convlens.explain.mode import image_size
from convlens.explain.taps import Taps

_SMALLEST_CANVAS = 32


@dataclass(frozen=True)
class Field:
    """The receptive fields of a layer's units, as ``(rows, columns)`` in pixels.

    Attributes:
        first: upper left pixel of the field of unit (0, 0).
        size: size of each field; None for units that see the whole image (dense layers, all layers
            after squeeze-and-excitation), and for fields that cannot be measured.
        stride: distance between the fields of neighbouring units.
    """

    first: tuple[int, int] = (0, 0)
    size: tuple[int, int] | None = None
    stride: tuple[int, int] = (0, 0)

    @classmethod
    def measure(cls, taps: Taps, layer: str, example: Tensor) -> Field:
        """Measure the fields of a layer.

        Args:
            taps: taps of the layer.
            layer: name of the layer.
            example: ``(1, C, H, W)`` image of the size for which the fields are measured.
        """
        probe = find_probe(taps, layer, example)
        if probe is None:
            return cls()
        field = cls._from_probe(probe)
        is_smaller = field.size is not None and probe.canvas != image_size(example)
        if is_smaller and not field._is_valid_for(probe, example):
            # padding that depends on the size of the image (as in TensorFlow) moves the fields
            return cls._from_probe(Probe(taps, layer, example))
        return field

    @classmethod
    def _from_probe(cls, probe: Probe) -> Field:
        if probe.sees_edge or min(probe.map) < 3:
            return cls()
        # how many NaN rows and columns reach the middle unit from each side, and the next
        # unit from the first side
        middle = [side // 2 for side in probe.map]
        counts = probe.find_first(
            [*probe.edges, *[(axis, 0, middle[axis - 2] + 1) for axis in (2, 3)]],
        )
        starts, ends, next_starts = counts[0:4:2], counts[1:4:2], counts[4:]
        down, across = (n - s for n, s in zip(next_starts, starts, strict=True))
        stride = (down, across)
        if 0 in stride:
            return cls()  # an upsampled map: several units share a field
        height, width = (c + 2 - s - e for c, s, e in zip(probe.canvas, starts, ends, strict=True))
        top, left = (s - 1 - m * d for s, m, d in zip(starts, middle, stride, strict=True))
        return cls((top, left), (height, width), stride)

    def _is_valid_for(self, probe: Probe, example: Tensor) -> bool:
        """Return whether a unit in the middle of ``example`` sees exactly its field.

        It must see all four edges of the field, and nothing outside of it.
        """
        assert self.size is not None, "only a measured field has a box"
        row, column = (
            max(0, (side - size) // 2 - first) // stride
            for side, size, first, stride in zip(
                example.shape[-2:], self.size, self.first, self.stride, strict=True
            )
        )
        top, left = row * self.stride[0] + self.first[0], column * self.stride[1] + self.first[1]
        bottom, right = top + self.size[0], left + self.size[1]
        rows, columns = slice(top, bottom), slice(left, right)
        images = torch.zeros_like(example).repeat(5, 1, 1, 1)
        images[0, :, top : top + 1, columns] = torch.nan
        images[1, :, bottom - 1 : bottom, columns] = torch.nan
        images[2, :, rows, left : left + 1] = torch.nan
        images[3, :, rows, right - 1 : right] = torch.nan
        images[4] = torch.nan
        images[4, :, rows, columns] = 0
        return probe.find_nan_units(images)[:, row, column].tolist() == [True] * 4 + [False]

    def find_boxes(self, indices: Tensor, width: int, image_size: tuple[int, int]) -> Tensor:
        """Return the fields of units as ``(…, 4)`` top, left, bottom, right.

        Args:
            indices: flat indices of the units in a map.
            width: width of the map.
            image_size: ``(H, W)``, the box of units that see the whole image.
        """
        if self.size is None:
            whole = torch.tensor([0, 0, *image_size], device=indices.device)
            return whole.expand(*indices.shape, 4).clone()
        top = indices // width * self.stride[0] + self.first[0]
        left = indices % width * self.stride[1] + self.first[1]
        return torch.stack([top, left, top + self.size[0], left + self.size[1]], -1)


def find_probe(taps: Taps, layer: str, example: Tensor) -> Probe | None:
    """Return a probe on the smallest canvas whose edges the middle unit does not see.

    The canvas is 32, 48, 64, 96, 128, … pixels wide, or else has the size of ``example``. This
    costs a fraction of measuring a ``Field``.

    Args:
        taps: taps of the layer.
        layer: name of the layer.
        example: ``(1, C, H, W)`` image of the full size.

    Returns:
        The probe; None if the layer does not return maps.
    """
    taps.run(example)
    if taps.channels_first(layer).dim() != 4:
        return None
    side = _SMALLEST_CANVAS
    while side < max(example.shape[-2:]):
        # earlier layers may fail on such a small canvas
        with suppress(RuntimeError, ValueError, AssertionError, IndexError):
            probe = Probe(taps, layer, example[..., :side, :side])
            if min(probe.map) > 2 and not probe.sees_edge:
                return probe
        # the factors 3/2 and 4/3 alternate
        side = side * 3 // 2 if side & (side - 1) == 0 else side * 4 // 3
    return Probe(taps, layer, example)


class Probe:
    """Finds which rows and columns of a canvas reach the units of one layer.

    A query is ``(axis, side, unit)``: rows (2) or columns (3) of the canvas, counted from the first
    (0) or the last (1), and the index of the unit along that axis.

    Args:
        taps: taps of the layer.
        layer: name of the layer.
        example: ``(1, C, H, W)`` image of the size of the canvas.

    Attributes:
        taps: taps of the layer.
        layer: name of the layer.
        image: ``(1, C, H, W)`` black image.
        canvas: size ``(H, W)``.
        map: size ``(h, w)`` of the layer's maps.
        sees_edge: whether the middle unit sees the edge of the canvas.
        edges: queries for the middle unit, from all four sides.
    """

    def __init__(self, taps: Taps, layer: str, example: Tensor):
        self.taps, self.layer = taps, layer
        self.image = torch.zeros_like(example)
        self.canvas = image_size(example)
        frame = torch.full_like(example, float("nan"))
        frame[..., 1:-1, 1:-1] = 0
        is_nan = self.find_nan_units(frame)[0]
        self.map = tuple(is_nan.shape)
        middle = [side // 2 for side in self.map]
        self.sees_edge = bool(is_nan[middle[0], middle[1]])
        self.edges = [(axis, side, middle[axis - 2]) for axis in (2, 3) for side in (0, 1)]

    def find_nan_units(self, images: Tensor) -> Tensor:
        """Return ``(N, h, w)`` bool: the units that are NaN for each image."""
        # cuDNN and NNPACK may choose Winograd or FFT convolutions, which spread a NaN over tiles
        with torch.backends.nnpack.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
            self.taps.run(images)
        return self.taps.channels_first(self.layer).isnan().any(1)

    def reach(self, queries: list[tuple[int, int, int]], counts: list[int]) -> list[bool]:
        """Return for each query whether its first (or last) ``count`` rows reach its unit."""
        images = self.image.repeat(len(queries), 1, 1, 1)
        for image, (axis, side, _), count in zip(images, queries, counts, strict=True):
            start = 0 if side == 0 else image.shape[axis - 1] - count
            image.narrow(axis - 1, start, count).fill_(float("nan"))
        is_nan = self.find_nan_units(images)
        middle = [side // 2 for side in self.map]
        return [
            bool(is_nan[i, unit, middle[1]] if axis == 2 else is_nan[i, middle[0], unit])
            for i, (axis, _, unit) in enumerate(queries)
        ]

    def find_first(self, queries: list[tuple[int, int, int]]) -> list[int]:
        """Return for each query the smallest count that reaches its unit, by bisection."""
        low, high = [1] * len(queries), [self.image.shape[axis] for axis, _, _ in queries]
        while unsettled := [i for i in range(len(queries)) if low[i] < high[i]]:
            middle = [(low[i] + high[i]) // 2 for i in unsettled]
            hits = self.reach([queries[i] for i in unsettled], middle)
            for i, count, hit in zip(unsettled, middle, hits, strict=True):
                low[i], high[i] = (low[i], count) if hit else (count + 1, high[i])
        return high
