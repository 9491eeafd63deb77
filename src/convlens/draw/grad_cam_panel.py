"""Why the network said so: [image | maps | overlay], one row for each class explained."""

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
_NARROWEST = 144  # width of a column at least: the bar below the map needs it


@dataclass(frozen=True)
class LayerMap:
    """The evidence that one layer finds.

    Attributes:
        layer: its name.
        map: ``(h, w)``, at least 0, at the layer's resolution or the image's.
        scale: the value drawn in full colour; None: the map's own maximum.
    """

    layer: str
    map: Array
    scale: float | None = None


@dataclass(frozen=True)
class ClassMap:
    """The evidence for one class.

    Attributes:
        map: ``(h, w)``, at least 0, at the layer's resolution or the image's.
        class_name: any text.
        role: why this class is explained.
        probability: the network's, in [0, 1].
        scale: the value drawn in full colour; None: the map's own maximum.
        layer: the name of the map's layer, written where there are several.
        others: maps of other layers, drawn before the map; only ``map`` is laid over the image.
    """

    map: Array
    class_name: str
    role: Role
    probability: float
    scale: float | None = None
    layer: str = ""
    others: tuple[LayerMap, ...] = ()


def format_probability(probability: float) -> str:
    """Two decimals, and never 0.00 or 1.00 for what is neither.

    >>> format_probability(0.934), format_probability(0.9999), format_probability(0.001)
    ('0.93', '>0.99', '<0.01')
    """
    if 0 < probability < 0.005:
        return "<0.01"
    if 0.995 <= probability < 1:
        return ">0.99"
    return f"{probability:.2f}"


def _class_band(width: int, entry: ClassMap, truth_known: bool) -> np.ndarray:
    """The line above a row: a coloured edge, "dog 0.93, predicted", the verdict at the right.

    A prediction is only judged where the truth is shown.
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
    """A class map as float32, what is not finite as 0, and whether all of it was finite.

    Raises:
        ValueError: another shape.
    """
    values = as_array(map).astype(np.float32)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"a class map is (H, W), not {tuple(values.shape)}")
    finite = bool(np.isfinite(values).all())
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), finite


def draw_map_legend(
    values: np.ndarray, finite: bool, width: int, low: str, high: str, lead: str, name: str
) -> np.ndarray:
    """The line below a map: its colours and their ends, or in red why there is nothing to see."""
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
    """A row for each class below its band."""
    if not maps:
        raise ValueError("a panel of class maps needs at least one class map")
    picture = make_legible(to_uint8(image), smallest)
    truth_known = any(entry.role == "true" for entry in maps)
    rows = []
    for entry in maps:
        row = draw_row(picture, entry)
        rows.append(vstack([_class_band(row.shape[1], entry, truth_known), row], gap=6))
    return vstack(rows)


def _class_row(picture: np.ndarray, entry: ClassMap) -> np.ndarray:
    """[image | maps | overlay] with what each of them is written below."""
    width = max(picture.shape[1], _NARROWEST)
    columns = [(picture, text_band(width, "image"))]
    for one in (*entry.others, LayerMap(entry.layer, entry.map, entry.scale)):
        values, finite = as_finite_map(one.map)
        values = values.clip(min=0)
        high = float(values.max()) if one.scale is None else float(one.scale)
        heat = colourise(resize_cells(values, picture.shape[:2]), HEAT, 0, high)
        lead = f"map {format_dimensions(*values.shape)}"
        below = draw_map_legend(values, finite, width, "0", format_number(high), lead, HEAT)
        if entry.others:
            below = vstack([below, text_band(width, shorten_path(one.layer, width))], gap=0)
        columns.append((heat, below))
    covered = overlay(picture, values, high=high)
    return add_captions(*columns, (covered, text_band(width, "overlay")))


def grad_cam_panel(image: Array, maps: Sequence[ClassMap], *, title: str) -> np.ndarray:
    """A row [image | maps | overlay] for each class, uint8 ``(H, W, 3)``.

    The map is drawn cell by cell, so that its true resolution is seen; for the overlay it is
    interpolated, and covers the image the more the stronger the evidence. Both are coloured
    from 0 to ``scale``, which the bar below the map tells.

    The band above a row names class, probability and role. It is green and says "right" for
    "predicted = true", red and says "wrong" for "predicted" beside a "true" row, and neutral
    where the truth is not told.

    Args:
        image: ``(C, H, W)`` as for :func:`~convlens.draw.canvas.to_uint8`, as a person sees it
            (before normalisation). Small ones are magnified by a whole factor.
        maps: one entry for each class, drawn in this order.
        title: the image, the layer, the epoch: whatever tells this panel from others.

    Raises:
        ValueError: no map, or an image or map of another shape.
    """
    return add_title(draw_class_rows(image, maps, _class_row), title)
