"""Slide a kernel over an image as a convolution does, in numbers that can be checked by hand.

Legend: ``C`` channels, ``H W`` height and width of the image, ``kh kw`` those of the kernel,
``h w`` those of the output.

Everything is computed in float64, in the image's own unit: with pixels from 0 to 255 and integer
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


def _min_pool(maps: Tensor, window: int) -> Tensor:
    return -functional.max_pool2d(-maps, window)


POOLINGS = {"max": functional.max_pool2d, "average": functional.avg_pool2d, "min": _min_pool}


def compute_pad_widths(kernel: int, padding: Padding) -> tuple[int, int]:
    """Return how many zeros are added before and after the image along one axis.

    ``same`` adds ``kernel - 1`` zeros in total, so that at stride 1 the output is as large as the
    image. For an even kernel, the odd zero goes after the image, as in PyTorch.

    Args:
        kernel: Size of the kernel along this axis, in pixels.
        padding: Pixels of zeros at each end, or ``same``.

    >>> compute_pad_widths(3, 1), compute_pad_widths(3, "same"), compute_pad_widths(4, "same")
    ((1, 1), (1, 1), (1, 2))
    """
    if padding == "same":
        return (kernel - 1) // 2, kernel // 2
    return padding, padding


def compute_output_size(size: int, kernel: int, stride: int = 1, padding: Padding = 0) -> int:
    """Return the size of the output along one axis, ``floor((n + 2p - k) / s) + 1``.

    Args:
        size: n, size of the image in pixels.
        kernel: k, size of the kernel in pixels.
        stride: s, pixels from one place to the next.
        padding: p, pixels of zeros at each end, or ``same``.

    Raises:
        UserError: The kernel is larger than the padded image.

    >>> compute_output_size(150, 3), compute_output_size(150, 3, stride=2)
    (148, 74)
    >>> compute_output_size(150, 3, padding="same")
    150
    """
    padded_size = size + sum(compute_pad_widths(kernel, padding))
    if kernel > padded_size:
        enough = math.ceil((kernel - size) / 2)
        raise UserError(
            f"the kernel is larger than the padded image: {kernel} pixels on {padded_size} "
            f"(padding={padding}); try padding={enough} or more, a smaller kernel or a larger image"
        )
    return (padded_size - kernel) // stride + 1


def format_output_size(size: int, kernel: int, stride: int = 1, padding: Padding = 0) -> str:
    """Write the formula of the output size with its numbers.

    Half brackets (floor) appear only if the division has a remainder.

    >>> format_output_size(150, 3)
    '(150 + 2·0 − 3)/1 + 1 = 148'
    """
    result = compute_output_size(size, kernel, stride, padding)
    before, after = compute_pad_widths(kernel, padding)
    zeros = f"2·{before}" if before == after else f"{before} + {after}"
    quotient = f"({size} + {zeros} − {kernel})/{stride}"
    if (size + before + after - kernel) % stride:
        quotient = f"⌊{quotient}⌋"
    return f"{quotient} + 1 = {result}"


@dataclass(frozen=True)
class KernelOutput:
    """The output of a kernel at all places.

    Attributes:
        maps: ``(C, h, w)`` float64, the output for each channel.
        total: ``(h, w)``, the sum of the maps: the output of a convolution without bias.
        padding: Pixels of zeros, ((above, below), (left, right)).
    """

    maps: Tensor
    total: Tensor
    padding: tuple[tuple[int, int], tuple[int, int]]


def expand_kernel(kernel: Tensor, channels: int) -> Tensor:
    """Return one kernel for each channel, float64 ``(C, kh, kw)``.

    Args:
        kernel: ``(kh, kw)``, the same for each channel, or ``(C, kh, kw)``, one for each.
        channels: C.

    Raises:
        UserError: There are more or fewer kernels than channels.
    """
    if kernel.ndim == 3 and len(kernel) != channels:
        raise UserError(
            f"kernel= has {len(kernel)} kernels, one per channel, but the image's number of "
            f"channels is {channels}; give one kernel, such as kernel=[[1,0,-1]]"
        )
    return kernel.double().expand(channels, *kernel.shape[-2:])


def slide(image: Tensor, kernel: Tensor, stride: int = 1, padding: Padding = 0) -> KernelOutput:
    """Slide the kernel, or one for each channel, over the channels of the image.

    This is a cross-correlation, which networks call convolution: the kernel is not flipped. The
    output at place (r, c) is ``sum over i, j of kernel[i, j] · image[r·s + i - p, c·s + j - p]``,
    with zeros outside the image.

    Args:
        image: ``(C, H, W)``, any number of channels and any unit.
        kernel: ``(kh, kw)``, the same for each channel, or ``(C, kh, kw)``, one for each.
        stride: Pixels from one place to the next, down and across.
        padding: Pixels of zeros at each of the four edges, or ``same``.

    Raises:
        UserError: The kernel is larger than the padded image, or there are more or fewer kernels
            than channels.
    """
    kernels = expand_kernel(kernel, len(image))
    edges = kernels.shape[1:]
    for size, edge in zip(image.shape[1:], edges, strict=True):
        compute_output_size(size, edge, stride, padding)
    down, along = (compute_pad_widths(edge, padding) for edge in edges)
    padded = functional.pad(image.double(), (*along, *down))
    # one group per channel, so that each channel has its own kernel: (1, C, H, W) -> (1, C, h, w)
    maps = functional.conv2d(padded[None], kernels[:, None], stride=stride, groups=len(kernels))[0]
    return KernelOutput(maps, maps.sum(0), (down, along))


def pool(maps: Tensor, kind: str, window: int) -> Tensor:
    """Return the maximum, mean or minimum of each window of the maps; windows do not overlap.

    Args:
        maps: ``(C, h, w)`` or ``(h, w)``.
        kind: ``max``, ``average`` or ``min``.
        window: Edge of a window in pixels.

    Returns:
        ``(…, h', w')`` with ``h' = floor(h / window)``. Rows and columns at the lower and right
        edge that do not fill a window are dropped.

    Raises:
        UserError: The kind is unknown, or the window is larger than the maps.
    """
    if kind not in POOLINGS:
        raise UserError(f"pooling={kind}: no such pooling; {nearest(kind, ('none', *POOLINGS))}")
    height, width = maps.shape[-2:]
    if window > min(height, width):
        raise UserError(
            f"pool_size={window}: the map to pool has only {height}×{width} pixels; "
            f"try pool_size={min(height, width)} or less"
        )
    return POOLINGS[kind](maps[None], window)[0]


def find_strongest(map: Tensor) -> tuple[int, int]:
    """Return row and column of the largest magnitude of a map ``(h, w)``; the first if tied."""
    place = int(map.abs().argmax())
    return place // map.shape[1], place % map.shape[1]
