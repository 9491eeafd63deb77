"""Work out one output value of a kernel, ``patch · kernel = products`` and their sum, as text.

Legend: ``C`` channels, ``H W`` height and width of the image, ``kh kw`` those of the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from convlens.core.errors import UserError
from convlens.lessons.functions import NONE, find_activation
from convlens.lessons.kernel.convolution import (
    Padding,
    compute_output_size,
    compute_pad_widths,
    expand_kernel,
)

CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}


@dataclass(frozen=True)
class WorkedPatch:
    """The computation of one output value in every channel.

    Attributes:
        place: Row and column in the output, counted from 0.
        corner: Row and column of the patch's first pixel in the image; negative in the padding.
        patch: ``(C, kh, kw)`` float64, the pixels under the kernel; 0 in the padding.
        inside: ``(kh, kw)`` bool, False in the padding.
        products: ``(C, kh, kw)`` float64, patch times kernel.
        sums: C sums of the products, which are the maps' values at ``place``.
        bias: The number that is added to the sum of ``sums``.
        activation: Name of the activation function that follows.
    """

    place: tuple[int, int]
    corner: tuple[int, int]
    patch: Tensor
    inside: Tensor
    products: Tensor
    sums: Sequence[float]
    bias: float = 0.0
    activation: str = NONE

    @property
    def total(self) -> float:
        """The sum over the channels, plus the bias."""
        return sum(self.sums) + self.bias

    @property
    def output(self) -> float:
        """The value of the activation function at ``total``."""
        total = torch.tensor(self.total, dtype=torch.float64)
        return float(find_activation(self.activation)(total))


def work_out(
    image: Tensor, kernel: Tensor, at: tuple[int, int], *, stride: int = 1, padding: Padding = 0,
    bias: float = 0.0, activation: str = NONE,
) -> WorkedPatch:  # fmt: skip
    """Compute the output at one place, with all intermediate values.

    Args:
        image: ``(C, H, W)``.
        kernel: ``(kh, kw)``, the same for each channel, or ``(C, kh, kw)``, one for each.
        at: Row and column of the output, counted from 0.
        stride: Pixels from one place to the next.
        padding: Pixels of zeros at each edge, or ``same``.
        bias: The number that is added to the sum over the channels.
        activation: Name of the activation function, see ``convlens.lessons.functions``.

    Raises:
        UserError: The kernel is larger than the padded image, there are more or fewer kernels than
            channels, or ``at`` is outside the output.
    """
    kernels = expand_kernel(kernel, len(image))
    edges = kernels.shape[1:]
    rows, columns = (
        compute_output_size(size, edge, stride, padding)
        for size, edge in zip(image.shape[1:], edges, strict=True)
    )
    if not (0 <= at[0] < rows and 0 <= at[1] < columns):
        raise UserError(
            f"at={at[0]},{at[1]}: the output has {rows} rows and {columns} columns, counted from "
            f"0; the last position is at={rows - 1},{columns - 1}"
        )
    (kh, kw), top, left = edges, at[0] * stride, at[1] * stride
    down, along = (compute_pad_widths(edge, padding) for edge in edges)

    def cut_patch(values: Tensor) -> Tensor:
        padded = functional.pad(values, (*along, *down))
        return padded[..., top : top + kh, left : left + kw]

    patch = cut_patch(image.double())
    inside = cut_patch(torch.ones(image.shape[1:], dtype=torch.bool))
    products = patch * kernels
    sums = [float(channel.sum()) for channel in products]
    corner = top - down[0], left - along[0]
    return WorkedPatch(at, corner, patch, inside, products, sums, bias, activation)


def format_value(value: float) -> str:
    """Format a number for a cell: integers as such, others with two decimals or three digits.

    >>> [format_value(x) for x in (255.0, -12.5, 1 / 9, -0.0, 3e8)]
    ['255', '-12.50', '0.111', '0', '3e+08']
    """
    value = round(float(value), 9) + 0.0  # hide the rounding error of 1/9 + …, and turn -0 into 0
    if value == round(value) and abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:.2f}" if 1 <= abs(value) < 1e5 else f"{value:.3g}"


def describe_place(place: Sequence[int], corner: Sequence[int], edges: Sequence[int]) -> str:
    """Describe which pixels one place of the output sees.

    Args:
        place: Row and column in the output.
        corner: Row and column of the first pixel in the image.
        edges: Height and width of the kernel.

    >>> describe_place((4, 7), (8, 13), (1, 3))
    'output row 4, column 7 sees row 8, columns 13 to 15 of the image (counted from 0)'
    """
    rows, columns = (
        f"{word} {first}" if edge == 1 else f"{word}s {first} to {first + edge - 1}"
        for word, first, edge in zip(("row", "column"), corner, edges, strict=True)
    )
    return (
        f"output row {place[0]}, column {place[1]} sees {rows}, {columns} of the image "
        f"(counted from 0)"
    )


def format_total(sums: Sequence[float], bias: float = 0.0) -> str:
    """Write the addition of the channels' sums, and of the bias if it is not 0.

    >>> format_total([12, -3, 0.5])
    'red + green + blue = 12 + (-3) + 0.5 = 9.50'
    >>> format_total([12], bias=-20)
    'grey + bias = 12 + (-20) = -8'
    """
    values, names = [*sums], [*CHANNELS[len(sums)]]
    if bias:
        values, names = [*values, bias], [*names, "bias"]
    words = [format_value(value) for value in values]
    signed = [f"({word})" if word.startswith("-") else word for word in words]
    return f"{' + '.join(names)} = {' + '.join(signed)} = {format_value(sum(values))}"


def format_ending(worked: WorkedPatch) -> list[str]:
    """Write what follows the sums of the channels: their addition, the bias, the activation.

    One channel without bias and activation needs no line.
    """
    lines = []
    if len(worked.sums) > 1 or worked.bias:
        lines.append(format_total(worked.sums, worked.bias))
    if worked.activation != NONE:
        total, output = format_value(worked.total), format_value(worked.output)
        lines.append(f"{worked.activation}({total}) = {output}")
    return lines


def format_arithmetic(kernel: Tensor, worked: WorkedPatch) -> list[str]:
    """Write patch × kernel = products and their sum as lines of text, one block per channel.

    Args:
        kernel: ``(kh, kw)``, the same for each channel, or ``(C, kh, kw)``, one for each.
        worked: The patch.
    """
    kernels = expand_kernel(kernel, len(worked.sums))
    lines = [f"position {describe_place(worked.place, worked.corner, kernels.shape[1:])}"]
    middle = (kernels.shape[1] - 1) // 2
    texts = [_format_matrices(each) for each in (worked.patch, kernels, worked.products)]
    for channel, name in enumerate(CHANNELS[len(kernels)]):
        lines.append(f"{name}:")
        for row, parts in enumerate(zip(*(text[channel] for text in texts), strict=True)):
            first, second = ("  ×  ", "  =  ") if row == middle else ("     ", "     ")
            end = f"   sum {format_value(worked.sums[channel])}" if row == middle else ""
            lines.append(f"  {parts[0]}{first}{parts[1]}{second}{parts[2]}{end}")
    if not worked.inside.all():
        lines.append("pixels outside the image are padding and count as 0")
    return [*lines, *format_ending(worked)]


def _format_matrices(values: Tensor) -> list[list[str]]:
    """Format matrices ``(C, kh, kw)`` as C lists of kh lines, with columns of equal width."""
    words = [
        [[format_value(value) for value in row] for row in matrix] for matrix in values.tolist()
    ]
    width = max(len(word) for matrix in words for row in matrix for word in row)
    return [[" ".join(word.rjust(width) for word in row) for row in matrix] for matrix in words]
