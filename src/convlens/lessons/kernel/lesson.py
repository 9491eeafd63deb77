"""Run the lesson: slide a kernel over one image, draw a panel and print the arithmetic.

A filter of a network is a kernel for each channel; their outputs are added, a bias is added, and an
activation function follows. Pooling comes last.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convlens.core.errors import UserError
from convlens.data.pixels.decode import ImageError, Recipe, decode_image, read_size_and_orientation
from convlens.draw.text import format_dimensions
from convlens.lessons.functions import BOUNDED, NONE, find_activation
from convlens.lessons.kernel.arithmetic import (
    CHANNELS,
    format_arithmetic,
    format_value,
    work_out,
)
from convlens.lessons.kernel.convolution import (
    KernelOutput,
    Padding,
    find_strongest,
    format_output_size,
    pool,
    slide,
)
from convlens.lessons.kernel.kernels import Kernel
from convlens.lessons.kernel.maps import KernelMaps, MapRow
from convlens.lessons.kernel.panel import kernel_panel
from convlens.lessons.result import Lesson

FILE = "kernel.jpg"
LARGEST_SIZE = 512  # limit of the image's longest edge in pixels; the panel shows at most 320


@dataclass(frozen=True)
class Request:
    """The user's settings for the lesson.

    Attributes:
        image: File of the image.
        kernel: The kernel to slide over it, or a kernel for each channel.
        stride: Pixels from one place to the next.
        padding: Pixels of zeros at each edge, or ``same``.
        pooling: Kinds of pooling, such as ``max``; () for none.
        window: Edge of the pooling windows in pixels.
        at: Row and column of the output value to work out; None for the strongest one.
        size: Longest edge of the image in pixels.
        bias: Number that is added to the sum over the channels.
        activation: Name of the activation function after the bias; ``none`` for no function.
        is_grey: Whether maps are drawn from black to white instead of blue and red.
    """

    image: Path
    kernel: Kernel
    stride: int
    padding: Padding
    pooling: tuple[str, ...]
    window: int
    at: tuple[int, int] | None
    size: int
    bias: float
    activation: str
    is_grey: bool

    @property
    def has_ending(self) -> bool:
        """Whether anything follows the sum over the channels."""
        return self.bias != 0 or self.activation != NONE


def decode_in_proportion(path: Path, longest: int) -> np.ndarray:
    """Decode one file in its own proportions, with the decoder for training images.

    Args:
        path: The image file.
        longest: Longest edge in pixels. Larger images are reduced, smaller ones keep their size.

    Returns:
        ``(H, W, C)`` uint8. C is 3 (RGB), or 1 if no pixel has a colour.

    Raises:
        ImageError: The file cannot be decoded; the message names it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # warnings about odd metadata
        try:
            (width, height), turn = read_size_and_orientation(path)
        except ImageError:  # decode_image reports what is wrong with the file
            width, height, turn = longest, longest, 1
        edges = (width, height) if turn in (5, 6, 7, 8) else (height, width)
        scale = min(1, longest / max(edges))
        pixels = decode_image(path, Recipe(*(max(1, round(edge * scale)) for edge in edges)))
    is_grey = (pixels == pixels[..., :1]).all()
    return pixels[..., :1].copy() if is_grey else pixels.copy()  # Pillow's array is read-only


def run_lesson(request: Request) -> Lesson:
    """Slide the kernel over the image and work out one output value.

    Raises:
        UserError: The image cannot be read, the requested size is too large to be shown, the
            activation is unknown, or kernel, padding, window or place do not fit the image.
    """
    if request.size > LARGEST_SIZE:
        raise UserError(
            f"size={request.size}: the longest edge has at most {LARGEST_SIZE} pixels; "
            f"try size={LARGEST_SIZE} or less"
        )
    pixels = decode_in_proportion(request.image, request.size)
    image = torch.from_numpy(pixels).movedim(2, 0)  # (H, W, C) -> (C, H, W)
    edges, weights = image.shape[1:], request.kernel.values
    stride, padding = request.stride, request.padding
    if padding != "same" and padding > max(edges):
        raise UserError(
            f"padding={padding} is wider than the image; try padding={max(edges)} or less"
        )
    output = slide(image, weights, stride, padding)
    biased = output.total + request.bias
    answer = find_activation(request.activation)(biased)
    sizes = _format_sizes(edges, weights.shape[-2:], stride, padding)
    outputs = KernelMaps(output.maps, output.total, "output of the kernel", sizes)
    pooled, rows = _pool_output(request, output, answer)
    if request.has_ending:
        before = "sum of the channels" if len(image) > 1 else "output"
        if request.bias:
            before += " + bias"
        maps = {before: biased}
        if request.activation != NONE:
            maps[f"after {request.activation}"] = answer
        together = request.activation not in BOUNDED
        heading = f"bias {format_value(request.bias)}, activation {request.activation}"
        rows.insert(0, MapRow(heading, maps, at_place=True, has_one_scale=together))
    at = find_strongest(answer) if request.at is None else request.at
    worked = work_out(
        image, weights, at, stride=stride, padding=padding,
        bias=request.bias, activation=request.activation,
    )  # fmt: skip
    settings = f"stride {stride}, padding {padding}"
    name = f"{request.kernel.name} {format_dimensions(*weights.shape)}"
    panel = kernel_panel(
        image, weights, outputs, worked,
        title=f"{name} kernel over {request.image.name}",
        subtitle="; ".join(filter(None, [request.kernel.responds_to, settings])),
        padding=output.padding, pooled=pooled, rows=rows, is_grey=request.is_grey,
    )  # fmt: skip
    pooled_sizes = pooled.sizes if pooled else rows[-1].sizes if request.pooling else ()
    lines = [
        f"image    {format_dimensions(*edges)}, {', '.join(CHANNELS[len(image)])}",
        f"kernel   {name}, {settings}",
        *(f"output   {line}" for line in outputs.sizes),
        *(f"pooled   {line}" for line in pooled_sizes),
        *format_arithmetic(weights, worked),
    ]
    return Lesson(panel, lines)


def _pool_output(
    request: Request, output: KernelOutput, answer: Tensor
) -> tuple[KernelMaps | None, list[MapRow]]:
    """Pool the output: every channel for one kind of pooling, the answer alone otherwise.

    Args:
        request: The settings.
        output: The kernel's output.
        answer: ``(h, w)``, what the filter answers: after bias and activation.

    Returns:
        The pooled channels and their pooled sum, or None; and rows of other pooled maps.
    """
    kinds, window = request.pooling, request.window
    if not kinds:
        return None, []
    pooled = {f"{kind} pooling": pool(answer, kind, window) for kind in kinds}
    sizes = _format_sizes(answer.shape, (window, window), window, 0)
    windows = f"windows of {format_dimensions(window, window)}, stride {window}"
    if request.has_ending or len(kinds) > 1:
        return None, [MapRow(f"after pooling, {windows}", pooled, sizes)]
    maps, total = (pool(each, kinds[0], window) for each in (output.maps, output.total))
    return KernelMaps(maps, total, f"after {kinds[0]} pooling, {windows}", sizes), []


def _format_sizes(
    edges: tuple[int, ...], window: tuple[int, ...], stride: int, padding: Padding
) -> list[str]:
    """Write the formulas for the number of rows and of columns."""
    pairs = zip(("rows", "columns"), edges, window, strict=True)
    return [f"{word}: {format_output_size(n, k, stride, padding)}" for word, n, k in pairs]
