"""Where the network looks for each class on the whole: mean maps on one colour scale.

Legend: ``K`` classes, ``h w`` height and width of the maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.draw.canvas import GAP, add_title, centre, text_band, tile, vstack
from convlens.draw.colour import HEAT, add_colour_bar, colourise, format_number
from convlens.draw.palette import EMPTY, INK
from convlens.draw.picture import Array, as_array, legible_size, make_legible
from convlens.draw.text import format_dimensions

_LEGIBLE, _LARGEST = 112, 224  # longest edge of a map, pixels
_NARROWEST = 112  # width of a column at least: names need it
_WIDEST = 1000  # pixels that a row of maps takes at most


def class_means(
    maps: Array, counts: Array, class_names: Sequence[str], *, title: str, most: int = 64
) -> np.ndarray:
    """The mean map of each class, all on one colour scale, with its number of images.

    Maps are drawn cell by cell, so that their true resolution is seen and evidence at the border
    or in a corner (a mark, a frame) stands out. The scale reaches from 0, or the lowest value
    where one is below, to the highest value of all classes shown.

    Args:
        maps: ``(K, h, w)``; those of classes without images are not looked at.
        counts: ``(K,)``, images that each mean is over; a class with none says so.
        class_names: K names; long ones are shortened.
        title: the layer, the split, the epoch.
        most: classes shown at most: those with the most images, in class order. Where there are
            more, those without images are left out.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: another shape of ``maps``, lists of another length, or no class wanted.
    """
    values, images = as_array(maps).astype(np.float64), as_array(counts).astype(np.int64)
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"mean maps are (K, H, W), not {tuple(values.shape)}")
    classes = len(values)
    if images.shape != (classes,) or len(class_names) != classes or most < 1:
        raise ValueError(
            f"{classes} mean maps with counts {images.shape}, {len(class_names)} names, most={most}"
        )
    shown = np.argsort(-images, kind="stable")[:most]
    if classes > most and images.any():
        shown = shown[images[shown] > 0]  # of very many classes a grey field tells nothing
    shown = np.sort(shown)
    finite = np.isfinite(values).all(axis=(1, 2))
    scale = values[[index for index in shown if images[index] and finite[index]]]
    low = min(0.0, float(scale.min(initial=0.0)))
    high = float(scale.max(initial=low))

    height, width = legible_size(*values.shape[1:], _LEGIBLE, _LARGEST)
    column = max(width, _NARROWEST)
    cells = []
    for index in shown:
        if images[index] and finite[index]:
            heat = colourise(make_legible(values[index], _LEGIBLE, _LARGEST), HEAT, low, high)
        else:  # a grey field with the reason written across it
            why = "not finite" if images[index] else "no images"
            line = text_band(column, why, background=EMPTY, centre=True)
            heat = centre(line, height, column, EMPTY)
        many = f"{images[index]} image" + ("" if images[index] == 1 else "s")
        name = text_band(column, class_names[index], bold=True, ink=INK)
        cells.append(vstack([heat, vstack([name, text_band(column, many)], gap=0)], gap=2))
    sheet = tile(cells, max(1, min(8, (_WIDEST + GAP) // (column + GAP))))

    size = format_dimensions(*values.shape[1:])
    facts = f"{images.sum()} images, maps of {size}, one scale for all classes"
    alerts = []
    if classes > len(shown):
        alerts.append(f"{len(shown)} of {classes} classes: those with the most images")
    if missing := int((images[shown] == 0).sum()):
        alerts.append(f"{missing} of {classes} classes without images (grey)")
    if broken := int((~finite & (images > 0))[shown].sum()):
        alerts.append(f"{broken} not finite (grey)")
    sheet = add_colour_bar(sheet, format_number(low), format_number(high), name=HEAT)
    return add_title(sheet, title, facts, alert=", ".join(alerts))
