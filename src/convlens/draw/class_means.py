"""Where the network looks for each class on the whole: mean maps on one colour scale.

Legend: ``K`` classes, ``h w`` height and width of the maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.draw.canvas import (
    GAP,
    MUTED,
    Array,
    Colour,
    as_array,
    blank,
    legible_size,
    scaled_to,
    text_band,
    tile,
    titled,
    vstack,
)
from convlens.draw.colour import HEAT, colour_bar, colourise, number
from convlens.draw.text import SMALL, dimensions

_LEGIBLE, _LARGEST = 112, 224  # longest edge of a map, pixels
_NARROWEST = 112  # width of a column at least: names need it
_WIDEST = 1000  # pixels that a row of maps takes at most
_EMPTY: Colour = (214, 216, 220)


def _field(height: int, width: int, why: str) -> np.ndarray:
    """A grey field in a map's place, with the reason written across it."""
    line = text_band(width, [why], size=SMALL, ink=MUTED, background=_EMPTY, align="center")
    field = blank(max(height, line.shape[0]), width, _EMPTY)
    top = (field.shape[0] - line.shape[0]) // 2
    field[top : top + line.shape[0]] = line
    return field


def class_means(
    maps: Array, counts: Array, class_names: Sequence[str], *, title: str, most: int = 64
) -> np.ndarray:
    """The mean map of each class, all on one colour scale, with its number of pictures.

    Maps are drawn cell by cell, so that their true resolution is seen and evidence at the border
    or in a corner (a mark, a frame) stands out. The scale reaches from 0, or the lowest value
    where one is below, to the highest value of all classes shown.

    Args:
        maps: ``(K, h, w)``; those of classes without pictures are not looked at.
        counts: ``(K,)``, pictures that each mean is over; a class with none says so.
        class_names: K names; long ones are shortened.
        title: the layer, the split, the epoch.
        most: classes shown at most: those with the most pictures, in class order. Where there are
            more, those without pictures are left out.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: another shape of ``maps``, lists of another length, or no class wanted.
    """
    values, pictures = as_array(maps).astype(np.float64), as_array(counts).astype(np.int64)
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"mean maps are (K, H, W), not {tuple(values.shape)}")
    classes = len(values)
    if pictures.shape != (classes,) or len(class_names) != classes or most < 1:
        raise ValueError(
            f"{classes} mean maps with counts {pictures.shape}, {len(class_names)} names, "
            f"most={most}"
        )
    shown = np.argsort(-pictures, kind="stable")[:most]
    if classes > most and pictures.any():
        shown = shown[pictures[shown] > 0]  # of very many classes a grey field tells nothing
    shown = np.sort(shown)
    finite = np.isfinite(values).all(axis=(1, 2))
    scale = values[[index for index in shown if pictures[index] and finite[index]]]
    low = min(0.0, float(scale.min(initial=0.0)))
    high = float(scale.max(initial=low))

    height, width = legible_size(*values.shape[1:], _LEGIBLE, _LARGEST)
    column = max(width, _NARROWEST)
    cells = []
    for index in shown:
        if pictures[index] and finite[index]:
            heat = colourise(scaled_to(values[index], (height, width)), HEAT, low, high)
        else:
            heat = _field(height, column, "not finite" if pictures[index] else "no pictures")
        many = f"{pictures[index]} picture" + ("" if pictures[index] == 1 else "s")
        name = text_band(column, [class_names[index]], size=SMALL, bold=True)
        words = text_band(column, [many], size=SMALL, ink=MUTED)
        cells.append(vstack([heat, vstack([name, words], gap=0)], gap=2))
    sheet = tile(cells, max(1, min(8, (_WIDEST + GAP) // (column + GAP))))
    bar = colour_bar(min(260, max(sheet.shape[1], 180)), number(low), number(high), name=HEAT)

    facts = [f"{int(pictures.sum())} pictures", f"maps of {dimensions(*values.shape[1:])}"]
    facts.append("one scale for all classes")
    alerts = []
    if classes > len(shown):
        alerts.append(f"{len(shown)} of {classes} classes: those with the most pictures")
    if missing := int((pictures[shown] == 0).sum()):
        alerts.append(f"{missing} of {classes} classes without pictures (grey)")
    if broken := int((~finite & (pictures > 0))[shown].sum()):
        alerts.append(f"{broken} not finite (grey)")
    return titled(
        vstack([bar, sheet], gap=6), title, ", ".join(facts), alert=", ".join(alerts) or None
    )
