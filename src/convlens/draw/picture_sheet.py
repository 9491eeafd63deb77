"""Pictures with what is to be said about each: predictions, mistakes, augmentations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convlens.draw.canvas import blank, centred, hstack, text_band, tile, titled, vstack
from convlens.draw.palette import GREEN, INK, RED, WHITE
from convlens.draw.picture import Array, legible, scaled_to, to_uint8
from convlens.draw.text import SMALL, wrap

_LEGIBLE, _LARGEST = 112, 224  # longest edge of a picture, pixels
_NARROWEST = 112  # width of a column at least: captions need it
_BAND = 20  # height of the verdict, pixels


@dataclass(frozen=True)
class SheetEntry:
    """One picture of a sheet.

    Attributes:
        picture: ``(C, H, W)`` as for :func:`~convlens.draw.canvas.to_uint8`, as a person sees it.
        captions: lines below the picture; a long one takes two.
        correct: True for a green band "right" above the picture, False for a red one "wrong",
            None for none.
        panels: what stands beside the picture, each a name and an image uint8 ``(H, W, 3)``,
            brought to the picture's height.
    """

    picture: Array
    captions: Sequence[str] = ()
    correct: bool | None = None
    panels: Sequence[tuple[str, np.ndarray]] = ()


def _verdict(width: int, correct: bool | None) -> np.ndarray:
    """The band above a picture, ``width`` pixels wide; plain where nothing is judged."""
    if correct is None:
        return blank(_BAND, width)
    word, colour = ("right", GREEN) if correct else ("wrong", RED)
    text = text_band(width, word, bold=True, ink=WHITE, background=colour, centre=True)
    return centred(text, _BAND, width, colour)


def _cell(entry: SheetEntry, judged: bool) -> np.ndarray:
    """[verdict / picture and panels / captions] of one entry."""
    picture = legible(to_uint8(entry.picture), _LEGIBLE, _LARGEST)
    height, columns = picture.shape[0], [("picture", picture)]
    for name, image in entry.panels:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"a panel is uint8 (H, W, 3), not {image.dtype} {image.shape}")
        wide = max(1, round(image.shape[1] * height / image.shape[0]))
        columns.append((name, scaled_to(image, (height, wide))))
    images = [image for _, image in columns]
    if entry.panels:  # each in a column wide enough for its name
        images = [
            vstack([image, text_band(max(image.shape[1], _NARROWEST), name)], gap=2)
            for name, image in columns
        ]
    row = hstack(images, gap=4)
    room = max(row.shape[1], _NARROWEST)
    parts = [_verdict(room, entry.correct)] if judged else []
    parts.append(row)
    lines = [line for text in entry.captions for line in wrap(text, room, SMALL, most=2)]
    if lines:
        parts.append(text_band(room, *lines, ink=INK))
    return vstack(parts, gap=2)


def picture_sheet(entries: Sequence[SheetEntry], *, title: str, columns: int) -> np.ndarray:
    """Pictures in rows of ``columns``, each with its verdict above and its captions below.

    Small pictures are magnified by a whole factor, so that their pixels are seen; large ones are
    reduced to 224 pixels.

    Args:
        entries: drawn in this order.
        title: what the pictures have in common.
        columns: entries in a row, at most.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: no entry, no column, or a picture or panel of another shape.
    """
    judged = any(entry.correct is not None for entry in entries)
    return titled(tile([_cell(entry, judged) for entry in entries], columns, pad=14), title)


def augmentation_sheet(original: Array, draws: Array, title: str) -> np.ndarray:
    """One picture and what augmentation makes of it, as nearly square a sheet as the count allows.

    Args:
        original: ``(C, H, W)``.
        draws: ``(D, C, H, W)``, the same picture augmented D times.
        title: the picture.

    Raises:
        ValueError: another shape, or no draw.
    """
    if draws.ndim != 4 or len(draws) == 0:
        raise ValueError(f"draws are (D, C, H, W) with D at least 1, not {tuple(draws.shape)}")
    entries = [SheetEntry(original, ["original"])]
    entries += [SheetEntry(draw, [f"draw {number}"]) for number, draw in enumerate(draws, 1)]
    return picture_sheet(entries, title=title, columns=math.ceil(math.sqrt(len(entries))))
