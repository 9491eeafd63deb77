"""3×3 convolutions of frozen layers by Winograd's algorithm, for the CPU and without gradients.

On a processor without AVX-512, training waits for the frozen VGG16. Its direct convolution already
runs at the speed of a matrix product, so only fewer multiplications make it faster. An output tile
of m×m values needs (m+2)² of them per pair of channels instead of 9m² (m = 5: 4.6 times fewer).
With matrices A, B, G of the numbers 0, ±1, ±2, ±½:

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A        d: input tile, g: kernel, Y: output tile

A. Lavin, S. Gray, *Fast Algorithms for Convolutional Neural Networks*, 2015,
https://arxiv.org/abs/1509.09308

Each step is one batched matrix product: Bᵀ and Aᵀ of a row of tiles form one matrix, which also
pads and crops at the edge. Sums have another order and larger terms than in a direct convolution;
the rounding error is about ten times as large, 1e-5 of the output's standard deviation.

Legend: ``B`` images, ``C K`` channels in and out, ``H W`` height and width, ``m`` edge of an
output tile, ``n = m + 2`` edge of an input tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

TILES = (3, 4, 5, 6)  # edges of output tiles; above 6 the rounding errors grow fast
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)  # all derived numbers are exact floats
ALIKE = 1.05  # smaller tiles are more accurate: used if they cost at most this much more
ROW = 4  # tiles along the edge of a block
LEAST_CHANNELS = 64 * 128  # C·K below which the transforms cost more than they save
LEAST_IMAGES = 5  # fewest images per thread; smaller batches use fewer threads
LEAST_TILES = 16  # in a batch, below which reading the transformed kernels costs more
TRANSFORMED = 64  # input channels whose kernels are transformed at a time
PIECE = 2  # images that the first layers, whose maps are the largest, process at a time


def conv3x3_winograd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    transformed: Tensor,
    *,
    relu: bool = False,
) -> Tensor:
    """Compute ``F.conv2d(x, weight, bias, padding=1)``, float32 on the CPU, without gradients.

    Args:
        x: (B, C, H, W), best in ``channels_last`` (otherwise it is copied).
        weight: (K, C, 3, 3).
        bias: (K,) or None.
        transformed: ``transform_weight(weight, choose_tile(H, W))``, kept by the caller:
            computing it takes longer than the convolution.
        relu: whether negative values become zero, which costs nothing here.

    Returns:
        (B, K, H, W) in ``channels_last``.
    """
    with torch.no_grad():
        count, _, height, width = x.shape
        m = choose_tile(height, width)
        source = x.permute(0, 2, 3, 1).contiguous()  # (B, H, W, C)
        result = source.new_empty(count, height, width, weight.shape[0])
        # few enough images at a time for the cache, but enough rows for a matrix product
        together = max(1, max(weight.shape[:2]) // 16)
        for first in range(0, count, together):
            part = slice(first, first + together)
            for rows in _divide(height, m):
                for columns in _divide(width, m):
                    _compute_block(
                        source[part], result[part], transformed, bias, relu, rows, columns, m
                    )
        return result.permute(0, 3, 1, 2)


def choose_tile(height: int, width: int) -> int:
    """Choose the edge m of output tiles that needs few multiplications for a map of this size.

    >>> choose_tile(37, 37), choose_tile(18, 18)
    (5, 6)
    """
    costs = {m: -(-height // m) * -(-width // m) * (m + 2) ** 2 for m in TILES}
    least = min(costs.values())
    return next(m for m in TILES if costs[m] <= least * ALIKE**2)


def is_worthwhile(x: Tensor, conv: nn.Conv2d) -> bool:
    """Return whether this algorithm applies to a layer and makes it faster."""
    if (
        conv.kernel_size != (3, 3)
        or conv.padding not in ((1, 1), "same")
        or conv.padding_mode != "zeros"
        or (conv.stride, conv.dilation, conv.groups) != ((1, 1), (1, 1), 1)
        or {x.dtype, conv.weight.dtype} != {torch.float32}
        or {x.device.type, conv.weight.device.type} != {"cpu"}
        or torch.is_autocast_enabled("cpu")
    ):
        return False
    m = choose_tile(*x.shape[2:])
    tiles = x.shape[0] * -(-x.shape[2] // m) * -(-x.shape[3] // m)
    return _has_enough_channels(conv) and tiles >= LEAST_TILES


def _has_enough_channels(conv: nn.Conv2d) -> bool:
    return conv.in_channels * conv.out_channels >= LEAST_CHANNELS


def transform_weight(weight: Tensor, m: int) -> Tensor:
    """Transform kernels (K, C, 3, 3) to G g Gᵀ as (n², C, K), which is n²/9 times as large."""
    g = _build_matrices(m)[1]
    matrix = torch.kron(g, g)  # (n², 9)
    result = weight.new_empty(len(matrix), weight.shape[1], weight.shape[0])
    # some input channels at a time: float64 takes twice the memory of the result
    for first in range(0, weight.shape[1], TRANSFORMED):
        part = slice(first, first + TRANSFORMED)
        kernels = weight.detach()[:, part].double().flatten(2).permute(2, 1, 0)  # (9, c, K)
        result[:, part] = (matrix @ kernels.flatten(1)).view(len(matrix), *kernels.shape[1:])
    return result


class FrozenChain:
    """Runs convolutions, ReLUs and poolings one after the other, without gradients.

    Not a module: it has no parameters, only transformed kernels, which it recomputes when the
    parameters change. For a whole VGG16 at 150×150 pixels it keeps about 0.4 GB.

    Each of torch's threads runs all layers on its part of the images. Dividing every small product
    between threads makes them wait for each other; on a busy machine that was five times slower.

    Args:
        layers: the layers in their order; each is called as it is unless it is a convolution that
            Winograd's algorithm makes faster. Layers that mix images are not allowed.

    Example:
        >>> block = nn.Sequential(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU())
        >>> FrozenChain(block)(torch.rand(8, 64, 20, 20)).shape
        torch.Size([8, 128, 20, 20])
    """

    def __init__(self, layers: nn.Sequential):
        self.layers = list(_flatten(layers))
        large = (
            number
            for number, layer in enumerate(self.layers)
            if isinstance(layer, nn.Conv2d) and _has_enough_channels(layer)
        )
        self._first = next(large, 0)  # the layers before it are direct, with the largest maps
        self._cache: dict[int, tuple[tuple, Tensor]] = {}
        self._lock = Lock()

    def __call__(self, x: Tensor) -> Tensor:
        """Run the layers on (B, C, H, W); the output is in ``channels_last``."""
        x = x.contiguous(memory_format=torch.channels_last)
        threads = torch.get_num_threads()
        parts = x.tensor_split(max(1, min(threads, len(x) // LEAST_IMAGES)))
        if len(parts) < 2 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return self._run(x)
        # MKL has one thread count for all of our threads: it must be 1 while they work
        torch.set_num_threads(1)
        try:
            parts = list(_get_workers(threads).map(self._run, parts))
        finally:
            torch.set_num_threads(threads)
        return torch.cat(parts)

    @torch.no_grad()
    def _run(self, x: Tensor) -> Tensor:
        if self._first:  # nothing but the last map of a few images is kept
            x = torch.cat([self._run_first(piece) for piece in x.split(PIECE)])
        layers = enumerate(self.layers[self._first :], self._first)
        for number, layer in layers:
            if not isinstance(layer, nn.Conv2d) or not is_worthwhile(x, layer):
                x = layer(x)
                continue
            following = self.layers[number + 1 : number + 2]
            relu = bool(following) and isinstance(following[0], nn.ReLU)
            if relu:  # computed with the convolution before it
                next(layers)
            kernels = self._get_kernels(number, layer, choose_tile(*x.shape[2:]))
            x = conv3x3_winograd(x, layer.weight, layer.bias, kernels, relu=relu)
        return x

    def _run_first(self, x: Tensor) -> Tensor:
        for layer in self.layers[: self._first]:
            x = layer(x)
        return x

    def _get_kernels(self, number: int, conv: nn.Conv2d, m: int) -> Tensor:
        weight = conv.weight
        state = (m, weight.data_ptr(), weight._version)
        with self._lock:  # one thread transforms, the others wait for it
            if number not in self._cache or self._cache[number][0] != state:
                self._cache[number] = state, transform_weight(weight, m)
            return self._cache[number][1]


def _flatten(layers: nn.Sequential) -> Iterator[nn.Module]:
    """Yield the layers of nested sequences, one after the other."""
    for layer in layers:
        yield from _flatten(layer) if isinstance(layer, nn.Sequential) else (layer,)


@cache
def _get_workers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="winograd")


# --------------------------------------------------------------------- one block of tiles


def _compute_block(source, result, kernels, bias, relu, rows, columns, m) -> None:
    """Fill one rectangle of ``result`` (B, H, W, K); ``rows`` and ``columns`` define it."""
    vertical = _build_strip(source.shape[1], *rows, m)
    horizontal = _build_strip(source.shape[2], *columns, m)
    count, channels, outputs, n = len(source), source.shape[3], kernels.shape[2], m + 2
    down, along = rows[1], columns[1]  # tiles

    part = source[:, vertical.reads, horizontal.reads]  # (B, h, w, C)
    height, width = part.shape[1:3]
    strides = (source.stride(0), source.stride(1), 1)
    part = part.as_strided((count, height, width * channels), strides)
    # Bᵀ d: (B, n·down, w·C); then (Bᵀ d) B: (B·n·down, n·along, C)
    values = torch.bmm(vertical.inwards.expand(count, -1, -1), part)
    values = values.view(count * n * down, width, channels)
    values = torch.bmm(horizontal.inwards.expand(len(values), -1, -1), values)
    values = values.view(count, n, down, n, along, channels).permute(1, 3, 0, 2, 4, 5)
    values = values.reshape(n * n, count * down * along, channels)

    values = torch.bmm(values, kernels)  # (n², tiles, K)
    if bias is not None:
        values[n + 1].add_(bias)  # the point (1, 1) goes into every output with factor 1

    values = values.view(n, n, count, down, along, outputs).permute(2, 0, 3, 1, 4, 5)
    values = values.reshape(count * n * down, n * along, outputs)
    values = torch.bmm(horizontal.outwards.expand(len(values), -1, -1), values)
    values = values.view(count, n * down, -1)
    values = torch.bmm(vertical.outwards.expand(count, -1, -1), values)
    target = result[:, vertical.writes, horizontal.writes]
    values = values.view(target.shape)
    if relu:
        torch.clamp_min(values, 0, out=target)
    else:
        target.copy_(values)


class _Strip(NamedTuple):
    """What a row of tiles reads and writes along one axis, and its two matrices.

    Attributes:
        reads: range of the input.
        writes: range of the output.
        inwards: (n·tiles, input values), Bᵀ for each tile, without the padding.
        outwards: (output values, n·tiles), Aᵀ for each tile, without values past the edge.
    """

    reads: slice
    writes: slice
    inwards: Tensor
    outwards: Tensor


def _divide(size: int, m: int) -> list[tuple[int, int]]:
    """Divide the tiles along ``size`` values into rows of about ``ROW``: (first tile, tiles)."""
    tiles = -(-size // m)
    edges = [round(tiles * i / -(-tiles // ROW)) for i in range(-(-tiles // ROW) + 1)]
    return [(first, end - first) for first, end in pairwise(edges)]


@cache
def _build_strip(size: int, first: int, tiles: int, m: int) -> _Strip:
    n, start = m + 2, first * m
    a, _, b = _build_matrices(m)
    inwards = torch.zeros(n, tiles, tiles * m + 2, dtype=torch.float64)
    outwards = torch.zeros(tiles * m, n, tiles, dtype=torch.float64)
    for tile in range(tiles):
        inwards[:, tile, tile * m : tile * m + n] = b
        outwards[tile * m : (tile + 1) * m, :, tile] = a
    # a row of tiles reads one value before the first that it writes, and one after the last
    reads = slice(max(0, start - 1), min(size, start + tiles * m + 1))
    writes = slice(start, min(size, start + tiles * m))
    return _Strip(
        reads,
        writes,
        inwards[:, :, reads.start - start + 1 : reads.stop - start + 1].flatten(0, 1).float(),
        outwards[: writes.stop - start].flatten(1).float(),
    )


@cache
def _build_matrices(m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return Aᵀ (m, n), G (n, 3) and Bᵀ (n, n) in float64, after Cook and Toom.

    The points are the first n-1 of ``POINTS`` and infinity.
    """
    points = POINTS[: m + 1]
    a = [[p**power for p in points] + [int(power == m - 1)] for power in range(m)]
    g, b = [], []
    for point in points:
        others = [p for p in points if p != point]
        scale = math.prod(point - p for p in others)
        g.append([point**power / scale for power in range(3)])
        b.append([*np.poly(others)[::-1], 0])  # coefficients of the product of all (x - other)
    g.append([0, 0, 1])
    b.append(np.poly(points)[::-1])
    return tuple(torch.tensor(np.array(rows), dtype=torch.float64) for rows in (a, g, b))
