"""The weights that are slid over a picture: a few with names, and those a person gives."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from convlens.core.errors import UserError, nearest

LARGEST = 15  # rows and columns of a kernel: the panel writes every one of them down
LARGEST_WEIGHT = 1e6  # beyond it products of pixels and weights are no numbers to read
_ROW = r"\[[^\[\]]+\]"


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


KERNELS = {
    name: Kernel(name, torch.tensor(rows, dtype=torch.float64), answers_to)
    for name, rows, answers_to in (
        (
            "vertical_edge",
            [[1, 0, -1]] * 3,
            "edges that run up and down: above 0 where the left is brighter than the right",
        ),
        (
            "horizontal_edge",
            [[1] * 3, [0] * 3, [-1] * 3],
            "edges that run from side to side: above 0 where it is brighter above than below",
        ),
        (
            "sharpen",
            [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
            "the pixel itself, and more so the more it differs from its four neighbours",
        ),
        (
            "blur",
            [[1 / 9] * 3] * 3,
            "the mean of a pixel and its eight neighbours: brightness, without fine detail",
        ),
        (
            "emboss",
            [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]],
            "what grows brighter towards the lower right: a relief lit from the upper left",
        ),
    )
}


def parse_kernel(text: str) -> Kernel:
    """The kernel a person means: a name of :data:`KERNELS`, or rows of numbers.

    A row is ``[1,0,-1]`` and a kernel ``[[1,0,-1],[1,0,-1]]``; one row alone is a kernel, too, and
    a weight may be a fraction such as ``1/9``. Up to :data:`LARGEST` rows and columns are taken.

    Raises:
        UserError: an unknown name, rows of different lengths or too many numbers, or a weight that
            is no number or beyond :data:`LARGEST_WEIGHT`.

    >>> parse_kernel("[[1,0],[1/2,-1]]").values.tolist()
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
    if max(len(rows), lengths[0]) > LARGEST:
        raise UserError(
            f"kernel={text}: {len(rows)}×{lengths[0]} weights; at most {LARGEST}×{LARGEST} can be "
            f"written down in a picture"
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
