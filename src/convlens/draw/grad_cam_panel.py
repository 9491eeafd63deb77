"""Why the network said so: [picture | maps | overlay], one row for each class explained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from convlens.draw.canvas import (
    GAP,
    GREEN,
    INK,
    MUTED,
    RED,
    SLATE,
    Array,
    Colour,
    Label,
    as_array,
    blank,
    hstack,
    legible_size,
    resize,
    scaled_to,
    text_band,
    titled,
    to_uint8,
    vstack,
    write,
)
from convlens.draw.colour import HEAT, colour_bar, colourise, number, overlay
from convlens.draw.text import BODY, SMALL, dimensions, shorten, shorten_path, text_width

Role = Literal["predicted", "true", "predicted = true", "target"]

_BAND = 24  # height of the coloured band above a row, pixels
_NARROWEST = 144  # width of a column at least: the bar below the map needs it


@dataclass(frozen=True)
class LayerMap:
    """The evidence that one layer finds.

    Attributes:
        layer: its name.
        map: ``(h, w)``, at least 0, at the layer's resolution or the picture's.
        scale: the value drawn in full colour; None: the map's own maximum.
    """

    layer: str
    map: Array
    scale: float | None = None


@dataclass(frozen=True)
class ClassMap:
    """The evidence for one class.

    Attributes:
        map: ``(h, w)``, at least 0, at the layer's resolution or the picture's.
        class_name: any text.
        role: why this class is explained.
        probability: the network's, in [0, 1].
        scale: the value drawn in full colour; None: the map's own maximum.
        layer: the name of the map's layer, written where there are several.
        others: maps of other layers, drawn before the map; only ``map`` is laid over the picture.
    """

    map: Array
    class_name: str
    role: Role
    probability: float
    scale: float | None = None
    layer: str = ""
    others: tuple[LayerMap, ...] = ()


def probability_text(probability: float) -> str:
    """Two decimals, and never 0.00 or 1.00 for what is neither.

    >>> probability_text(0.934), probability_text(0.9999), probability_text(0.001)
    ('0.93', '>0.99', '<0.01')
    """
    if 0 < probability < 0.005:
        return "<0.01"
    if 0.995 <= probability < 1:
        return ">0.99"
    return f"{probability:.2f}"


def _verdict(role: Role, truth_known: bool) -> tuple[str, Colour]:
    """The word and the colour of a row. A prediction is only judged where the truth is shown."""
    if role == "predicted = true":
        return "right", GREEN
    if role == "predicted" and truth_known:
        return "wrong", RED
    return "", SLATE


def _class_band(width: int, entry: ClassMap, truth_known: bool) -> np.ndarray:
    """The line above a row: a coloured edge, "dog 0.93, predicted", the verdict at the right."""
    word, colour = _verdict(entry.role, truth_known)
    tint = tuple(int(0.88 * 255 + 0.12 * part) for part in colour)
    band = blank(_BAND, width, tint)
    band[:, :4] = colour
    right, middle = width, _BAND // 2
    labels = []
    if word:
        right = width - text_width(word, SMALL, bold=True) - 16
        band[:, right:] = colour
        white = (255, 255, 255)
        labels.append(Label((right + width) // 2, middle, word, white, SMALL, True, "mm"))
    tail = f" {probability_text(float(entry.probability))}, {entry.role}"
    room = right - 12 - 6
    name = shorten(entry.class_name, room - text_width(tail, BODY), BODY, bold=True)
    labels.append(Label(12, middle, name, INK, BODY, True))
    start = 12 + (text_width(name, BODY, bold=True) if name else 0) + 3
    rest = shorten(tail, width - start - 2, BODY)
    labels.append(Label(start, middle, rest, INK, BODY))
    return write(band, labels)


def _class_row(image: np.ndarray, entry: ClassMap) -> np.ndarray:
    """[picture | maps | overlay] with what each of them is written below."""
    size = image.shape[:2]
    width = max(size[1], _NARROWEST)
    shown = [*entry.others, LayerMap(entry.layer, entry.map, entry.scale)]
    columns = [(image, text_band(width, ["picture"], size=SMALL, ink=MUTED))]
    for one in shown:
        heat, below = _heat(one, size, width)
        if entry.others:
            name = shorten_path(one.layer, width, SMALL)
            below = vstack([below, text_band(width, [name], size=SMALL, ink=MUTED)], gap=0)
        columns.append((heat, below))
    values, highest = _values(shown[-1])
    covered = overlay(image, values, high=highest)
    columns.append((covered, text_band(width, ["overlay"], size=SMALL, ink=MUTED)))
    return hstack([vstack(pair, gap=2) for pair in columns], gap=GAP)


def _values(entry: LayerMap) -> tuple[np.ndarray, float]:
    """The map as it is drawn, and the value in full colour."""
    values = as_array(entry.map).astype(np.float32)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"a class map is (H, W), not {tuple(values.shape)}")
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    return values, float(values.max()) if entry.scale is None else float(entry.scale)


def _heat(entry: LayerMap, size: tuple[int, int], width: int) -> tuple[np.ndarray, np.ndarray]:
    """A map in colours at the picture's size, and the line below it."""
    values, highest = _values(entry)
    cells = values.shape[0] <= size[0] and values.shape[1] <= size[1]
    flat = resize(values, size, "nearest" if cells else "bilinear")
    heat = colourise(flat, HEAT, 0, highest)
    if not np.isfinite(as_array(entry.map).astype(np.float32)).all():
        return heat, text_band(width, ["map not finite"], size=SMALL, ink=RED)
    if not values.any():
        return heat, text_band(width, ["no positive evidence"], size=SMALL, ink=RED)
    lead = f"map {dimensions(*values.shape)}"
    return heat, colour_bar(width, "0", number(highest), name=HEAT, lead=lead)


def class_rows(
    picture: Array,
    maps: Sequence[ClassMap],
    draw_row: Callable[[np.ndarray, ClassMap], np.ndarray],
    smallest: int = _NARROWEST,
) -> np.ndarray:
    """A row for each class below its band."""
    image = to_uint8(picture)
    image = scaled_to(image, legible_size(*image.shape[:2], smallest))
    truth_known = any(entry.role == "true" for entry in maps)
    rows = []
    for entry in maps:
        row = draw_row(image, entry)
        rows.append(vstack([_class_band(row.shape[1], entry, truth_known), row], gap=6))
    return vstack(rows, gap=GAP)


def grad_cam_panel(picture: Array, maps: Sequence[ClassMap], *, title: str) -> np.ndarray:
    """A row [picture | maps | overlay] for each class, uint8 ``(H, W, 3)``.

    The map is drawn cell by cell, so that its true resolution is seen; for the overlay it is
    interpolated, and covers the picture the more the stronger the evidence. Both are coloured
    from 0 to ``scale``, which the bar below the map tells.

    The band above a row names class, probability and role. It is green and says "right" for
    "predicted = true", red and says "wrong" for "predicted" beside a "true" row, and neutral
    where the truth is not told.

    Args:
        picture: ``(C, H, W)`` as for :func:`~convlens.draw.canvas.to_uint8`, as a person sees it
            (before normalisation). Small ones are magnified by a whole factor.
        maps: one entry for each class, drawn in this order.
        title: the picture, the layer, the epoch: whatever tells this panel from others.

    Raises:
        ValueError: no map, or a picture or map of another shape.
    """
    if not maps:
        raise ValueError("grad_cam_panel needs at least one class map")
    return titled(class_rows(picture, maps, _class_row), title)
