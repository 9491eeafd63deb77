"""What filters look like: kernels as they are, and pictures made by gradient ascent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.draw.canvas import (
    GAP,
    MUTED,
    Array,
    Colour,
    Label,
    as_array,
    blank,
    legible_size,
    resize,
    text_band,
    tile,
    titled,
    to_uint8,
    vstack,
    write,
)
from convlens.draw.colour import DIVERGING, colour_bar, colourise
from convlens.draw.text import SMALL, dimensions, line_height, text_width, wrap

_WIDEST = 1500  # pixels a sheet's cells take together at most
_KERNEL_EDGE, _PICTURE_EDGE = 48, 96  # longest edge of a cell at least, pixels
_STUCK: Colour = (214, 216, 220)
_MEANING = {"stuck": "zero gradient"}  # marks that are spelt out


def _columns(count: int, cell_width: int) -> int:
    """Even rows of at most 8, or 16 for many, and no wider than a sheet may be."""
    fitting = max(1, (_WIDEST + GAP) // (cell_width + GAP))
    rows = -(-count // min(fitting, 8 if count <= 32 else 16))
    return -(-count // rows)


def kernel_images(kernels: np.ndarray) -> tuple[list[np.ndarray], str]:
    """Kernels ``(O, I, kh, kw)`` as O images ``(kh, kw, 3)``, and how they are to be read.

    Every kernel is divided by its own largest magnitude; zero is the middle.

    - I = 3: RGB around mid-grey, ``0.5 + 0.5 · w / max|w|``.
    - else: blue below zero, grey at zero, red above; of more than one input channel their mean
      (what the kernel does to inputs that agree).
    """
    values = kernels.astype(np.float32)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    inputs = values.shape[1]
    if inputs != 3:
        values = values.mean(axis=1, keepdims=True)
    peak = np.abs(values).max(axis=(1, 2, 3), keepdims=True)
    values = values / np.where(peak > 0, peak, 1)
    if inputs == 3:
        return [to_uint8(kernel / 2 + 0.5) for kernel in values], "as RGB around grey"
    read = "as they are" if inputs == 1 else f"mean of {inputs} inputs"
    return [colourise(kernel[0], DIVERGING, -1, 1) for kernel in values], read


def kernel_sheet(kernels: Array, *, title: str) -> np.ndarray:
    """The weights of a convolution, one numbered and magnified cell for each filter.

    Args:
        kernels: ``(O, I, kh, kw)``; drawn as :func:`kernel_images` says.
        title: the layer.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: another shape.
    """
    values = as_array(kernels)
    if values.ndim != 4 or 0 in values.shape:
        raise ValueError(f"kernels are (O, I, kh, kw), not {tuple(values.shape)}")
    count, inputs, height, width = values.shape
    images, read = kernel_images(values)
    size = legible_size(height, width, _KERNEL_EDGE)
    # below each kernel, for its number, which a kernel of 7 by 1 is too narrow for
    strip = blank(line_height(SMALL) + 1, max(size[1], text_width(str(count - 1), SMALL)))
    cells = [vstack([resize(image, size), strip], gap=0) for image in images]
    columns = _columns(count, strip.shape[1])
    down, along = cells[0].shape[0] + GAP, strip.shape[1] + GAP
    numbers = [
        Label(
            index % columns * along + strip.shape[1] // 2,
            index // columns * down + size[0] + 1 + line_height(SMALL) // 2,
            str(index),
            MUTED,
            SMALL,
            anchor="mm",
        )
        for index in range(count)
    ]
    sheet = write(tile(cells, columns), numbers)
    facts = f"{count} kernels {dimensions(inputs, height, width)}, {read}, each by its own maximum"
    bad = int((~np.isfinite(values)).any(axis=(1, 2, 3)).sum())
    alert = f"{bad} of {count} not finite (drawn as 0)" if bad else None
    if inputs == 3:
        return titled(sheet, title, facts, alert=alert)
    bar = colour_bar(min(220, max(160, sheet.shape[1])), "-max", "+max", name=DIVERGING)
    return titled(vstack([bar, sheet], gap=6), title, facts, alert=alert)


def _crossed(height: int, width: int) -> np.ndarray:
    """The cell of a filter that has no picture: grey, with both diagonals."""
    cell = blank(height, width, _STUCK)
    y, x = np.mgrid[:height, :width]
    y, x = (y + 0.5) / height, (x + 0.5) / width
    thin = 1.0 / min(height, width)
    cell[(np.abs(y - x) <= thin) | (np.abs(y + x - 1) <= thin)] = MUTED
    return cell


def _filter_cell(picture: np.ndarray, unit: int, mark: str | None, label: str | None) -> np.ndarray:
    """One picture of a unit with its name below; a marked one is crossed and says why."""
    image = to_uint8(picture)
    size = legible_size(*image.shape[:2], _PICTURE_EDGE, 256)
    column = max(size[1], 64)  # room for the name below a narrow picture
    if mark is None:
        reduced = size[0] < image.shape[0]
        cell = resize(image, size, "bilinear" if reduced else "nearest")
    else:
        why = text_band(
            column, [_MEANING.get(mark, mark)], size=SMALL, background=_STUCK, align="center"
        )
        cell = _crossed(size[0], column)
        top = (size[0] - why.shape[0]) // 2
        cell[max(top, 0) : max(top, 0) + why.shape[0]] = why[: size[0]]
    name = f"unit {unit}" if label is None else label
    lines = wrap(name, column, SMALL, most=2)
    return vstack([cell, text_band(column, lines, size=SMALL, align="center")], gap=2)


def filter_sheet(
    images: Array,
    units: Sequence[int],
    *,
    title: str,
    marks: Sequence[str | None] | None = None,
    labels: Sequence[str] | None = None,
) -> np.ndarray:
    """Pictures that excite units most (gradient ascent), one labelled cell for each unit.

    Args:
        images: ``(U, C, H, W)`` in [0, 1], C 1 or 3.
        units: the U units' numbers.
        title: the layer.
        marks: for each unit None, or why its picture is none: such a cell is grey and crossed,
            with the mark written on it ("stuck" as "zero gradient"). A picture with values that
            are not finite is marked so by itself.
        labels: what to write below the cells instead of "unit 7", such as class names.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: another shape of ``images``, or lists of another length.
    """
    pictures = as_array(images)
    if pictures.ndim != 4 or 0 in pictures.shape:
        raise ValueError(f"filter pictures are (U, C, H, W), not {tuple(pictures.shape)}")
    count = len(pictures)
    marks = [None] * count if marks is None else list(marks)
    names = [None] * count if labels is None else labels
    if not len(units) == len(marks) == len(names) == count:
        raise ValueError(
            f"{count} pictures with {len(units)} units, {len(marks)} marks, {len(names)} labels"
        )
    for index in np.flatnonzero(~np.isfinite(pictures).all(axis=(1, 2, 3))):
        marks[index] = marks[index] or "not finite"
    cells = [_filter_cell(*entry) for entry in zip(pictures, units, marks, names, strict=True)]
    sheet = tile(cells, _columns(count, cells[0].shape[1]))
    missing = sum(mark is not None for mark in marks)
    alert = f"{missing} of {count} without a picture (crossed)" if missing else None
    height, width = pictures.shape[2:]
    return titled(sheet, title, f"{count} units, {dimensions(height, width)} pixels", alert=alert)
