"""Draw what filters look like: kernels, images from gradient ascent, patches of real images."""

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

_WIDEST = 1500  # maximum width of a row of cells, pixels
_KERNEL_EDGE, _PICTURE_EDGE = 48, 128  # minimum for the longest edge of a cell, pixels
_PATCH_GAP, _PATCH_EDGE = 2, 60  # gap between patches and their minimum edge, pixels


def _choose_columns(count: int, cell_width: int) -> int:
    """Return the number of cells in a row: at most 8, or 16 if there are many, in even rows."""
    fitting = max(1, (_WIDEST + GAP) // (cell_width + GAP))
    rows = -(-count // min(fitting, 8 if count <= 32 else 16))
    return -(-count // rows)


def draw_kernels(kernels: np.ndarray) -> tuple[list[np.ndarray], str]:
    """Draw kernels, each divided by its own largest magnitude.

    With three input channels a kernel is drawn as RGB around mid-grey, ``0.5 + 0.5 · w / max|w|``.
    Otherwise it is blue below zero, grey at zero and red above; several input channels are
    averaged, which shows the response to equal inputs.

    Args:
        kernels: ``(O, I, kh, kw)``.

    Returns:
        O pictures ``(kh, kw, 3)``, and how to read them, as text.
    """
    values = np.nan_to_num(kernels.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    inputs = values.shape[1]
    if inputs != 3:
        values = values.mean(axis=1, keepdims=True)
    peak = np.abs(values).max(axis=(1, 2, 3), keepdims=True)
    values = values / np.where(peak > 0, peak, 1)
    if inputs == 3:
        return [to_uint8(kernel / 2 + 0.5) for kernel in values], "as RGB around grey"
    reading = "as they are" if inputs == 1 else f"mean of {inputs} inputs"
    return [colourise_signed(kernel[0], 1) for kernel in values], reading


def kernel_sheet(kernels: Array, *, title: str) -> np.ndarray:
    """Draw the weights of a convolution, one numbered and magnified cell for each filter.

    Args:
        kernels: ``(O, I, kh, kw)``; ``draw_kernels`` explains the colours.
        title: The layer.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: ``kernels`` has a wrong shape.
    """
    values = as_array(kernels)
    if values.ndim != 4 or 0 in values.shape:
        raise ValueError(f"kernels must be (O, I, kh, kw), not {tuple(values.shape)}")
    count, inputs, height, width = values.shape
    pictures, reading = draw_kernels(values)
    size = compute_legible_size(height, width, _KERNEL_EDGE)
    # a kernel of 7 by 1 is too narrow for its number below it
    column = max(size[1], text_width(str(count - 1), SMALL))
    cells = [
        vstack([resize(picture, size), text_band(column, str(index), centre=True)], gap=1)
        for index, picture in enumerate(pictures)
    ]
    sheet = tile(cells, _choose_columns(count, column))
    shape = format_dimensions(inputs, height, width)
    facts = (
        f"{count} kernels {shape}, {reading}, each divided by its maximum; a unit responds most "
        "where the image looks like its kernel"
    )
    bad = int((~np.isfinite(values)).any(axis=(1, 2, 3)).sum())
    alert = f"{bad} of {count} not finite (drawn as 0)" if bad else None
    if inputs != 3:
        bar = colour_bar(min(220, max(160, sheet.shape[1])), "-max", "+max", name=DIVERGING)
        sheet = vstack([bar, sheet], gap=6)
    return add_title(sheet, title, facts, alert=alert)


def _draw_empty_cell(height: int, width: int) -> np.ndarray:
    """Draw the cell of a filter without an image: grey, with both diagonals."""
    cell = blank(height, width, EMPTY)
    rising, falling = diagonals(height, width, 1.0)
    cell[rising | falling] = MUTED
    return cell


def _fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draw an image as large as ``size`` allows, centred on a plain background.

    It is magnified by an integer factor, unless that would leave more than a fifth of the width
    and height empty.
    """
    picture = to_uint8(image)
    scale = min(size[0] / picture.shape[0], size[1] / picture.shape[1])
    is_integer = scale >= 1 and int(scale) >= 0.8 * scale
    scale = int(scale) if is_integer else scale
    height, width = (max(1, round(edge * scale)) for edge in picture.shape[:2])
    picture = resize(picture, (height, width), "nearest" if is_integer else "bilinear")
    return centre(picture, *size)


def _draw_patches(patches: np.ndarray, height: int) -> np.ndarray:
    """Draw the patches ``(N, C, h, w)`` of a unit in two rows, together ``height`` pixels high."""
    rows = min(2, len(patches))
    edge = max(_PATCH_EDGE, (height - _PATCH_GAP * (rows - 1)) // rows)
    cells = [
        _fit(patch, (edge, edge)) if np.isfinite(patch).all() else _draw_empty_cell(edge, edge)
        for patch in patches
    ]
    return tile(cells, -(-len(cells) // rows), _PATCH_GAP)


def _draw_filter_cell(
    image: np.ndarray,
    unit: int,
    mark: str | None,
    label: str | None,
    patches: np.ndarray | None,
) -> np.ndarray:
    """Draw the image of one unit, with its patches to the right and its name below.

    Args:
        image: ``(C, H, W)``.
        unit: Number of the unit.
        mark: Why the unit has no image; None if it has one.
        label: Text below the image; None for the unit's number.
        patches: ``(N, C, h, w)``; None for no patches.
    """
    picture = to_uint8(image)
    size = compute_legible_size(*picture.shape[:2], _PICTURE_EDGE, 256)
    column = max(size[1], 64)  # room for the name below a narrow image
    if mark is None:
        cell = resize_cells(picture, size)
    else:
        reason = text_band(column, mark, ink=INK, background=EMPTY, centre=True)
        cell = _draw_empty_cell(size[0], column)
        top = max((size[0] - reason.shape[0]) // 2, 0)
        cell[top : top + reason.shape[0]] = reason[: size[0]]
    if patches is not None:
        cell = hstack([cell, _draw_patches(patches, size[0])], gap=_PATCH_GAP + 1)
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
    source: str = "real images",
    choice: str | None = None,
) -> np.ndarray:
    """Draw the images that excite units most (gradient ascent), one labelled cell for each unit.

    Args:
        pictures: ``(U, C, H, W)`` in [0, 1], C 1 or 3.
        units: Numbers of the U units.
        title: The layer.
        marks: For each unit None, or the reason why it has no image. The cell is then grey and
            crossed and shows the reason. Images with values that are not finite are marked
            automatically.
        labels: Texts below the cells, such as class names; None for "unit 7".
        patches: ``(U, N, C, h, w)`` in [0, 1], patches of real images that excite the units. They
            are drawn to the right of each image, in two rows read line by line, even for units
            without an image. A patch with values that are not finite is grey and crossed.
        source: Where the patches come from, for the text below the title.
        choice: How the units were chosen, for the text below the title.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: ``pictures`` or ``patches`` has a wrong shape, or the lists differ in length.
    """
    images = as_array(pictures)
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"filter pictures must be (U, C, H, W), not {tuple(images.shape)}")
    count = len(images)
    marks = [None] * count if marks is None else list(marks)
    names = [None] * count if labels is None else labels
    if not len(units) == len(marks) == len(names) == count:
        raise ValueError(
            f"{count} images need as many units, marks and labels, not {len(units)} units, "
            f"{len(marks)} marks and {len(names)} labels"
        )
    examples = [None] * count if patches is None else as_array(patches)
    if patches is not None and (
        examples.ndim != 5 or len(examples) != count or 0 in examples.shape
    ):
        raise ValueError(f"patches must be ({count}, N, C, h, w), not {tuple(examples.shape)}")
    for index in np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3))):
        marks[index] = marks[index] or "not finite"
    cells = [
        _draw_filter_cell(*entry)
        for entry in zip(images, units, marks, names, examples, strict=True)
    ]
    sheet = tile(cells, _choose_columns(count, max(cell.shape[1] for cell in cells)))
    missing = sum(mark is not None for mark in marks)
    alert = f"{missing} of {count} without an image (crossed)" if missing else None
    facts = f"each picture ({format_dimensions(*images.shape[2:])} pixels) was optimised to "
    facts += "excite one unit"
    if patches is not None:
        side = format_dimensions(*examples.shape[3:])
        facts += f"; beside it, the {examples.shape[1]} parts ({side}) of {source} that excite the "
        facts += "unit most"
    facts += f"; {choice}" if choice else ""
    return add_title(sheet, title, facts, alert=alert)
