"""A kernel slid over a picture, as a convolution does it, in numbers that can be followed by hand.

Legend: ``C`` channels, ``H W`` the picture's edges, ``kh kw`` the kernel's, ``h w`` the output's.
Everything is computed in float64, in the picture's own unit: with pixels from 0 to 255 and whole
weights, every number is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

from convlens.core.errors import UserError, nearest

Padding = int | Literal["same"]

POOLINGS = {"max": functional.max_pool2d, "average": functional.avg_pool2d}


def pad_widths(kernel: int, padding: Padding) -> tuple[int, int]:
    """Zeros (before, after) the picture along an edge, for a kernel of ``kernel`` pixels.

    ``same`` adds ``kernel - 1`` in all, so that at stride 1 the output is as large as the picture;
    an even kernel has one more of them after than before, as in PyTorch.

    >>> pad_widths(3, 1), pad_widths(3, "same"), pad_widths(4, "same")
    ((1, 1), (1, 1), (1, 2))
    """
    if padding == "same":
        return (kernel - 1) // 2, kernel // 2
    return padding, padding


def output_size(size: int, kernel: int, stride: int = 1, padding: Padding = 0) -> int:
    """Places of a kernel along an edge: ``floor((n + 2p - k) / s) + 1``.

    Args:
        size: n, pixels of the picture along this edge.
        kernel: k, pixels of the kernel along it.
        stride: s, pixels from one place to the next.
        padding: p, zeros at either end, or ``same`` (see :func:`pad_widths`).

    Raises:
        UserError: the kernel is larger than the padded picture.

    >>> output_size(150, 3), output_size(150, 3, stride=2), output_size(150, 3, padding="same")
    (148, 74, 150)
    """
    room = size + sum(pad_widths(kernel, padding))
    if kernel > room:
        enough = math.ceil((kernel - size) / 2)
        raise UserError(
            f"the kernel is larger than the padded picture: {kernel} pixels on {room} "
            f"(padding={padding}); take padding={enough} or more, a smaller kernel, or a larger "
            f"picture"
        )
    return (room - kernel) // stride + 1


def size_formula(size: int, kernel: int, stride: int = 1, padding: Padding = 0) -> str:
    """:func:`output_size` written out; half brackets (floor) where the division leaves a rest.

    >>> size_formula(150, 3)
    '(150 + 2·0 − 3)/1 + 1 = 148'
    """
    result = output_size(size, kernel, stride, padding)
    before, after = pad_widths(kernel, padding)
    zeros = f"2·{before}" if before == after else f"{before} + {after}"
    quotient = f"({size} + {zeros} − {kernel})/{stride}"
    if (size + before + after - kernel) % stride:
        quotient = f"⌊{quotient}⌋"
    return f"{quotient} + 1 = {result}"


@dataclass(frozen=True)
class KernelOutput:
    """What a kernel answers at each of its places.

    Attributes:
        maps: ``(C, h, w)`` float64, each channel by itself.
        total: ``(h, w)``, their sum: what a convolution with this kernel for every channel, and no
            bias, hands on.
        padding: zeros ((above, below), (left, right)).
    """

    maps: Tensor
    total: Tensor
    padding: tuple[tuple[int, int], tuple[int, int]]


def slide(picture: Tensor, kernel: Tensor, stride: int = 1, padding: Padding = 0) -> KernelOutput:
    """The kernel's answer at each place, channel by channel.

    A cross-correlation, which networks call convolution: the kernel is not turned round. At place
    (r, c) the answer is ``sum over i, j of kernel[i, j] · picture[r·s + i - p, c·s + j - p]``, with
    zeros outside the picture.

    Args:
        picture: ``(C, H, W)``, any number of channels and any unit.
        kernel: ``(kh, kw)``.
        stride: pixels from one place to the next, down and along.
        padding: zeros at each of the four edges, or ``same``.

    Raises:
        UserError: as :func:`output_size`.
    """
    for size, edge in zip(picture.shape[1:], kernel.shape, strict=True):
        output_size(size, edge, stride, padding)
    down, along = (pad_widths(edge, padding) for edge in kernel.shape)
    padded = functional.pad(picture.double(), (*along, *down))
    # the channels stand where conv2d has the pictures of a batch: (C, 1, H, W) -> (C, 1, h, w)
    maps = functional.conv2d(padded[:, None], kernel.double()[None, None], stride=stride)[:, 0]
    return KernelOutput(maps, maps.sum(0), (down, along))


def pool(maps: Tensor, kind: str, window: int) -> Tensor:
    """The largest value, or the mean, of each window of the maps, one window beside the other.

    Args:
        maps: ``(C, h, w)`` or ``(h, w)``.
        kind: one of :data:`POOLINGS`.
        window: its edge in pixels.

    Returns:
        ``(…, h', w')`` with ``h' = floor(h / window)``: what does not fill a window at the lower
        and right edge is left out.

    Raises:
        UserError: an unknown kind, or a window larger than the maps.
    """
    if kind not in POOLINGS:
        raise UserError(f"pooling={kind}: no such pooling; {nearest(kind, ('none', *POOLINGS))}")
    height, width = maps.shape[-2:]
    if window > min(height, width):
        raise UserError(
            f"pool_size={window}: the map to be pooled has only {height}×{width} places; "
            f"take at most {min(height, width)}"
        )
    return POOLINGS[kind](maps[None], window)[0]


def find_strongest(map: Tensor) -> tuple[int, int]:
    """Row and column of the largest magnitude of a map ``(h, w)``; of equals the first."""
    place = int(map.abs().argmax())
    return place // map.shape[1], place % map.shape[1]
