"""How much of the picture one unit of a layer sees.

Shapes: ``C`` channels, ``H W`` height and width.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from convlens.explain.mode import explaining, ready
from convlens.explain.taps import Taps, record

_SMALLEST_CANVAS = 32


def receptive_field(model: nn.Module, layer: str, example: Tensor) -> tuple[int, int]:
    """Side of the receptive field of one unit of ``layer``, and the stride of its units, in pixels.

    Found by spoiling the picture, for any network, whatever its branches and functional calls:
    rows (and columns) of it are set to NaN from one side, and the unit turns NaN exactly if it sees
    one of them, because every operation hands NaN on. Bisection finds the first row that
    matters, on a canvas not much larger than the field: some forty forward passes of one picture.
    The larger of height and width counts.

    Args:
        layer: module path.
        example: ``(1, C, H, W)`` picture of the size the network takes; its values do not matter.

    Returns:
        ``(size, stride)``. ``size`` is at most the longer side of the picture: units that see all
        of it (dense layers, everything behind squeeze-and-excitation) get that, and so do deep
        layers whose field is cut off by the picture. ``stride`` is 0 for a layer without a map;
        where fields reach over both edges it cannot be measured and is the ratio of the sizes of
        picture and map.

    Raises:
        UserError: the layer does not exist or is never called, or it is not known which axes of
            its output are those of the picture (tokens, windows).
    """
    with explaining(model), torch.no_grad():
        example = ready(model, example[:1])
        with record(model, [layer], stop_at_last=True, example=example) as taps:
            probe = fitting_probe(taps, layer, example)
            return (max(example.shape[-2:]), 0) if probe is None else probe.measure()


def fitting_canvas(taps: Taps, layer: str, example: Tensor, minimum: int) -> tuple[int, int]:
    """``(h, w)`` of a canvas, at least ``minimum``, that holds a unit's receptive field.

    The first that fits of 32, 48, 64, 96, 128, … pixels, else the size of ``example``: at a
    fraction of the cost of :func:`receptive_field`.
    """
    probe = fitting_probe(taps, layer, example)
    canvas = probe.canvas if probe else tuple(example.shape[-2:])
    return tuple(min(max(minimum, c), e) for c, e in zip(canvas, example.shape[-2:], strict=True))


def fitting_probe(taps: Taps, layer: str, example: Tensor) -> Probe | None:
    """On the first canvas whose edges the middle unit does not see; None without a map."""
    taps.run(example)
    if taps.channels_first(layer).dim() != 4:
        return None
    full, side = tuple(example.shape[-2:]), _SMALLEST_CANVAS
    while side < max(full):
        probe = Probe.on(taps, layer, example[..., : min(side, full[0]), : min(side, full[1])])
        if probe is not None and not probe.sees_edge:
            return probe
        # 32, 48, 64, 96, 128, …: alternately by a half and by a third
        side = side * 3 // 2 if side & (side - 1) == 0 else side * 4 // 3
    return Probe(taps, layer, example)


@contextmanager
def _direct_convolutions():
    """No Winograd or FFT convolution, as cuDNN and NNPACK choose: they spread a NaN over tiles."""
    with ExitStack() as state:
        for backend in (torch.backends.nnpack, torch.backends.cudnn):
            state.enter_context(backend.flags(enabled=False))
        yield


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
        with _direct_convolutions():
            self.taps.run(pictures)
        return self.taps.channels_first(self.layer).isnan().any(1)

    @classmethod
    def on(cls, taps: Taps, layer: str, picture: Tensor) -> Probe | None:
        """None where the layer cannot be reached on so small a canvas or has fewer than 3 units."""
        try:
            probe = cls(taps, layer, picture)
        except (RuntimeError, ValueError, AssertionError, IndexError):
            return None
        return probe if min(probe.map) > 2 else None

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

    def measure(self) -> tuple[int, int]:
        top, bottom, left, right, before, last = self.first(
            [*self.edges, (2, 0, max(0, self.map[0] - 2)), (2, 0, self.map[0] - 1)]
        )
        height, width = self.canvas
        size = max(height + 2 - top - bottom, width + 2 - left - right, 0)
        # The last units' upper edges are the ones least likely to be cut off by the picture.
        ratio = max(1, round(height / self.map[0]))
        return size, (last - before if before > 1 else ratio)
