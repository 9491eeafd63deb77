"""Panels from images: stacking, tiling, lettering, and the title above."""

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

PAD = 12  # pixels around a panel
GAP = 8  # pixels between the images of a panel
_TITLE_MAY_WIDEN_TO = 420  # a narrow image gets a wider canvas up to here, then the title wraps


def blank(height: int, width: int, colour: Colour = BACKGROUND) -> np.ndarray:
    """A plain image of one colour."""
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:1] = colour
    canvas[1:] = canvas[:1]  # whole rows: ten times faster than pixel by pixel
    return canvas


def _stack(images: Sequence[np.ndarray], axis: int, gap: int) -> np.ndarray:
    """Images in a line along ``axis``, the shorter ones filled up at the far edge."""
    if not images:
        raise ValueError("nothing to stack: the list of images is empty")
    size = [max(image.shape[edge] for image in images) for edge in (0, 1)]
    size[axis] = sum(image.shape[axis] for image in images) + gap * (len(images) - 1)
    canvas = blank(*size)
    along, start = canvas.swapaxes(0, axis), 0  # a view
    for image in images:
        part = image.swapaxes(0, axis)
        along[start : start + len(part), : part.shape[1]] = part
        start += len(part) + gap
    return canvas


def hstack(images: Sequence[np.ndarray], gap: int = GAP) -> np.ndarray:
    """Images side by side, ``gap`` pixels apart, aligned at the top."""
    return _stack(images, 1, gap)


def vstack(images: Sequence[np.ndarray], gap: int = GAP) -> np.ndarray:
    """Images one below the other, ``gap`` pixels apart, aligned at the left."""
    return _stack(images, 0, gap)


def captioned(*columns: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Images side by side, each above its caption."""
    return hstack([vstack(column, gap=2) for column in columns])


def tile(images: Sequence[np.ndarray], columns: int, pad: int = GAP) -> np.ndarray:
    """Images in rows of ``columns``, ``pad`` pixels apart; every cell has the largest one's size.

    With fewer images than ``columns`` the row is as long as there are images.
    """
    if not images or columns < 1:
        raise ValueError(f"cannot tile {len(images)} images in {columns} columns")
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    canvas = blank(rows * (height + pad) - pad, columns * (width + pad) - pad)
    for index, image in enumerate(images):
        top, left = index // columns * (height + pad), index % columns * (width + pad)
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def centred(image: np.ndarray, height: int, width: int, colour: Colour = BACKGROUND) -> np.ndarray:
    """``image`` in the middle of a plain ground of at least ``height`` × ``width`` pixels."""
    tall, wide = image.shape[:2]
    ground = blank(max(height, tall), max(width, wide), colour)
    top, left = (ground.shape[0] - tall) // 2, (ground.shape[1] - wide) // 2
    ground[top : top + tall, left : left + wide] = image
    return ground


def framed(image: np.ndarray, pad: int = PAD) -> np.ndarray:
    """``image`` with a margin of ``pad`` pixels all around."""
    return centred(image, image.shape[0] + 2 * pad, image.shape[1] + 2 * pad)


def diagonals(height: int, width: int, thickness: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the rising and of the falling diagonal, bool ``(height, width)`` each."""
    y, x = np.mgrid[:height, :width]
    y, x = (y + 0.5) / height, (x + 0.5) / width
    thin = thickness / min(height, width)
    return np.abs(y + x - 1) <= thin, np.abs(y - x) <= thin


@dataclass(frozen=True)
class Label:
    """A line of text and where it stands: ``x``, ``y`` in pixels, at the anchor's point.

    ``anchor`` is Pillow's: "lm" puts (x, y) at the left end and half the height, "mm" at the
    middle, "rm" at the right end.
    """

    x: int
    y: int
    text: str
    ink: Colour = INK
    size: int = BODY
    bold: bool = False
    anchor: str = "lm"


def write(image: np.ndarray, labels: Iterable[Label]) -> np.ndarray:
    """A copy of ``image`` with ``labels`` on it (one conversion for any number of them)."""
    canvas = Image.fromarray(image)
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
    """An image ``width`` pixels wide with ``lines`` of text, each shortened to fit.

    ``size`` is the letters' height in pixels.
    """
    step = line_height(size)
    x, anchor = (width // 2, "mm") if centre else (0, "lm")
    labels = []
    for index, line in enumerate(lines):
        text = shorten(line, width, size, bold)
        labels.append(Label(x, index * step + step // 2, text, ink, size, bold, anchor))
    return write(blank(step * len(lines), width, background), labels)


def titled(
    image: np.ndarray, title: str, subtitle: str | None = None, *, alert: str | None = None
) -> np.ndarray:
    """``image`` framed, below a bold ``title``, a muted ``subtitle`` and a red ``alert``.

    Too long a title widens a narrow canvas a little, then wraps, then ends in ``…``. The image
    itself is unchanged and stands at the lower left: its last row and first column lie ``PAD``
    pixels from the edges.
    """
    texts = [(title, TITLE, True, INK), (subtitle, BODY, False, MUTED), (alert, BODY, False, RED)]
    texts = [entry for entry in texts if entry[0]]
    if not texts:
        return framed(image)
    wish = max(text_width(printable(text), size, bold) for text, size, bold, _ in texts)
    width = max(image.shape[1], min(wish, _TITLE_MAY_WIDEN_TO))
    bands = [
        text_band(width, *wrap(text, width, size, bold), size=size, bold=bold, ink=ink)
        for text, size, bold, ink in texts
    ]
    return framed(vstack([vstack(bands, gap=2), image]))
