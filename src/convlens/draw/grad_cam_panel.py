"""Draw why the network predicts a class: maps laid over the photograph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from convlens.core.photograph import Frame, Photograph
from convlens.draw.canvas import (
    Label,
    add_captions,
    add_title,
    blank,
    hstack,
    text_band,
    vstack,
    write_labels,
)
from convlens.draw.colour import HEAT, colour_bar, format_number
from convlens.draw.palette import GREEN, MUTED, RED, SLATE, WHITE, Colour
from convlens.draw.photograph import EDGE, as_photograph, fit_photograph, overlay_map
from convlens.draw.picture import Array, as_array
from convlens.draw.text import SMALL, format_dimensions, shorten, shorten_path, text_width

Role = Literal[
    "predicted", "true", "predicted = true", "target", "miss", "false alarm",
    "label", "missing label", "named instead",
]  # fmt: skip

READING = "Grad-CAM: the brighter a region, the more evidence for the class this layer finds there."
_BAND = 24  # height of the coloured band above a row, pixels
NARROWEST = 260  # minimum width of a column in pixels, for the band above it


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


Cell = tuple[np.ndarray, str, Colour]  # an overlay, the line below it, and its colour
# draws a picture with its frame and the maps of one layer, and a legend of a width in pixels
DrawRow = Callable[[np.ndarray, Frame, Sequence[LayerMap], int], tuple[list[Cell], np.ndarray]]


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
    elif entry.role in ("miss", "false alarm") or (entry.role == "predicted" and truth_known):
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
    labels.append(Label(start, middle, shorten(tail, right - start - 2)))
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


def draw_classes(
    photograph: Photograph, maps: Sequence[ClassMap], draw_row: DrawRow, source: str,
    edge: int = EDGE,
) -> np.ndarray:  # fmt: skip
    """Draw [photograph | overlay of each class], one row for each layer, a band above each class.

    The band names class, probability and role. It is green with the word "right" for "predicted =
    true", red with "wrong" for "predicted" if a true class is shown too, and neutral if the true
    class is unknown. Below the photograph is its source and what the network sees of it.

    Args:
        photograph: The image.
        maps: One entry for each class, drawn in this order; all with the same layers.
        draw_row: Draws the maps of one layer.
        source: The name by which a user finds the image.
        edge: Longest side of the photograph in pixels.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no map, or a map has a wrong shape.
    """
    if not maps:
        raise ValueError("a panel of class maps needs at least one class map")
    picture = fit_photograph(photograph, edge)
    width = max(picture.shape[1], NARROWEST)
    truth_known = any("true" in entry.role for entry in maps)
    bands = [_draw_class_band(width, entry, truth_known) for entry in maps]
    rows = [hstack([blank(_BAND, width), *bands])]
    lines = [line for line in (shorten_path(source, width, "/"), photograph.seen) if line]
    note = text_band(width, *(lines or [""]))
    first = picture, note
    for columns in zip(*(list_layers(entry) for entry in maps), strict=True):
        cells, legend = draw_row(picture, photograph.frame, columns, rows[0].shape[1])
        below = [(drawn, text_band(width, line, ink=ink)) for drawn, line, ink in cells]
        rows += [add_captions(first, *below), legend]
        first = blank(*picture.shape[:2]), blank(1, width)  # the photograph is drawn once
    return vstack(rows, gap=4)


def grad_cam_panel(
    image: Array | Photograph, maps: Sequence[ClassMap], *, title: str, source: str = "",
    pixelated: bool = False, reading: str = READING,
) -> np.ndarray:  # fmt: skip
    """Draw [photograph | overlay of each class], one row for each layer; see ``draw_classes``.

    The maps lie on the photograph, where the network sees it; stronger evidence covers more. All
    classes of a layer are coloured from 0 to the same scale, which is written beside the bar below
    them with the layer and the size of its maps.

    Args:
        image: the photograph, or ``(C, H, W)`` before normalisation, as for
            ``convlens.draw.picture.to_uint8``.
        maps: One entry for each class, drawn in this order; all with the same layers.
        title: What distinguishes this panel from others: the image, the layer, the epoch.
        source: The name by which a user finds the image.
        pixelated: Whether the cells of a map keep sharp edges; otherwise they are interpolated.
        reading: A sentence on how to read the maps, for other methods than Grad-CAM.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no map, or the image or a map has a wrong shape.
    """
    body = draw_evidence(image, maps, source=source, pixelated=pixelated)
    return add_title(body, title, reading)


def draw_evidence(
    image: Array | Photograph, maps: Sequence[ClassMap], *, source: str = "",
    pixelated: bool = False, edge: int = EDGE,
) -> np.ndarray:  # fmt: skip
    """Draw a ``grad_cam_panel`` without its title, for sheets of several; ``edge`` in pixels."""
    draw_row = partial(_draw_row, pixelated=pixelated)
    return draw_classes(as_photograph(image), maps, draw_row, source, edge)


def place_beside(
    row: np.ndarray, image: Array | Photograph, lines: Sequence[str], *, source: str,
    edge: int = EDGE,
) -> np.ndarray:  # fmt: skip
    """Place another image on the right of a row from ``draw_evidence``, uint8 ``(H, W, 3)``.

    Args:
        row: uint8 ``(H, W, 3)``.
        image: The other image, as for ``grad_cam_panel``.
        lines: What it is, below it.
        source: The name by which a user finds it.
        edge: Longest side of the photograph in pixels.
    """
    picture = fit_photograph(as_photograph(image), edge)
    width = max(picture.shape[1], NARROWEST)
    note = text_band(width, shorten_path(source, width, "/"), *lines)
    cell = add_captions((picture, note))
    return hstack([row, vstack([blank(_BAND, width), cell], gap=4)])


def evidence_sheet(rows: Sequence[np.ndarray], *, title: str) -> np.ndarray:
    """Place rows from ``draw_evidence`` below each other, uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no row.
    """
    return add_title(vstack(rows, gap=20), title, f"{READING} Each image has its own scale.")


def list_layers(entry: ClassMap) -> list[LayerMap]:
    """Return the maps of a class at all layers."""
    return [*entry.others, LayerMap(entry.layer, entry.map, entry.scale)]


def _find_scale(columns: Sequence[LayerMap]) -> float:
    """Return the value in full colour: the given scale, or the largest value of all classes."""
    scales = [float(as_finite_map(c.map)[0].max()) if c.scale is None else c.scale for c in columns]
    return max(0.0, *map(float, scales))


def _draw_row(
    picture: np.ndarray, frame: Frame, columns: Sequence[LayerMap], width: int, *, pixelated: bool
) -> tuple[list[Cell], np.ndarray]:
    """Draw the maps of one layer as heat, and the colour bar below them."""
    high, cells = _find_scale(columns), []
    for each in columns:
        values, finite = as_finite_map(each.map)
        drawn = overlay_map(picture, values, frame, high=high, pixelated=pixelated)
        line, ink = f"peak {format_number(float(values.max()))}", MUTED
        if not finite:
            line, ink = "map not finite", RED
        elif not (values > 0).any():
            line, ink = "empty: no positive evidence for the class", RED
        cells.append((drawn, line, ink))
    size = format_dimensions(*as_array(columns[0].map).shape)
    lead = f"{size} cells, {'sharp' if pixelated else 'interpolated'}"
    if columns[0].layer:
        lead = f"{shorten_path(columns[0].layer, width // 3)} · {lead}"
    return cells, colour_bar(width, "0", format_number(high), name=HEAT, lead=lead)
