"""Draw a sheet of images with captions: predictions, mistakes, augmentations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convlens.core.photograph import Photograph
from convlens.draw.canvas import add_title, blank, centre, text_band, tile, vstack
from convlens.draw.palette import GREEN, INK, RED, WHITE
from convlens.draw.photograph import as_photograph, fit_photograph
from convlens.draw.picture import Array
from convlens.draw.text import SMALL, shorten_path, wrap

_AUGMENTED = "The network is trained on versions like these, made anew in every epoch."
_EDGE = 224  # longest edge of an image, pixels
_NARROWEST = 150  # minimum width of a column in pixels, for the captions
_BAND = 20  # height of the band "right" or "wrong", pixels


@dataclass(frozen=True)
class SheetEntry:
    """One image of a sheet.

    Attributes:
        image: A photograph, or ``(C, H, W)`` as for ``convlens.draw.picture.to_uint8``.
        captions: Lines below the image; a long one wraps to two.
        correct: True for a green band "right" above the image, False for a red one "wrong",
            None for no band.
        source: The name by which a user finds the image; a long one loses its beginning.
    """

    image: Array | Photograph
    captions: Sequence[str] = ()
    correct: bool | None = None
    source: str = ""


def _draw_verdict(width: int, correct: bool | None) -> np.ndarray:
    """Draw the band "right" or "wrong" above an image, or a plain one if there is no verdict."""
    if correct is None:
        return blank(_BAND, width)
    word, colour = ("right", GREEN) if correct else ("wrong", RED)
    text = text_band(width, word, bold=True, ink=WHITE, background=colour, centre=True)
    return centre(text, _BAND, width, colour)


def _draw_cell(entry: SheetEntry, has_verdicts: bool) -> np.ndarray:
    """Draw [verdict / image / captions] of one entry."""
    image = fit_photograph(as_photograph(entry.image), _EDGE)
    room = max(image.shape[1], _NARROWEST)
    parts = [_draw_verdict(room, entry.correct)] if has_verdicts else []
    parts.append(image)
    lines = [line for text in entry.captions for line in wrap(text, room, SMALL, most=2)]
    if lines:
        parts.append(text_band(room, *lines, ink=INK))
    if entry.source:
        parts.append(text_band(room, shorten_path(entry.source, room, "/")))
    return vstack(parts, gap=2)


def picture_sheet(
    entries: Sequence[SheetEntry], *, title: str, columns: int, subtitle: str | None = None
) -> np.ndarray:
    """Draw images in rows, each with its verdict above and its captions below.

    Their longest edge has about 224 pixels. Tiny images are enlarged by an integer factor, so that
    their pixels are visible.

    Args:
        entries: The images, drawn in this order.
        title: What the images have in common.
        columns: Maximum number of entries in a row.
        subtitle: How to read the sheet.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no entry, ``columns`` is below 1, or an image has a wrong shape.
    """
    has_verdicts = any(entry.correct is not None for entry in entries)
    cells = [_draw_cell(entry, has_verdicts) for entry in entries]
    return add_title(tile(cells, columns, pad=14), title, subtitle)


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
    columns = math.ceil(math.sqrt(len(entries)))
    return picture_sheet(entries, title=title, columns=columns, subtitle=_AUGMENTED)
