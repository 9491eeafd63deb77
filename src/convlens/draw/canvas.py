"""Pictures as arrays: conversion, resizing, stacking, tiling, lettering.

Two words are used throughout ``draw/``: a *picture* is what a network sees, ``(C, H, W)`` with C
1 or 3, float in [0, 1] or uint8, torch tensor or numpy array; an *image* is something drawn,
uint8 numpy ``(H, W, 3)``. Maps and pictures come in, images go out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageDraw

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

if TYPE_CHECKING:
    import torch

    Array = np.ndarray | torch.Tensor
else:
    Array = Any

Colour = tuple[int, int, int]

BACKGROUND: Colour = (250, 250, 251)
INK: Colour = (30, 34, 42)
MUTED: Colour = (100, 107, 118)
RED: Colour = (214, 40, 57)
GREEN: Colour = (22, 128, 78)
SLATE: Colour = (84, 96, 116)
GREY: Colour = (150, 154, 160)

PAD = 12  # pixels around a panel
GAP = 8  # pixels between the images of a panel

_LEGIBLE, _LARGEST = 144, 320  # longest edge of one image in a panel, pixels
_TITLE_MAY_WIDEN_TO = 420  # a narrow image gets a wider canvas up to here, then the title wraps


def as_array(values: Array) -> np.ndarray:
    """A torch tensor (any device, any precision, with or without graph) or array as numpy."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def to_uint8(picture: Array) -> np.ndarray:
    """A picture ``(C, H, W)`` or ``(H, W)`` as an image, uint8 ``(H, W, 3)``.

    C is 1 (grey) or 3 (RGB). Floats are taken to lie in [0, 1]: 1 is full brightness, values
    outside are clipped, NaN becomes black. uint8 passes unchanged. The result is a copy.

    Raises:
        ValueError: the shape or the dtype is none of these.
    """
    values = as_array(picture)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[0] not in (1, 3) or 0 in values.shape:
        raise ValueError(f"a picture is (1 or 3, H, W), not {tuple(values.shape)}")
    if values.dtype != np.uint8:
        if values.dtype.kind != "f":
            raise ValueError(f"a picture is uint8 or float in [0, 1], not {values.dtype}")
        finite = np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0)
        values = np.rint(finite.clip(0, 1) * 255).astype(np.uint8)
    image = np.moveaxis(values, 0, 2)
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))).copy()


def resize(
    image: np.ndarray,
    size: int | tuple[int, int],
    how: Literal["nearest", "bilinear"] = "nearest",
) -> np.ndarray:
    """``image`` (uint8 ``(H, W, 3)``, or a float map ``(H, W)``) at another size.

    ``size`` is (height, width), or one number for the longest edge, the aspect kept. "nearest"
    repeats or drops pixels; "bilinear" interpolates between pixel centres and averages when it
    reduces. A float map stays float32.
    """
    if how not in ("nearest", "bilinear"):
        raise ValueError(f'how is "nearest" or "bilinear", not {how!r}')
    old = image.shape[:2]
    if isinstance(size, int):
        height, width = (max(1, round(edge * size / max(old))) for edge in old)
    else:
        height, width = size
    if (height, width) == old:
        return image
    if how == "nearest":
        # the source pixel under each target pixel's centre, in whole numbers
        rows = (2 * np.arange(height) + 1) * old[0] // (2 * height)
        columns = (2 * np.arange(width) + 1) * old[1] // (2 * width)
        return image[rows[:, None], columns]
    source = Image.fromarray(image if image.dtype == np.uint8 else image.astype(np.float32))
    return np.asarray(source.resize((width, height), Image.Resampling.BILINEAR))


def scaled_to(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``image`` at (height, width): pixels repeated where it grows, averaged where it shrinks."""
    return resize(image, size, "bilinear" if size[0] < image.shape[0] else "nearest")


def legible_size(
    height: int, width: int, smallest: int = _LEGIBLE, largest: int = _LARGEST
) -> tuple[int, int]:
    """The size at which a picture of ``height`` × ``width`` pixels is shown in a panel.

    A small one grows by the least whole factor that brings its longest edge to ``smallest``; one
    longer than ``largest`` is reduced to it; in between it stays as it is.
    """
    edge = max(height, width)
    if edge > largest:
        return max(1, round(height * largest / edge)), max(1, round(width * largest / edge))
    factor = -(-smallest // edge)
    return height * factor, width * factor


def blank(height: int, width: int, colour: Colour = BACKGROUND) -> np.ndarray:
    """A plain image of one colour."""
    canvas = np.empty((height, width, 3), np.uint8)
    if height:
        canvas[0] = colour
        canvas[1:] = canvas[0]  # whole rows: ten times faster than pixel by pixel
    return canvas


def _place(images: Sequence[np.ndarray], axis: int, gap: int, background: Colour) -> np.ndarray:
    """Images in a line along ``axis``, the shorter ones filled up at the far edge."""
    if not images:
        raise ValueError("nothing to stack: the list of images is empty")
    across = 1 - axis
    breadth = max(image.shape[across] for image in images)
    length = sum(image.shape[axis] for image in images) + gap * (len(images) - 1)
    canvas = blank(*((length, breadth) if axis == 0 else (breadth, length)), background)
    start = 0
    for image in images:
        end = start + image.shape[axis]
        if axis == 0:
            canvas[start:end, : image.shape[1]] = image
        else:
            canvas[: image.shape[0], start:end] = image
        start = end + gap
    return canvas


def hstack(
    images: Sequence[np.ndarray], gap: int = GAP, background: Colour = BACKGROUND
) -> np.ndarray:
    """Images side by side, ``gap`` pixels apart, aligned at the top."""
    return _place(images, 1, gap, background)


def vstack(
    images: Sequence[np.ndarray], gap: int = GAP, background: Colour = BACKGROUND
) -> np.ndarray:
    """Images one below the other, ``gap`` pixels apart, aligned at the left."""
    return _place(images, 0, gap, background)


def tile(
    images: Sequence[np.ndarray],
    columns: int,
    pad: int = GAP,
    background: Colour = BACKGROUND,
) -> np.ndarray:
    """Images in rows of ``columns``, ``pad`` pixels apart; every cell has the largest one's size.

    With fewer images than ``columns`` the row is as long as there are images.
    """
    if not images or columns < 1:
        raise ValueError(f"cannot tile {len(images)} images in {columns} columns")
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    canvas = blank(rows * (height + pad) - pad, columns * (width + pad) - pad, background)
    for index, image in enumerate(images):
        top, left = index // columns * (height + pad), index % columns * (width + pad)
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def framed(image: np.ndarray, pad: int = PAD, background: Colour = BACKGROUND) -> np.ndarray:
    """``image`` with a margin of ``pad`` pixels all around."""
    canvas = blank(image.shape[0] + 2 * pad, image.shape[1] + 2 * pad, background)
    canvas[pad:-pad, pad:-pad] = image
    return canvas


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
        letters = font(label.size, label.bold)
        place = (label.x, label.y)
        pen.text(place, printable(label.text), label.ink, letters, anchor=label.anchor)
    return np.array(canvas)


def text_band(
    width: int,
    lines: Sequence[str],
    *,
    size: int = BODY,
    bold: bool = False,
    ink: Colour = INK,
    background: Colour = BACKGROUND,
    align: Literal["left", "center", "right"] = "left",
) -> np.ndarray:
    """An image ``width`` pixels wide with ``lines`` of text, each shortened to fit.

    ``size`` is the letters' height in pixels, at least 11.
    """
    size, step = max(size, SMALL), line_height(max(size, SMALL))
    x, anchor = {"left": (0, "lm"), "center": (width // 2, "mm"), "right": (width, "rm")}[align]
    band = blank(max(1, step * len(lines)), width, background)
    return write(
        band,
        [
            Label(
                x,
                index * step + step // 2,
                shorten(line, width, size, bold),
                ink,
                size,
                bold,
                anchor,
            )
            for index, line in enumerate(lines)
        ],
    )


def titled(
    image: np.ndarray,
    title: str,
    subtitle: str | None = None,
    *,
    alert: str | None = None,
) -> np.ndarray:
    """``image`` framed, below a bold ``title``, a muted ``subtitle`` and a red ``alert``.

    Too long a title widens a narrow canvas a little, then wraps, then ends in ``…``. The image
    itself is unchanged and stands at the lower left: its last row and first column lie ``PAD``
    pixels from the edges.
    """
    texts = [(title, TITLE, True, INK), (subtitle, BODY, False, MUTED), (alert, BODY, False, RED)]
    texts = [entry for entry in texts if entry[0]]
    wish = max((text_width(printable(t), size, bold) for t, size, bold, _ in texts), default=0)
    width = max(image.shape[1], min(wish, _TITLE_MAY_WIDEN_TO))
    bands = [
        text_band(width, wrap(text, width, size, bold), size=size, bold=bold, ink=ink)
        for text, size, bold, ink in texts
    ]
    if not bands:
        return framed(image)
    return framed(vstack([vstack(bands, gap=2), image], gap=GAP))
