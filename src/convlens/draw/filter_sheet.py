"""What filters look like: kernels, images made by gradient ascent, and patches of real ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.draw.canvas import (
    GAP,
    add_title,
    blank,
    centre,
    diagonals,
    hstack,
    text_band,
    tile,
    vstack,
)
from convlens.draw.colour import DIVERGING, colour_bar, colourise_signed
from convlens.draw.palette import EMPTY, INK, MUTED
from convlens.draw.picture import (
    Array,
    as_array,
    compute_legible_size,
    resize,
    resize_cells,
    to_uint8,
)
from convlens.draw.text import SMALL, format_dimensions, text_width, wrap

_WIDEST = 1500  # pixels a sheet's cells take together at most
_KERNEL_EDGE, _PICTURE_EDGE = 48, 96  # longest edge of a cell at least, pixels
_PATCH_GAP, _PATCH_EDGE = 2, 40  # between the patches of a unit; their edge at least, pixels


def _columns(count: int, cell_width: int) -> int:
    """Even rows of at most 8, or 16 for many, and no wider than a sheet may be."""
    fitting = max(1, (_WIDEST + GAP) // (cell_width + GAP))
    rows = -(-count // min(fitting, 8 if count <= 32 else 16))
    return -(-count // rows)


def draw_kernels(kernels: np.ndarray) -> tuple[list[np.ndarray], str]:
    """Kernels ``(O, I, kh, kw)`` as O pictures ``(kh, kw, 3)``, and how they are to be read.

    Every kernel is divided by its own largest magnitude; zero is the middle.

    - I = 3: RGB around mid-grey, ``0.5 + 0.5 · w / max|w|``.
    - else: blue below zero, grey at zero, red above; of more than one input channel their mean
      (what the kernel does to inputs that agree).
    """
    values = np.nan_to_num(kernels.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    inputs = values.shape[1]
    if inputs != 3:
        values = values.mean(axis=1, keepdims=True)
    peak = np.abs(values).max(axis=(1, 2, 3), keepdims=True)
    values = values / np.where(peak > 0, peak, 1)
    if inputs == 3:
        return [to_uint8(kernel / 2 + 0.5) for kernel in values], "as RGB around grey"
    read = "as they are" if inputs == 1 else f"mean of {inputs} inputs"
    return [colourise_signed(kernel[0], 1) for kernel in values], read


def kernel_sheet(kernels: Array, *, title: str) -> np.ndarray:
    """The weights of a convolution, one numbered and magnified cell for each filter.

    Args:
        kernels: ``(O, I, kh, kw)``; drawn as :func:`draw_kernels` says.
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
    pictures, read = draw_kernels(values)
    size = compute_legible_size(height, width, _KERNEL_EDGE)
    # a kernel of 7 by 1 is too narrow for its number below it
    column = max(size[1], text_width(str(count - 1), SMALL))
    cells = [
        vstack([resize(picture, size), text_band(column, str(index), centre=True)], gap=1)
        for index, picture in enumerate(pictures)
    ]
    sheet = tile(cells, _columns(count, column))
    shape = format_dimensions(inputs, height, width)
    facts = f"{count} kernels {shape}, {read}, each divided by its maximum"
    bad = int((~np.isfinite(values)).any(axis=(1, 2, 3)).sum())
    alert = f"{bad} of {count} not finite (drawn as 0)" if bad else None
    if inputs != 3:
        bar = colour_bar(min(220, max(160, sheet.shape[1])), "-max", "+max", name=DIVERGING)
        sheet = vstack([bar, sheet], gap=6)
    return add_title(sheet, title, facts, alert=alert)


def _crossed(height: int, width: int) -> np.ndarray:
    """The cell of a filter that has no image: grey, with both diagonals."""
    cell = blank(height, width, EMPTY)
    rising, falling = diagonals(height, width, 1.0)
    cell[rising | falling] = MUTED
    return cell


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image as large as ``size`` allows, on plain ground.

    Magnified by whole pixels, unless that would leave more than a fifth of the room empty.
    """
    picture = to_uint8(image)
    scale = min(size[0] / picture.shape[0], size[1] / picture.shape[1])
    whole = scale >= 1 and int(scale) >= 0.8 * scale
    scale = int(scale) if whole else scale
    height, width = (max(1, round(edge * scale)) for edge in picture.shape[:2])
    picture = resize(picture, (height, width), "nearest" if whole else "bilinear")
    return centre(picture, *size)


def _patch_block(patches: np.ndarray, height: int) -> np.ndarray:
    """The patches ``(N, C, h, w)`` of a unit in two rows, one if it is one, ``height`` in all."""
    rows = min(2, len(patches))
    edge = max(_PATCH_EDGE, (height - _PATCH_GAP * (rows - 1)) // rows)
    cells = [
        _fitted(patch, (edge, edge)) if np.isfinite(patch).all() else _crossed(edge, edge)
        for patch in patches
    ]
    return tile(cells, -(-len(cells) // rows), _PATCH_GAP)


def _filter_cell(
    image: np.ndarray,
    unit: int,
    mark: str | None,
    label: str | None,
    patches: np.ndarray | None,
) -> np.ndarray:
    """One image of a unit, its patches to the right, its name below; a marked one says why."""
    picture = to_uint8(image)
    size = compute_legible_size(*picture.shape[:2], _PICTURE_EDGE, 256)
    column = max(size[1], 64)  # room for the name below a narrow image
    if mark is None:
        cell = resize_cells(picture, size)
    else:
        why = text_band(column, mark, ink=INK, background=EMPTY, centre=True)
        cell = _crossed(size[0], column)
        top = max((size[0] - why.shape[0]) // 2, 0)
        cell[top : top + why.shape[0]] = why[: size[0]]
    if patches is not None:
        cell = hstack([cell, _patch_block(patches, size[0])], gap=_PATCH_GAP + 1)
        column = max(column, cell.shape[1])
    name = f"unit {unit}" if label is None else label
    lines = wrap(name, column, SMALL, most=2)
    return vstack([cell, text_band(column, *lines, ink=INK, centre=True)], gap=2)


def filter_sheet(
    pictures: Array,
    units: Sequence[int],
    *,
    title: str,
    marks: Sequence[str | None] | None = None,
    labels: Sequence[str] | None = None,
    patches: Array | None = None,
    note: str | None = None,
) -> np.ndarray:
    """Images that excite units most (gradient ascent), one labelled cell for each unit.

    Args:
        pictures: ``(U, C, H, W)`` in [0, 1], C 1 or 3.
        units: the U units' numbers.
        title: the layer.
        marks: for each unit None, or why its image is none: such a cell is grey and crossed,
            with the mark written on it. An image with values that are not finite is marked so by
            itself.
        labels: what to write below the cells instead of "unit 7", such as class names.
        patches: ``(U, N, C, h, w)`` in [0, 1]: real images that excite the units, to the right
            of each image in two rows, read line by line; also beside marked ones. A patch with
            values that are not finite is grey and crossed.
        note: where the patches come from, for the line below the title.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: another shape of ``pictures`` or ``patches``, or lists of another length.
    """
    images = as_array(pictures)
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"filter pictures are (U, C, H, W), not {tuple(images.shape)}")
    count = len(images)
    marks = [None] * count if marks is None else list(marks)
    names = [None] * count if labels is None else labels
    if not len(units) == len(marks) == len(names) == count:
        raise ValueError(
            f"{count} images with {len(units)} units, {len(marks)} marks, {len(names)} labels"
        )
    real = [None] * count if patches is None else as_array(patches)
    if patches is not None and (real.ndim != 5 or len(real) != count or 0 in real.shape):
        raise ValueError(f"patches are ({count}, N, C, h, w), not {tuple(real.shape)}")
    for index in np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3))):
        marks[index] = marks[index] or "not finite"
    cells = [_filter_cell(*entry) for entry in zip(images, units, marks, names, real, strict=True)]
    sheet = tile(cells, _columns(count, max(cell.shape[1] for cell in cells)))
    missing = sum(mark is not None for mark in marks)
    alert = f"{missing} of {count} without a picture (crossed)" if missing else None
    facts = f"{count} units, {format_dimensions(*images.shape[2:])} pixels"
    if patches is not None:
        side = format_dimensions(*real.shape[3:])
        facts += f"; right of each the {real.shape[1]} patches ({side}) that excite it most"
        facts += f", {note}" if note else ""
    return add_title(sheet, title, facts, alert=alert)
