"""Named kernels, and a parser for user-defined weights."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from convlens.core.errors import UserError, nearest

LARGEST = 15  # maximum number of rows and columns, since the panel shows every weight
LARGEST_WEIGHT = 1e6  # the products of pixels and larger weights would be too long to read
_ROW = r"\[[^\[\]]+\]"
_KERNEL = rf"\[{_ROW}(?:,{_ROW})*\]"
_FILTER = rf"\[{_KERNEL}(?:,{_KERNEL}){{2}}\]"  # a kernel for each of red, green and blue


@dataclass(frozen=True)
class Kernel:
    """The weights that are slid over an image.

    Attributes:
        name: Name of the kernel; "custom" for weights given as numbers.
        values: float64 ``(kh, kw)``, the same for each channel, or ``(3, kh, kw)``, one kernel for
            each of red, green and blue.
        responds_to: What leads to a large output; "" for weights given as numbers.
    """

    name: str
    values: Tensor
    responds_to: str = ""


KERNELS = {
    name: Kernel(name, torch.tensor(rows, dtype=torch.float64), responds_to)
    for name, rows, responds_to in (
        (
            "vertical_edge",
            [[1, 0, -1]] * 3,
            "vertical edges: above 0 where the left is brighter than the right",
        ),
        (
            "horizontal_edge",
            [[1] * 3, [0] * 3, [-1] * 3],
            "horizontal edges: above 0 where the top is brighter than the bottom",
        ),
        (
            "sharpen",
            [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
            "the pixel, plus its difference from each of its four neighbours",
        ),
        (
            "blur",
            [[1 / 9] * 3] * 3,
            "the mean of a pixel and its eight neighbours: brightness, without fine detail",
        ),
        (
            "emboss",
            [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]],
            "brightness that grows towards the lower right: a relief lit from the upper left",
        ),
    )
}


def parse_kernel(text: str) -> Kernel:
    """Return the kernel for a name in ``KERNELS``, for rows of numbers or for three kernels.

    A row is ``[1,0,-1]`` and a kernel ``[[1,0,-1],[1,0,-1]]``. A single row is a kernel too, and a
    weight may be a fraction such as ``1/9``. Three kernels in brackets, for red, green and blue,
    are the filter of a colour image.

    Raises:
        UserError: The name is unknown, the rows have different lengths, there are more than
            ``LARGEST`` rows or columns, or a weight is not a number of at most ``LARGEST_WEIGHT``.

    >>> parse_kernel("[[1,0],[1/2,-1]]").values.tolist()
    [[1.0, 0.0], [0.5, -1.0]]
    """
    plain = "".join(text.split())
    if plain in KERNELS:
        return KERNELS[plain]
    if not plain.startswith("["):
        raise UserError(
            f"kernel={text}: neither the name of a kernel nor numbers, such as "
            f"kernel=[[1,0,-1],[1,0,-1],[1,0,-1]]; {nearest(plain, KERNELS)}"
        )
    if re.fullmatch(_FILTER, plain):
        kernels = [_parse_rows(each, text) for each in re.findall(_KERNEL, plain)]
        if len({(len(rows), len(rows[0])) for rows in kernels}) > 1:
            raise UserError(f"kernel={text}: its three kernels need the same size")
        return Kernel("custom", torch.tensor(kernels, dtype=torch.float64))
    if not re.fullmatch(rf"{_KERNEL}|{_ROW}", plain):
        raise UserError(
            f"kernel={text}: expected rows of numbers in brackets, such as "
            f"kernel=[[1,0,-1],[1,0,-1],[1,0,-1]], or three such kernels in brackets"
        )
    return Kernel("custom", torch.tensor(_parse_rows(plain, text), dtype=torch.float64))


def _parse_rows(plain: str, text: str) -> list[list[float]]:
    """Return the rows of one kernel; ``text`` is the whole value, for messages."""
    rows = [
        [_parse_weight(w, text) for w in row[1:-1].split(",")] for row in re.findall(_ROW, plain)
    ]
    lengths = [len(row) for row in rows]
    if len(set(lengths)) > 1:
        raise UserError(
            f"kernel={text}: its rows have {', '.join(map(str, lengths))} numbers; "
            f"all rows need the same length"
        )
    if max(len(rows), lengths[0]) > LARGEST:
        raise UserError(
            f"kernel={text}: {len(rows)}×{lengths[0]} weights are too many; a panel has room for "
            f"at most {LARGEST}×{LARGEST}"
        )
    return rows


def _parse_weight(word: str, text: str) -> float:
    numerator, _, denominator = word.partition("/")
    try:
        value = float(numerator) / float(denominator or "1")
    except (ValueError, ZeroDivisionError):
        raise UserError(f"kernel={text}: {word or 'an empty weight'} is not a number") from None
    if not abs(value) <= LARGEST_WEIGHT:  # also rejects NaN
        raise UserError(f"kernel={text}: weight {word} is out of range; use -1e6 to 1e6")
    return value
