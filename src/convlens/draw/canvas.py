"""Compose panels from pictures: stacking, tiling, text, and the title above."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from convlens.draw.palette import BACKGROUND, INK, MUTED, RED, Colour
from convlens.draw.text import (
    BODY,
    SMALL,
    TITLE,
    font,
    line_height,
    printable,
    shorten,
    text_width,
    wrap,
)

BLOCK = 8  # JPEG codes blocks of so many pixels: what is aligned with them takes fewer bytes
PAD = 2 * BLOCK  # pixels around a panel
GAP = 8  # pixels between the pictures of a panel
_TITLE_MAY_WIDEN_TO = 420  # pixels that a long title may widen the canvas to before it wraps


def blank(height: int, width: int, colour: Colour = BACKGROUND) -> np.ndarray:
    """Return a plain picture of one colour."""
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:1] = colour
    canvas[1:] = canvas[:1]  # copying whole rows is ten times faster than setting pixels
    return canvas


def _stack(pictures: Sequence[np.ndarray], axis: int, gap: int) -> np.ndarray:
    """Place pictures in a line along ``axis``; shorter ones are padded at the far edge."""
    if not pictures:
        raise ValueError("nothing to stack: the list of pictures is empty")
    size = [max(picture.shape[edge] for picture in pictures) for edge in (0, 1)]
    size[axis] = sum(picture.shape[axis] for picture in pictures) + gap * (len(pictures) - 1)
    canvas = blank(*size)
    along, start = canvas.swapaxes(0, axis), 0  # a view
    for picture in pictures:
        part = picture.swapaxes(0, axis)
        along[start : start + len(part), : part.shape[1]] = part
        start += len(part) + gap
    return canvas


def hstack(pictures: Sequence[np.ndarray], gap: int = GAP) -> np.ndarray:
    """Place pictures side by side, ``gap`` pixels apart, aligned at the top."""
    return _stack(pictures, 1, gap)


def vstack(pictures: Sequence[np.ndarray], gap: int = GAP) -> np.ndarray:
    """Place pictures below each other, ``gap`` pixels apart, aligned at the left."""
    return _stack(pictures, 0, gap)


def add_captions(*columns: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Place pictures side by side, each with its caption below."""
    return hstack([vstack(column, gap=2) for column in columns])


def tile(pictures: Sequence[np.ndarray], columns: int, pad: int = GAP) -> np.ndarray:
    """Place pictures in rows of ``columns``, ``pad`` pixels apart; all cells have the largest size.

    With fewer pictures than ``columns`` there is one row without empty cells.

    Raises:
        ValueError: There is no picture, or ``columns`` is below 1.
    """
    if not pictures or columns < 1:
        raise ValueError(f"cannot tile {len(pictures)} pictures in {columns} columns")
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    canvas = blank(rows * (height + pad) - pad, columns * (width + pad) - pad)
    for index, picture in enumerate(pictures):
        top, left = index // columns * (height + pad), index % columns * (width + pad)
        canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


def centre(picture: np.ndarray, height: int, width: int, colour: Colour = BACKGROUND) -> np.ndarray:
    """Place ``picture`` centrally on a plain background of at least ``height`` × ``width``."""
    tall, wide = picture.shape[:2]
    canvas = blank(max(height, tall), max(width, wide), colour)
    top, left = (canvas.shape[0] - tall) // 2, (canvas.shape[1] - wide) // 2
    canvas[top : top + tall, left : left + wide] = picture
    return canvas


def add_margin(picture: np.ndarray, pad: int = PAD) -> np.ndarray:
    """Add a margin of ``pad`` pixels all around ``picture``."""
    return centre(picture, picture.shape[0] + 2 * pad, picture.shape[1] + 2 * pad)


def diagonals(height: int, width: int, thickness: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of the rising and the falling diagonal, bool ``(height, width)`` each."""
    y, x = np.mgrid[:height, :width]
    y, x = (y + 0.5) / height, (x + 0.5) / width
    thin = thickness / min(height, width)
    return np.abs(y + x - 1) <= thin, np.abs(y - x) <= thin


@dataclass(frozen=True)
class Label:
    """A line of text and its position.

    Attributes:
        x: Column of the anchor in pixels.
        y: Row of the anchor in pixels.
        text: The text.
        ink: Its colour.
        size: Height of the letters in pixels.
        bold: Whether the text is bold.
        anchor: Pillow's anchor: "lm" puts (x, y) at the left end of the text, "mm" at its middle,
            "rm" at its right end, always at half its height.
    """

    x: int
    y: int
    text: str
    ink: Colour = INK
    size: int = BODY
    bold: bool = False
    anchor: str = "lm"


def write_labels(picture: np.ndarray, labels: Iterable[Label]) -> np.ndarray:
    """Return a copy of ``picture`` with ``labels`` on it, converted once for all labels."""
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    for label in labels:
        letters, place = font(label.size, label.bold), (label.x, label.y)
        pen.text(place, printable(label.text), label.ink, letters, anchor=label.anchor)
    return np.array(canvas)


def text_band(
    width: int,
    *lines: str,
    size: int = SMALL,
    bold: bool = False,
    ink: Colour = MUTED,
    background: Colour = BACKGROUND,
    centre: bool = False,
) -> np.ndarray:
    """Return a picture with lines of text, each shortened to fit.

    Args:
        width: Width of the picture in pixels.
        *lines: The lines of text.
        size: Height of the letters in pixels.
        bold: Whether the text is bold.
        ink: Colour of the text.
        background: Colour of the background.
        centre: Whether lines are centred instead of left-aligned.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    step = line_height(size)
    x, anchor = (width // 2, "mm") if centre else (0, "lm")
    labels = []
    for index, line in enumerate(lines):
        text = shorten(line, width, size, bold)
        labels.append(Label(x, index * step + step // 2, text, ink, size, bold, anchor))
    return write_labels(blank(step * len(lines), width, background), labels)


def add_title(
    picture: np.ndarray, title: str, subtitle: str | None = None, *, alert: str | None = None
) -> np.ndarray:
    """Frame ``picture`` and add a bold ``title``, a muted ``subtitle`` and a red ``alert`` above.

    A title that is too long first widens a narrow canvas a little, then wraps, then is cut with
    ``…``. The picture itself is unchanged at the lower left: its last row and its first column are
    ``PAD`` pixels from the edges. Its first row is at a multiple of ``BLOCK``.
    """
    texts = [(title, TITLE, True, INK), (subtitle, BODY, False, MUTED), (alert, BODY, False, RED)]
    texts = [entry for entry in texts if entry[0]]
    if not texts:
        return add_margin(picture)
    needed = max(text_width(printable(text), size, bold) for text, size, bold, _ in texts)
    width = max(picture.shape[1], min(needed, _TITLE_MAY_WIDEN_TO))
    bands = [
        text_band(width, *wrap(text, width, size, bold), size=size, bold=bold, ink=ink)
        for text, size, bold, ink in texts
    ]
    heading = vstack(bands, gap=2)
    return add_margin(vstack([align(heading)[:, :width], picture]))


def align(picture: np.ndarray) -> np.ndarray:
    """Pad a picture at the bottom and the right, so that what follows starts at a JPEG block."""
    rows, columns = (-(-side // BLOCK) * BLOCK for side in picture.shape[:2])
    canvas = blank(rows, columns)
    canvas[: picture.shape[0], : picture.shape[1]] = picture
    return canvas
