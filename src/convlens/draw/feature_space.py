"""Draw images where the network places them: thumbnails in two dimensions.

Legend: ``N`` images, ``K`` classes, ``h w`` height and width of a thumbnail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from convlens.draw.canvas import Label, add_title, blank, text_band, vstack, write_labels
from convlens.draw.palette import CLASSES, EMPTY, GREY, INK, RED, WHITE, Colour
from convlens.draw.picture import Array, resize, resize_cells, to_uint8
from convlens.draw.text import SMALL, line_height, shorten, text_width

THUMBNAIL = 42  # longest side of a thumbnail, pixels
_SIDE = 720  # of the square, pixels
_FRAME = 3  # width of a thumbnail's frame, pixels
_MARGIN = THUMBNAIL // 2 + _FRAME + 2  # from the outermost points to the edge, pixels
_RADIUS = 5  # of a dot, pixels
_NAME = 150  # maximum width of a class name, pixels
_READING = (
    "Two principal components of what the last layer reads, turned to fit the look before: near "
    "images are alike for it. Dots: images without room."
)


def make_thumbnail(image: Array) -> np.ndarray:
    """Return an image ``(C, H, W)`` as a picture with its longest side at ``THUMBNAIL`` pixels."""
    picture = to_uint8(image)
    height, width = picture.shape[:2]
    scale = THUMBNAIL / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return resize(picture, size, "bilinear") if scale < 1 else resize_cells(picture, size)


def feature_space(
    points: np.ndarray, thumbnails: Sequence[np.ndarray], labels: np.ndarray, wrong: np.ndarray,
    class_names: Sequence[str], shares: np.ndarray, *, title: str,
) -> np.ndarray:  # fmt: skip
    """Draw each image at its place, framed in the colour of its class.

    Of thumbnails that would overlap, one is drawn, and a dot for each of the others: wrong ones
    come first, then the order is that of the images. With more classes than colours, frames are
    grey.

    Args:
        points: ``(N, 2)``, the places; both axes have the same scale. Images whose place is not
            finite are counted above the picture.
        thumbnails: N pictures from ``make_thumbnail``.
        labels: ``(N,)`` the true classes; -1 if unknown.
        wrong: ``(N,)`` bool, images with another prediction.
        class_names: K names.
        shares: ``(2,)``, the fraction of the variance along each axis; NaN if there is none.
        title: The heading of the picture.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: No place is finite, or the lengths differ.
    """
    count = len(points)
    if points.shape != (count, 2) or {len(thumbnails), len(labels), len(wrong)} != {count}:
        lengths = f"{len(thumbnails)} thumbnails, {len(labels)} labels, {len(wrong)} predictions"
        raise ValueError(f"places must be (N, 2), not {points.shape}, for {lengths}")
    known = np.flatnonzero(np.isfinite(points).all(axis=1))
    known = known[np.argsort(~wrong[known], kind="stable")]
    if not len(known):
        raise ValueError("a feature space needs at least one image with a finite place")
    coloured = len(class_names) <= len(CLASSES)
    square = _draw_square(
        points[known],
        [thumbnails[row] for row in known],
        [CLASSES[k] if k >= 0 and coloured else GREY for k in labels[known].tolist()],
        wrong[known].tolist(),
    )
    entries = [
        (CLASSES[k], class_names[k]) for k in sorted(set(labels.tolist())) if k >= 0 and coloured
    ]
    if wrong.any():
        entries.append((RED, f"red corner or outline: wrong ({int(wrong.sum())} of {count})"))
    parts = [_draw_legend(entries)] if entries else []
    along, up = (f"{share:.0%} of the variance" for share in shares)
    axes = f"→ {along} · ↑ {up}" if np.isfinite(shares).all() else "all images are at one place"
    picture = vstack([*parts, square, text_band(_SIDE, axes)], gap=6)
    bad = count - len(known)
    alert = f"the features of {bad} of {count} images are not finite" if bad else None
    return add_title(picture, title, _READING, alert=alert)


def _draw_square(
    points: np.ndarray, thumbnails: Sequence[np.ndarray], colours: Sequence[Colour],
    wrong: Sequence[bool],
) -> np.ndarray:  # fmt: skip
    """Draw the thumbnails for which there is room, and dots for the others, over the mean."""
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    span = float(np.ptp(points, axis=0).max()) or 1.0
    scale = np.array([1, -1]) * (_SIDE - 2 * _MARGIN) / span
    places = np.rint(_SIDE / 2 + (points - middle) * scale).astype(int).tolist()
    canvas = Image.fromarray(blank(_SIDE, _SIDE, WHITE))
    pen = ImageDraw.Draw(canvas)
    x, y = np.rint(_SIDE / 2 - middle * scale).astype(int).tolist()
    pen.line([(x, 0), (x, _SIDE)], EMPTY)
    pen.line([(0, y), (_SIDE, y)], EMPTY)
    boxes = np.zeros((0, 4), int)  # left, top, right and bottom of what was drawn
    dots = []
    for (x, y), thumbnail, colour, is_wrong in zip(places, thumbnails, colours, wrong, strict=True):
        framed = _frame(thumbnail, colour, is_wrong)
        height, width = framed.shape[:2]
        left, top = x - width // 2, y - height // 2
        free = (boxes[:, 0] >= left + width) | (boxes[:, 2] <= left)
        free |= (boxes[:, 1] >= top + height) | (boxes[:, 3] <= top)
        if free.all():
            boxes = np.vstack([boxes, [left, top, left + width, top + height]])
            canvas.paste(Image.fromarray(framed), (left, top))
        else:
            dots.append((x, y, colour, is_wrong))
    for x, y, colour, is_wrong in dots:  # above the thumbnails, so that all can be counted
        for radius, ink in ((_RADIUS + 2, RED if is_wrong else WHITE), (_RADIUS, colour)):
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], ink)
    pen.rectangle([0, 0, _SIDE - 1, _SIDE - 1], outline=EMPTY)
    return np.array(canvas)


def _frame(thumbnail: np.ndarray, colour: Colour, is_wrong: bool) -> np.ndarray:
    """Return a thumbnail in a frame, with a red corner if the prediction is wrong."""
    height, width = thumbnail.shape[:2]
    framed = blank(height + 2 * _FRAME, width + 2 * _FRAME, colour)
    framed[_FRAME:-_FRAME, _FRAME:-_FRAME] = thumbnail
    if is_wrong:
        rows, columns = np.mgrid[: len(framed), : framed.shape[1]]
        away = rows + framed.shape[1] - 1 - columns  # from the corner at the top right
        side = (THUMBNAIL + 2 * _FRAME) // 3
        framed[away <= side + 2], framed[away <= side] = WHITE, RED
    return framed


def _draw_legend(entries: Sequence[tuple[Colour, str]]) -> np.ndarray:
    """Draw coloured squares with names, in as many lines as they need."""
    step, box = line_height(SMALL) + 4, 11
    x = line = 0
    spots, labels = [], []
    for colour, name in entries:
        text = shorten(name, max(_NAME, 300 if colour == RED else 0), SMALL)
        width = box + 5 + text_width(text, SMALL) + 16
        if x and x + width > _SIDE:
            x, line = 0, line + 1
        spots.append((x, line * step + (step - box) // 2, colour))
        labels.append(Label(x + box + 5, line * step + step // 2, text, INK, SMALL))
        x += width
    picture = blank((line + 1) * step, _SIDE)
    for left, top, colour in spots:
        picture[top : top + box, left : left + box] = colour
    return write_labels(picture, labels)
