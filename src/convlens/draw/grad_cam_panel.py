"""Draw why the network predicts a class: [image | maps | overlay], one row for each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from convlens.draw.canvas import (
    Label,
    add_captions,
    add_title,
    blank,
    text_band,
    vstack,
    write_labels,
)
from convlens.draw.colour import HEAT, colour_bar, colourise, format_number, overlay
from convlens.draw.palette import GREEN, RED, SLATE, WHITE
from convlens.draw.picture import Array, as_array, make_legible, resize_cells, to_uint8
from convlens.draw.text import SMALL, format_dimensions, shorten, shorten_path, text_width

Role = Literal["predicted", "true", "predicted = true", "target"]

_BAND = 24  # height of the coloured band above a row, pixels
_NARROWEST = 144  # minimum width of a column in pixels, for the bar below the map


@dataclass(frozen=True)
class LayerMap:
    """The evidence in one layer.

    Attributes:
        layer: Name of the layer.
        map: ``(h, w)``, at least 0, at the resolution of the layer or of the image.
        scale: The value drawn in full colour; None for the map's maximum.
    """

    layer: str
    map: Array
    scale: float | None = None


@dataclass(frozen=True)
class ClassMap:
    """The evidence for one class.

    Attributes:
        map: ``(h, w)``, at least 0, at the resolution of the layer or of the image.
        class_name: Any text.
        role: Why this class is explained.
        probability: The network's probability of this class, in [0, 1].
        scale: The value drawn in full colour; None for the map's maximum.
        layer: Name of the map's layer, written only if there are ``others``.
        others: Maps of other layers, drawn before ``map``; the overlay shows ``map`` only.
    """

    map: Array
    class_name: str
    role: Role
    probability: float
    scale: float | None = None
    layer: str = ""
    others: tuple[LayerMap, ...] = ()


def format_probability(probability: float) -> str:
    """Format a probability with two decimals; only exactly 0 and 1 become 0.00 and 1.00.

    >>> format_probability(0.934), format_probability(0.9999), format_probability(0.001)
    ('0.93', '>0.99', '<0.01')
    """
    if 0 < probability < 0.005:
        return "<0.01"
    if 0.995 <= probability < 1:
        return ">0.99"
    return f"{probability:.2f}"


def _draw_class_band(width: int, entry: ClassMap, truth_known: bool) -> np.ndarray:
    """Draw the band above a row: a coloured edge, "dog 0.93, predicted", and right or wrong.

    Args:
        width: Width of the row in pixels.
        entry: The class.
        truth_known: Whether the panel shows the true class; if not, no prediction is called wrong.
    """
    word, colour = "", SLATE
    if entry.role == "predicted = true":
        word, colour = "right", GREEN
    elif entry.role == "predicted" and truth_known:
        word, colour = "wrong", RED
    band = blank(_BAND, width, tuple(int(0.88 * 255 + 0.12 * part) for part in colour))
    band[:, :4] = colour
    right, middle, labels = width, _BAND // 2, []
    if word:
        right = width - text_width(word, SMALL, bold=True) - 16
        band[:, right:] = colour
        labels.append(Label((right + width) // 2, middle, word, WHITE, SMALL, True, "mm"))
    tail = f" {format_probability(float(entry.probability))}, {entry.role}"
    name = shorten(entry.class_name, right - 18 - text_width(tail), bold=True)
    start = 15 + (text_width(name, bold=True) if name else 0)
    labels.append(Label(12, middle, name, bold=True))
    labels.append(Label(start, middle, shorten(tail, width - start - 2)))
    return write_labels(band, labels)


def as_finite_map(map: Array) -> tuple[np.ndarray, bool]:
    """Return a class map as finite float32 values, and whether it was finite.

    Values that are not finite become 0.

    Raises:
        ValueError: The map is not ``(H, W)``.
    """
    values = as_array(map).astype(np.float32)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"a class map must be (H, W), not {tuple(values.shape)}")
    finite = bool(np.isfinite(values).all())
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), finite


def draw_map_legend(
    values: np.ndarray, finite: bool, width: int, low: str, high: str, lead: str, name: str
) -> np.ndarray:
    """Draw the line below a map: its colour bar, or in red why nothing is visible.

    Args:
        values: The finite values of the map.
        finite: Whether the map was finite.
        width: Width of the line in pixels.
        low: Text at the lower end of the bar.
        high: Text at the upper end of the bar.
        lead: Text before the bar.
        name: Name of the colour table.
    """
    if not finite:
        return text_band(width, "map not finite", ink=RED)
    if not values.any():
        return text_band(width, "no positive evidence", ink=RED)
    return colour_bar(width, low, high, name=name, lead=lead)


def draw_class_rows(
    image: Array,
    maps: Sequence[ClassMap],
    draw_row: Callable[[np.ndarray, ClassMap], np.ndarray],
    smallest: int = _NARROWEST,
) -> np.ndarray:
    """Draw a band and a row for each class.

    Args:
        image: ``(C, H, W)``.
        maps: One entry for each class.
        draw_row: Draws the row of one class from the picture of the image.
        smallest: Minimum for the longest edge of the image in the panel, in pixels.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no map, or the image has a wrong shape.
    """
    if not maps:
        raise ValueError("a panel of class maps needs at least one class map")
    picture = make_legible(to_uint8(image), smallest)
    truth_known = any(entry.role == "true" for entry in maps)
    rows = []
    for entry in maps:
        row = draw_row(picture, entry)
        rows.append(vstack([_draw_class_band(row.shape[1], entry, truth_known), row], gap=6))
    return vstack(rows)


def _draw_class_row(picture: np.ndarray, entry: ClassMap) -> np.ndarray:
    """Draw [image | maps | overlay] of one class, each with a caption below."""
    width = max(picture.shape[1], _NARROWEST)
    columns = [(picture, text_band(width, "image"))]
    for layer_map in (*entry.others, LayerMap(entry.layer, entry.map, entry.scale)):
        values, finite = as_finite_map(layer_map.map)
        values = values.clip(min=0)
        high = float(values.max()) if layer_map.scale is None else float(layer_map.scale)
        heat = colourise(resize_cells(values, picture.shape[:2]), HEAT, 0, high)
        lead = f"map {format_dimensions(*values.shape)}"
        below = draw_map_legend(values, finite, width, "0", format_number(high), lead, HEAT)
        if entry.others:
            below = vstack([below, text_band(width, shorten_path(layer_map.layer, width))], gap=0)
        columns.append((heat, below))
    blended = overlay(picture, values, high=high)
    return add_captions(*columns, (blended, text_band(width, "overlay")))


def grad_cam_panel(image: Array, maps: Sequence[ClassMap], *, title: str) -> np.ndarray:
    """Draw a row [image | maps | overlay] for each class.

    The map is drawn cell by cell, so that its true resolution is visible. For the overlay it is
    interpolated; stronger evidence covers more of the image. Both are coloured from 0 to ``scale``,
    which is written beside the bar below the map.

    The band above each row names class, probability and role. It is green with the word "right" for
    "predicted = true", red with "wrong" for "predicted" if there is a "true" row too, and neutral
    if the true class is unknown.

    Args:
        image: ``(C, H, W)`` before normalisation, as for ``convlens.draw.picture.to_uint8``. Small
            images are magnified by an integer factor.
        maps: One entry for each class, drawn in this order.
        title: What distinguishes this panel from others: the image, the layer, the epoch.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no map, or the image or a map has a wrong shape.
    """
    return add_title(draw_class_rows(image, maps, _draw_class_row), title)
