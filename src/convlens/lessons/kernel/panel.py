"""Draw a kernel slid over an image: input, kernel, output, and one patch worked out in numbers.

Legend: ``C`` channels (1 or 3), ``H W`` height and width of the image, ``kh kw`` those of the
kernel, ``h w`` those of the output.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.draw.canvas import (
    GAP,
    Label,
    add_margin,
    add_title,
    blank,
    hstack,
    vstack,
    write_labels,
)
from convlens.draw.colour import colourise_signed
from convlens.draw.palette import INK, SLATE, WHITE
from convlens.draw.picture import Array, as_array, make_legible, to_uint8
from convlens.draw.text import BODY, format_dimensions, line_height, text_width
from convlens.lessons.kernel.arithmetic import (
    CHANNELS,
    WorkedPatch,
    describe_place,
    format_ending,
    format_value,
)
from convlens.lessons.kernel.maps import (
    LARGEST,
    LEGENDS,
    MARGIN,
    SMALLEST,
    KernelMaps,
    MapRow,
    add_captions,
    band,
    draw_maps,
    draw_row,
    frame_part,
)

_SECTION = 18  # pixels between two parts of the panel
_CELL = 22  # height in pixels of a cell with a number


def kernel_panel(
    image: Array,
    kernel: Array,
    outputs: KernelMaps,
    worked: WorkedPatch,
    *,
    title: str,
    subtitle: str,
    padding: tuple[tuple[int, int], tuple[int, int]],
    pooled: KernelMaps | None,
    rows: Sequence[MapRow] = (),
    is_grey: bool = False,
) -> np.ndarray:
    """Draw what a kernel computes from an image.

    The panel has these parts: the image, with its padding, and the kernel's weights; the output of
    each channel and the sum of the channels, blue below 0 and red above, or from black to white;
    the same after pooling, if there is any; further rows of maps; and the arithmetic of one patch,
    which has a yellow frame in the other parts. All channels share one scale. If the weights for
    every channel sum to 1, brightness is kept and the output is an image again, which is drawn too.

    For maps of 32 × 32 pixels or more, full colour is at the 99.5th percentile of the magnitudes;
    ≤ and ≥ at the colour bar mark values beyond it.

    Args:
        image: ``(C, H, W)``, uint8 or float in [0, 1].
        kernel: ``(kh, kw)``, the same for each channel, or ``(C, kh, kw)``, one for each.
        outputs: The kernel's output, for pixels from 0 to 255.
        worked: The patch to write out.
        title: Names of the kernel and of the image.
        subtitle: What the kernel responds to, and the settings.
        padding: Pixels of zeros, ((above, below), (left, right)).
        pooled: The channels and their sum after pooling; None if they are not pooled.
        rows: More maps, from top to bottom.
        is_grey: Whether maps are drawn from black to white.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    weights = as_array(kernel)
    parts = [
        _draw_input(to_uint8(image), weights, outputs, worked, padding),
        draw_maps(outputs, worked.place, is_grey=is_grey),
        *([draw_maps(pooled, None, pooled.sizes, is_grey=is_grey)] if pooled is not None else []),
        *(draw_row(row, worked.place, is_grey) for row in rows),
        _draw_arithmetic(weights, worked),
    ]
    return add_title(vstack(parts, gap=_SECTION), title, subtitle)


def _draw_input(
    picture: np.ndarray,
    weights: np.ndarray,
    outputs: KernelMaps,
    worked: WorkedPatch,
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> np.ndarray:
    """Draw the row [image | output as an image, if the weights sum to 1 | kernel]."""
    (above, below), (left, right) = padding
    height, width = picture.shape[:2]
    padded = blank(above + height + below, left + width + right, SLATE)
    padded[above : above + height, left : left + width] = picture
    notes = [band("yellow frame: the patch in numbers", muted=True)]
    if padded.size > picture.size:
        notes.insert(0, band("blue-grey border: padding, counted as 0", muted=True))
    corner = worked.corner[0] + above, worked.corner[1] + left
    picture = make_legible(padded, SMALLEST, LARGEST)
    picture = frame_part(picture, padded.shape[:2], corner, weights.shape[-2:])
    pictures = [add_captions(picture, f"image, {format_dimensions(height, width)}", *notes)]
    if (abs(weights.sum((-2, -1)) - 1) < 1e-9).all():
        maps = as_array(outputs.maps)
        result = add_margin(make_legible(to_uint8(maps / 255), SMALLEST, LARGEST), MARGIN)
        note = band("the output as an image, clipped to 0–255", muted=True)
        pictures.append(add_captions(result, f"result, {format_dimensions(*maps.shape[1:])}", note))
    return hstack([*pictures, _draw_kernel(weights, outputs.sizes)], gap=2 * GAP)


def _draw_kernel(weights: np.ndarray, sizes: Sequence[str]) -> np.ndarray:
    """Draw the weights as numbers, their sum, and the formulas of the output's size."""
    total, is_filter = format_value(weights.sum()), weights.ndim == 3
    plain = "0" if total == "0" else "its own value" if total == "1" else f"{total} times its value"
    area = "plain grey area" if is_filter else "plain area"
    if is_filter:
        cells = hstack(
            [
                add_captions(_draw_signed_cells(each, weights), name)
                for each, name in zip(weights, CHANNELS[len(weights)], strict=True)
            ]
        )
    else:
        cells = _draw_signed_cells(weights, weights)
    kernel = [
        band(f"kernel, {format_dimensions(*weights.shape)}"),
        cells,
        band(LEGENDS[False], muted=True),
        band(f"weights sum to {total}: a {area} gives {plain}", muted=True),
    ]
    lines = [
        band("size of the output", bold=True),
        band("⌊(n + 2p − k)/s⌋ + 1", muted=True),
        band("n image, p padding, k kernel, s stride", muted=True),
        *map(band, sizes),
    ]
    return vstack([vstack(kernel, gap=3), vstack(lines, gap=3)])


def _compute_cell_width(values: np.ndarray) -> int:
    """Return the width in pixels of a cell that has room for each of the numbers."""
    return max(_CELL, 8 + max(text_width(format_value(value)) for value in values.ravel()))


def _draw_cells(values: np.ndarray, colours: np.ndarray, width: int) -> np.ndarray:
    """Write numbers ``(kh, kw)`` into cells of the colours ``(kh, kw, 3)``, in black or white."""
    rows, columns = values.shape
    picture = blank(rows * (_CELL + 1), columns * (width + 1))
    cells = picture.reshape(rows, _CELL + 1, columns, width + 1, 3)
    cells[:, :_CELL, :, :width] = colours[:, None, :, None]
    labels = []
    for (row, column), value in np.ndenumerate(values):
        is_bright = float(colours[row, column] @ np.array([0.299, 0.587, 0.114])) > 130
        x, y = column * (width + 1) + width // 2, row * (_CELL + 1) + _CELL // 2
        labels.append(Label(x, y, format_value(value), INK if is_bright else WHITE, anchor="mm"))
    return write_labels(picture[:-1, :-1], labels)


def _draw_signed_cells(values: np.ndarray, all_values: np.ndarray) -> np.ndarray:
    """Write numbers on blue below 0 and red above.

    Args:
        values: The numbers, ``(kh, kw)``.
        all_values: Numbers of all channels, which set the scale and the width of the cells.
    """
    unit = values / (float(np.abs(all_values).max()) or 1)
    return _draw_cells(values, colourise_signed(unit, 1), _compute_cell_width(all_values))


def _draw_arithmetic(weights: np.ndarray, worked: WorkedPatch) -> np.ndarray:
    """Draw patch × kernel = products and their sum, one row for each channel."""
    patches, products = as_array(worked.patch), as_array(worked.products)
    inside, names = as_array(worked.inside), CHANNELS[len(patches)]
    greys = np.rint(patches)[..., None].clip(0, 255)
    backgrounds = np.where(inside[..., None], greys, SLATE).astype(np.uint8)
    width, height = _compute_cell_width(patches), weights.shape[-2]
    kernels = np.broadcast_to(weights, patches.shape)
    columns = {
        "channel": [_draw_label(name, height) for name in names],
        "patch, 0–255": [
            _draw_cells(*pair, width) for pair in zip(patches, backgrounds, strict=True)
        ],
        " ": [_draw_label("×", height)] * len(names),
        "kernel": [_draw_signed_cells(one, weights) for one in kernels],
        "  ": [_draw_label("=", height)] * len(names),
        "products": [_draw_signed_cells(one, products) for one in products],
        "their sum": [_draw_label(format_value(value), height, bold=True) for value in worked.sums],
    }
    table = [vstack([band(head, muted=True), *pictures]) for head, pictures in columns.items()]
    description = describe_place(worked.place, worked.corner, weights.shape[-2:])
    lines = [band("the framed patch in numbers", bold=True), band(description)]
    if not inside.all():
        lines.append(band("blue-grey cells are padding and count as 0", muted=True))
    if not np.array_equal(products, np.rint(products)):
        lines.append(band("numbers are rounded for display only", muted=True))
    parts = [vstack(lines, gap=2), hstack(table)]
    parts += [band(line, bold=True) for line in format_ending(worked)]
    return vstack(parts)


def _draw_label(text: str, rows: int, *, bold: bool = False) -> np.ndarray:
    """Draw a word centred vertically beside a matrix of ``rows`` rows."""
    height = rows * (_CELL + 1) - 1
    picture = blank(max(height, line_height(BODY)), text_width(text, BODY, bold))
    return write_labels(picture, [Label(0, height // 2, text, bold=bold)])
