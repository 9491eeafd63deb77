"""A kernel slid over a picture, as a convolution does it, in numbers that can be followed by hand.

Legend: ``C`` channels, ``H W`` the picture's edges, ``kh kw`` the kernel's, ``h w`` the output's.
Everything is computed in float64, in the picture's own unit: with pixels from 0 to 255 and whole
weights, every number is exact.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from convlens.core.errors import UserError, nearest

Padding = int | Literal["same"]

POOLINGS = ("none", "max", "average")
LARGEST_WEIGHT = 1e6  # beyond it products of pixels and weights are no numbers to read
_ROW = r"\[[^\[\]]+\]"
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601: the shares of red, green and blue, as in decoding


@dataclass(frozen=True)
class Kernel:
    """The weights that are slid over a picture.

    Attributes:
        name: what it is called; "own" for weights given as numbers.
        values: ``(kh, kw)`` float64.
        answers_to: what gives it a large answer; "" for weights given as numbers.
    """

    name: str
    values: Tensor
    answers_to: str = ""


def _named(name: str, rows: list[list[float]], answers_to: str, divisor: int = 1) -> Kernel:
    return Kernel(name, torch.tensor(rows, dtype=torch.float64) / divisor, answers_to)


KERNELS = {
    kernel.name: kernel
    for kernel in (
        _named(
            "vertical_edge",
            [[1, 0, -1], [1, 0, -1], [1, 0, -1]],
            "edges that run up and down: above 0 where the left is brighter than the right",
        ),
        _named(
            "horizontal_edge",
            [[1, 1, 1], [0, 0, 0], [-1, -1, -1]],
            "edges that run from side to side: above 0 where it is brighter above than below",
        ),
        _named(
            "sharpen",
            [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
            "the pixel itself, and more so the more it differs from its four neighbours",
        ),
        _named(
            "blur",
            [[1, 1, 1], [1, 1, 1], [1, 1, 1]],
            "the mean of a pixel and its eight neighbours: brightness, without fine detail",
            divisor=9,
        ),
        _named(
            "emboss",
            [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]],
            "what grows brighter towards the lower right: a relief lit from the upper left",
        ),
    )
}


def kernel_of(text: str) -> Kernel:
    """The kernel a person means: a name of :data:`KERNELS`, or rows of numbers.

    A row is ``[1,0,-1]`` and a kernel ``[[1,0,-1],[1,0,-1]]``; one row alone is a kernel, too, and
    a weight may be a fraction such as ``1/9``. Any number of rows and columns is taken.

    Raises:
        UserError: an unknown name, rows of different lengths, or a weight that is no number or
            beyond :data:`LARGEST_WEIGHT`.

    >>> kernel_of("[[1,0],[1/2,-1]]").values.tolist()
    [[1.0, 0.0], [0.5, -1.0]]
    """
    plain = "".join(text.split())
    if plain in KERNELS:
        return KERNELS[plain]
    if not plain.startswith("["):
        raise UserError(
            f"kernel={text}: no such kernel; {nearest(plain, KERNELS)} "
            f"Or give numbers: kernel=[[1,0,-1],[1,0,-1],[1,0,-1]]"
        )
    if not re.fullmatch(rf"\[{_ROW}(,{_ROW})*\]|{_ROW}", plain):
        raise UserError(
            f"kernel={text}: rows of numbers in brackets are expected, such as "
            f"kernel=[[1,0,-1],[1,0,-1],[1,0,-1]]"
        )
    rows = [[_weight(w, text) for w in row[1:-1].split(",")] for row in re.findall(_ROW, plain)]
    lengths = [len(row) for row in rows]
    if len(set(lengths)) > 1:
        raise UserError(
            f"kernel={text}: its rows hold {', '.join(map(str, lengths))} numbers; "
            f"give every row as many"
        )
    return Kernel("own", torch.tensor(rows, dtype=torch.float64))


def _weight(word: str, text: str) -> float:
    above, _, below = word.partition("/")
    try:
        value = float(above) / float(below or "1")
    except (ValueError, ZeroDivisionError):
        raise UserError(f"kernel={text}: {word or 'nothing'} is no number") from None
    if not abs(value) <= LARGEST_WEIGHT:  # so that NaN is refused, too
        raise UserError(f"kernel={text}: {word}: weights lie between -1e6 and 1e6")
    return value


def padding_of(kernel: int, padding: Padding) -> tuple[int, int]:
    """Zeros (before, after) the picture along an edge, for a kernel of ``kernel`` pixels.

    ``same`` adds ``kernel - 1`` in all, so that at stride 1 the output is as large as the picture;
    an even kernel has one more of them after than before, as in PyTorch.

    Raises:
        UserError: ``padding`` is below 0 or no whole number.

    >>> padding_of(3, 1), padding_of(3, "same"), padding_of(4, "same")
    ((1, 1), (1, 1), (1, 2))
    """
    if padding == "same":
        return (kernel - 1) // 2, kernel // 2
    if not isinstance(padding, int) or padding < 0:
        raise UserError(f"padding={padding}: a whole number from 0 on, or same, is expected")
    return padding, padding


def output_size(size: int, kernel: int, stride: int = 1, padding: Padding = 0) -> int:
    """Places of a kernel along an edge: ``floor((n + 2p - k) / s) + 1``.

    Args:
        size: n, pixels of the picture along this edge.
        kernel: k, pixels of the kernel along it.
        stride: s, pixels from one place to the next.
        padding: p, zeros at either end, or ``same`` (see :func:`padding_of`).

    Raises:
        UserError: the kernel is larger than the padded picture, the stride is below 1, the padding
            below 0.

    >>> output_size(150, 3), output_size(150, 3, stride=2), output_size(150, 3, padding="same")
    (148, 74, 150)
    """
    if not isinstance(stride, int) or stride < 1:
        raise UserError(f"stride={stride}: a whole number from 1 on is expected")
    if kernel < 1 or size < 1:
        raise UserError(f"a kernel of {kernel} pixels on {size}: both need at least one")
    room = size + sum(padding_of(kernel, padding))
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
    before, after = padding_of(kernel, padding)
    zeros = f"2·{before}" if before == after else f"{before} + {after}"
    quotient = f"({size} + {zeros} − {kernel})/{stride}"
    if (size + before + after - kernel) % stride:
        quotient = f"⌊{quotient}⌋"
    return f"{quotient} + 1 = {result}"


@dataclass(frozen=True)
class Slid:
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


def _checked(picture: Tensor, kernel: Tensor) -> None:
    if picture.ndim != 3 or 0 in picture.shape:
        raise ValueError(f"a picture is (C, H, W), not {tuple(picture.shape)}")
    if kernel.ndim != 2 or 0 in kernel.shape:
        raise ValueError(f"a kernel is (kh, kw), not {tuple(kernel.shape)}")


def slide(picture: Tensor, kernel: Tensor, stride: int = 1, padding: Padding = 0) -> Slid:
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
        ValueError: another shape.
    """
    _checked(picture, kernel)
    for size, edge in zip(picture.shape[1:], kernel.shape, strict=True):
        output_size(size, edge, stride, padding)
    down, along = (padding_of(edge, padding) for edge in kernel.shape)
    padded = functional.pad(picture.double(), (*along, *down))
    # the channels stand where conv2d has the pictures of a batch: (C, 1, H, W) -> (C, 1, h, w)
    maps = functional.conv2d(padded[:, None], kernel.double()[None, None], stride=stride)[:, 0]
    return Slid(maps, maps.sum(0), (down, along))


def pool(maps: Tensor, kind: str, window: int = 2, stride: int | None = None) -> Tensor:
    """The largest value, or the mean, of each window of the maps; "none" leaves them as they are.

    Args:
        maps: ``(…, h, w)``.
        kind: one of :data:`POOLINGS`.
        window: its edge in pixels.
        stride: from one window to the next; None: ``window``.

    Returns:
        ``(…, h', w')`` with ``h' = floor((h - window) / stride) + 1``: what does not fill a window
        at the lower and right edge is left out.

    Raises:
        UserError: an unknown kind, or a window or stride below 1 or larger than the maps.
    """
    if kind not in POOLINGS:
        raise UserError(f"pooling={kind}: no such pooling; {nearest(kind, POOLINGS)}")
    if kind == "none":
        return maps
    step = window if stride is None else stride
    if not isinstance(window, int) or window < 1:
        raise UserError(f"pool_size={window}: a whole number from 1 on is expected")
    if not isinstance(step, int) or step < 1:
        raise UserError(
            f"the stride of the pooling is {step}: a whole number from 1 on is expected"
        )
    height, width = maps.shape[-2:]
    if window > min(height, width):
        raise UserError(
            f"pool_size={window}: the map to be pooled has only {height}×{width} places; "
            f"take at most {min(height, width)}"
        )
    pooling = functional.max_pool2d if kind == "max" else functional.avg_pool2d
    flat = maps.reshape(-1, 1, height, width)
    pooled = pooling(flat, window, step)
    return pooled.reshape(*maps.shape[:-2], *pooled.shape[-2:])


def luma(picture: Tensor) -> Tensor:
    """Brightness ``(1, H, W)`` of an RGB picture ``(3, H, W)``, ITU-R 601, in the same unit.

    A picture of one channel is returned as it is.

    Raises:
        ValueError: another number of channels.
    """
    if picture.shape[0] == 1:
        return picture
    if picture.shape[0] != 3:
        raise ValueError(f"luma needs 1 or 3 channels, not {picture.shape[0]}")
    shares = torch.tensor(LUMA, dtype=torch.float64, device=picture.device)
    return torch.tensordot(shares, picture.double(), 1)[None]


def strongest(map: Tensor) -> tuple[int, int]:
    """Row and column of the largest magnitude of a map ``(h, w)``; of equals the first."""
    place = int(map.abs().argmax())
    return place // map.shape[1], place % map.shape[1]


@dataclass(frozen=True)
class PatchArithmetic:
    """How one number of the output comes about: ``sum = sum of products = patch · kernel``.

    Attributes:
        place: row and column in the output, from 0.
        corner: row and column of the patch's first pixel in the picture; below 0 in the padding.
        patch: ``(kh, kw)`` float64, the pixels under the kernel, 0 in the padding.
        inside: ``(kh, kw)`` bool, False in the padding.
        kernel: ``(kh, kw)`` float64.
        products: ``(kh, kw)`` float64.
        sum: the map's value at ``place``.
    """

    place: tuple[int, int]
    corner: tuple[int, int]
    patch: Tensor
    inside: Tensor
    kernel: Tensor
    products: Tensor
    sum: float


def patch_arithmetic(
    picture: Tensor,
    kernel: Tensor,
    at: tuple[int, int] | None = None,
    *,
    stride: int = 1,
    padding: Padding = 0,
    channel: int | None = None,
) -> PatchArithmetic:
    """The numbers of one patch of one channel.

    Args:
        picture: ``(C, H, W)``, kernel ``(kh, kw)``, stride and padding as for :func:`slide`.
        at: row and column in the output, from 0; None: where the answer is strongest.
        channel: which of the C; None: the :func:`luma`.

    Raises:
        UserError: as :func:`output_size`, or ``at`` lies outside the output.
        ValueError: another shape, or no such channel.
    """
    _checked(picture, kernel)
    if channel is not None and not 0 <= channel < len(picture):
        raise ValueError(f"channel {channel} of {len(picture)}: counted from 0")
    one = luma(picture) if channel is None else picture[channel : channel + 1]
    if at is None:
        at = strongest(slide(one, kernel, stride, padding).total)
    (height, width), (kh, kw) = one.shape[1:], kernel.shape
    rows, columns = (
        output_size(size, edge, stride, padding) for size, edge in ((height, kh), (width, kw))
    )
    if not (0 <= at[0] < rows and 0 <= at[1] < columns):
        raise UserError(
            f"at={at[0]},{at[1]}: the output has {rows} rows and {columns} columns, counted from "
            f"0; the last place is at={rows - 1},{columns - 1}"
        )
    top = at[0] * stride - padding_of(kh, padding)[0]
    left = at[1] * stride - padding_of(kw, padding)[0]
    patch = torch.zeros(kh, kw, dtype=torch.float64)
    inside = torch.zeros(kh, kw, dtype=torch.bool)
    first, start = max(top, 0), max(left, 0)
    last, end = min(top + kh, height), min(left + kw, width)
    if first < last and start < end:  # else the place sees nothing but padding
        part = slice(first - top, last - top), slice(start - left, end - left)
        patch[part] = one[0, first:last, start:end].double().cpu()
        inside[part] = True
    weights = kernel.double().cpu()
    products = patch * weights
    return PatchArithmetic(at, (top, left), patch, inside, weights, products, float(products.sum()))
