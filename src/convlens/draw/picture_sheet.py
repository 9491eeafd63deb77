"""Images with what is to be said about each: predictions, mistakes, augmentations."""

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
_NARROWEST = 112  # width of a column at least: captions need it
_BAND = 20  # height of the verdict, pixels


@dataclass(frozen=True)
class SheetEntry:
    """One image of a sheet.

    Attributes:
        image: ``(C, H, W)`` as for :func:`~convlens.draw.canvas.to_uint8`, as a person sees it.
        captions: lines below the image; a long one takes two.
        correct: True for a green band "right" above the image, False for a red one "wrong",
            None for none.
        panels: what stands beside the image, each a name and a picture uint8 ``(H, W, 3)``,
            brought to the image's height.
    """

    image: Array
    captions: Sequence[str] = ()
    correct: bool | None = None
    panels: Sequence[tuple[str, np.ndarray]] = ()


def _verdict(width: int, correct: bool | None) -> np.ndarray:
    """The band above an image, ``width`` pixels wide; plain where nothing is judged."""
    if correct is None:
        return blank(_BAND, width)
    word, colour = ("right", GREEN) if correct else ("wrong", RED)
    text = text_band(width, word, bold=True, ink=WHITE, background=colour, centre=True)
    return centre(text, _BAND, width, colour)


def _cell(entry: SheetEntry, judged: bool) -> np.ndarray:
    """[verdict / image and panels / captions] of one entry."""
    image = make_legible(to_uint8(entry.image), _LEGIBLE, _LARGEST)
    height, columns = image.shape[0], [("image", image)]
    for name, picture in entry.panels:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"a panel is uint8 (H, W, 3), not {picture.dtype} {picture.shape}")
        wide = max(1, round(picture.shape[1] * height / picture.shape[0]))
        columns.append((name, resize_cells(picture, (height, wide))))
    pictures = [picture for _, picture in columns]
    if entry.panels:  # each in a column wide enough for its name
        pictures = [
            vstack([picture, text_band(max(picture.shape[1], _NARROWEST), name)], gap=2)
            for name, picture in columns
        ]
    row = hstack(pictures, gap=4)
    room = max(row.shape[1], _NARROWEST)
    parts = [_verdict(room, entry.correct)] if judged else []
    parts.append(row)
    lines = [line for text in entry.captions for line in wrap(text, room, SMALL, most=2)]
    if lines:
        parts.append(text_band(room, *lines, ink=INK))
    return vstack(parts, gap=2)


def picture_sheet(entries: Sequence[SheetEntry], *, title: str, columns: int) -> np.ndarray:
    """Images in rows of ``columns``, each with its verdict above and its captions below.

    Small images are magnified by a whole factor, so that their pixels are seen; large ones are
    reduced to 224 pixels.

    Args:
        entries: drawn in this order.
        title: what the images have in common.
        columns: entries in a row, at most.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: no entry, no column, or an image or panel of another shape.
    """
    judged = any(entry.correct is not None for entry in entries)
    return add_title(tile([_cell(entry, judged) for entry in entries], columns, pad=14), title)


def augmentation_sheet(original: Array, draws: Array, title: str) -> np.ndarray:
    """One image and what augmentation makes of it, as nearly square a sheet as the count allows.

    Args:
        original: ``(C, H, W)``.
        draws: ``(D, C, H, W)``, the same image augmented D times.
        title: the image.

    Raises:
        ValueError: another shape, or no draw.
    """
    if draws.ndim != 4 or len(draws) == 0:
        raise ValueError(f"draws are (D, C, H, W) with D at least 1, not {tuple(draws.shape)}")
    entries = [SheetEntry(original, ["original"])]
    entries += [SheetEntry(draw, [f"draw {number}"]) for number, draw in enumerate(draws, 1)]
    return picture_sheet(entries, title=title, columns=math.ceil(math.sqrt(len(entries))))
