"""The whole lesson: a kernel slid over one picture, as a panel and in lines of text."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from convlens.core.errors import UserError
from convlens.data.pixels.decode import ImageError, Recipe, decode_image, read_size_and_orientation
from convlens.draw.text import format_dimensions
from convlens.lessons.kernel.arithmetic import CHANNELS, format_arithmetic, work_out
from convlens.lessons.kernel.convolution import Padding, find_strongest, pool, size_formula, slide
from convlens.lessons.kernel.kernels import Kernel
from convlens.lessons.kernel.panel import KernelMaps, kernel_panel

FILE = "kernel.jpg"
LARGEST_SIZE = 512  # the picture's longest edge in pixels: the panel shows no more than 320


@dataclass(frozen=True)
class Request:
    """What a person wants to see.

    Attributes:
        image: the picture's file.
        kernel: what is slid over it.
        stride: pixels from one place to the next.
        padding: zeros at each edge, or ``same``.
        pooling: none, or one of :data:`~convlens.lessons.kernel.convolution.POOLINGS`.
        window: edge of the pooling's windows in pixels.
        at: row and column of the output to be worked out; None: where the answer is strongest.
        size: longest edge of the picture in pixels.
    """

    image: Path
    kernel: Kernel
    stride: int
    padding: Padding
    pooling: str
    window: int
    at: tuple[int, int] | None
    size: int


@dataclass(frozen=True)
class Lesson:
    """What there is to see: ``panel`` uint8 (H, W, 3), and the same in ``lines`` of text."""

    panel: np.ndarray
    lines: list[str]


def decode_in_proportion(path: Path, longest: int) -> np.ndarray:
    """One file as (H, W, C) uint8, reduced until no edge is longer than ``longest``.

    A smaller picture keeps its size. C is 3 (RGB), or 1 where no pixel has any colour. A network's
    batch wants every picture at one size; what a file means is settled by the same decoder.

    Raises ImageError, naming the file, if it gives no picture.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # odd metadata is not about pixels
        try:
            (width, height), turn = read_size_and_orientation(path)
        except ImageError:  # decoding will say in full what is wrong with the file
            width, height, turn = longest, longest, 1
        edges = (width, height) if turn in (5, 6, 7, 8) else (height, width)
        scale = min(1, longest / max(edges))
        picture = decode_image(path, Recipe(*(max(1, round(edge * scale)) for edge in edges)))
    grey = (picture == picture[..., :1]).all()
    return picture[..., :1].copy() if grey else picture.copy()  # Pillow's own cannot be written


def run_lesson(request: Request) -> Lesson:
    """Slide the kernel over the picture and work one place out.

    Raises:
        UserError: a picture that cannot be read or is too large to be shown, or sizes that do not
            fit it.
    """
    if request.size > LARGEST_SIZE:
        raise UserError(
            f"size={request.size}: the longest edge may have {LARGEST_SIZE} pixels at most"
        )
    pixels = decode_in_proportion(request.image, request.size)
    picture = torch.from_numpy(pixels).movedim(2, 0)  # (H, W, C) -> (C, H, W)
    edges, weights = picture.shape[1:], request.kernel.values
    stride, padding = request.stride, request.padding
    if padding != "same" and padding > max(edges):
        raise UserError(
            f"padding={padding}: wider than the picture itself; at most {max(edges)} is taken"
        )
    slid = slide(picture, weights, stride, padding)
    sizes = _sizes(edges, weights.shape, stride, padding)
    answers, pooled = KernelMaps(slid.maps, slid.total, "output of the kernel", sizes), None
    if request.pooling != "none":
        window = request.window
        maps, total = (pool(each, request.pooling, window) for each in (slid.maps, slid.total))
        heading = f"after {request.pooling} pooling, windows of {format_dimensions(window, window)}"
        sizes = _sizes(slid.total.shape, (window, window), window, 0)
        pooled = KernelMaps(maps, total, f"{heading}, stride {window}", sizes)
    at = find_strongest(slid.total) if request.at is None else request.at
    worked = work_out(picture, weights, at, stride=stride, padding=padding)
    how = f"stride {stride}, padding {padding}"
    name = f"{request.kernel.name} {format_dimensions(*weights.shape)}"
    panel = kernel_panel(
        picture,
        weights,
        answers,
        worked,
        title=f"{name} over {request.image.name}",
        subtitle="; ".join(filter(None, [request.kernel.answers_to, how])),
        padding=slid.padding,
        pooled=pooled,
    )
    lines = [
        f"picture  {format_dimensions(*edges)}, {', '.join(CHANNELS[len(picture)])}",
        f"kernel   {name}, {how}",
        *(f"output   {line}" for line in answers.sizes),
        *(f"pooled   {line}" for line in (pooled.sizes if pooled else ())),
        *format_arithmetic(weights, worked),
    ]
    return Lesson(panel, lines)


def _sizes(
    edges: tuple[int, ...], window: tuple[int, ...], stride: int, padding: Padding
) -> list[str]:
    """The output's rows and columns, each by the formula."""
    pairs = zip(("rows", "columns"), edges, window, strict=True)
    return [f"{word}: {size_formula(n, k, stride, padding)}" for word, n, k in pairs]
