"""Draw a sheet of images with captions: predictions, mistakes, augmentations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convlens.draw.canvas import add_title, blank, centre, hstack, text_band, tile, vstack
from convlens.draw.palette import GREEN, INK, RED, WHITE
from convlens.draw.picture import Array, make_legible, resize_cells, to_uint8
from convlens.draw.text import SMALL, wrap

_LEGIBLE, _LARGEST = 112, 224  # longest edge of an image, pixels
_NARROWEST = 112  # minimum width of a column in pixels, for the captions
_BAND = 20  # height of the band "right" or "wrong", pixels


@dataclass(frozen=True)
class SheetEntry:
    """One image of a sheet.

    Attributes:
        image: ``(C, H, W)`` before normalisation, as for ``convlens.draw.picture.to_uint8``.
        captions: Lines below the image; a long one wraps to two.
        correct: True for a green band "right" above the image, False for a red one "wrong",
            None for no band.
        panels: Name and picture, uint8 ``(H, W, 3)``, of each panel to the right of the image; they
            are resized to the height of the image.
    """

    image: Array
    captions: Sequence[str] = ()
    correct: bool | None = None
    panels: Sequence[tuple[str, np.ndarray]] = ()


def _draw_verdict(width: int, correct: bool | None) -> np.ndarray:
    """Draw the band "right" or "wrong" above an image, or a plain one if there is no verdict."""
    if correct is None:
        return blank(_BAND, width)
    word, colour = ("right", GREEN) if correct else ("wrong", RED)
    text = text_band(width, word, bold=True, ink=WHITE, background=colour, centre=True)
    return centre(text, _BAND, width, colour)


def _draw_cell(entry: SheetEntry, has_verdicts: bool) -> np.ndarray:
    """Draw [verdict / image and panels / captions] of one entry."""
    image = make_legible(to_uint8(entry.image), _LEGIBLE, _LARGEST)
    height, columns = image.shape[0], [("image", image)]
    for name, picture in entry.panels:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"a panel must be uint8 (H, W, 3), not {picture.dtype} {picture.shape}"
            )
        wide = max(1, round(picture.shape[1] * height / picture.shape[0]))
        columns.append((name, resize_cells(picture, (height, wide))))
    pictures = [picture for _, picture in columns]
    if entry.panels:  # each column is wide enough for its name
        pictures = [
            vstack([picture, text_band(max(picture.shape[1], _NARROWEST), name)], gap=2)
            for name, picture in columns
        ]
    row = hstack(pictures, gap=4)
    room = max(row.shape[1], _NARROWEST)
    parts = [_draw_verdict(room, entry.correct)] if has_verdicts else []
    parts.append(row)
    lines = [line for text in entry.captions for line in wrap(text, room, SMALL, most=2)]
    if lines:
        parts.append(text_band(room, *lines, ink=INK))
    return vstack(parts, gap=2)


def picture_sheet(entries: Sequence[SheetEntry], *, title: str, columns: int) -> np.ndarray:
    """Draw images in rows, each with its verdict above and its captions below.

    Small images are magnified by an integer factor, so that their pixels are visible; large ones
    are reduced to 224 pixels.

    Args:
        entries: The images, drawn in this order.
        title: What the images have in common.
        columns: Maximum number of entries in a row.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no entry, ``columns`` is below 1, or an image or panel has a wrong
            shape.
    """
    has_verdicts = any(entry.correct is not None for entry in entries)
    cells = [_draw_cell(entry, has_verdicts) for entry in entries]
    return add_title(tile(cells, columns, pad=14), title)


def augmentation_sheet(original: Array, draws: Array, title: str) -> np.ndarray:
    """Draw an image and its augmented versions on a roughly square sheet.

    Args:
        original: ``(C, H, W)``.
        draws: ``(D, C, H, W)``, the same image augmented D times.
        title: Name of the image.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: ``draws`` has a wrong shape or is empty.
    """
    if draws.ndim != 4 or len(draws) == 0:
        raise ValueError(f"draws must be (D, C, H, W) with D at least 1, not {tuple(draws.shape)}")
    entries = [SheetEntry(original, ["original"])]
    entries += [SheetEntry(draw, [f"draw {number}"]) for number, draw in enumerate(draws, 1)]
    return picture_sheet(entries, title=title, columns=math.ceil(math.sqrt(len(entries))))
