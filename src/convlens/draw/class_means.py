"""Draw where the network looks for each class on average: mean maps on one colour scale.

Legend: ``K`` classes, ``h w`` height and width of the maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.draw.canvas import GAP, add_title, centre, text_band, tile, vstack
from convlens.draw.colour import HEAT, add_colour_bar, colourise, format_number
from convlens.draw.palette import EMPTY, INK
from convlens.draw.picture import Array, as_array, compute_legible_size, make_legible
from convlens.draw.text import format_dimensions

_READING = "A bright corner or border shared by the images of a class may give the class away."
_LEGIBLE, _LARGEST = 168, 320  # longest edge of a map, pixels
_NARROWEST = 168  # minimum width of a column, for the names, pixels
_WIDEST = 1000  # maximum width of a row of maps, pixels


def class_means(
    maps: Array, counts: Array, class_names: Sequence[str], *, title: str, most: int = 64
) -> np.ndarray:
    """Draw the mean map of each class, all on one colour scale, with its number of images.

    Maps are drawn cell by cell. Their true resolution is visible, and evidence at the border or in
    a corner (a mark, a frame) stands out. The scale runs from 0, or from the lowest value if that
    is negative, to the highest value of all classes drawn.

    Args:
        maps: ``(K, h, w)``; the maps of classes without images are ignored.
        counts: ``(K,)``, number of images behind each mean.
        class_names: K names; long ones are shortened.
        title: The layer, the split, the epoch.
        most: Maximum number of classes. Those with the most images are drawn, in class order; if
            there are more classes, those without images are left out.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: ``maps`` has a wrong shape, the lists differ in length, or ``most`` is below 1.
    """
    values, images = as_array(maps).astype(np.float64), as_array(counts).astype(np.int64)
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"mean maps must be (K, H, W), not {tuple(values.shape)}")
    classes = len(values)
    if images.shape != (classes,) or len(class_names) != classes or most < 1:
        raise ValueError(
            f"{classes} mean maps need as many counts and names, and most=1 or more, not counts "
            f"{images.shape}, {len(class_names)} names and most={most}"
        )
    chosen = np.argsort(-images, kind="stable")[:most]
    if classes > most and images.any():
        chosen = chosen[images[chosen] > 0]  # with many classes, grey fields only take up room
    chosen = np.sort(chosen)
    finite = np.isfinite(values).all(axis=(1, 2))
    scale = values[[index for index in chosen if images[index] and finite[index]]]
    low = min(0.0, float(scale.min(initial=0.0)))
    high = float(scale.max(initial=low))

    height, width = compute_legible_size(*values.shape[1:], _LEGIBLE, _LARGEST)
    column = max(width, _NARROWEST)
    cells = []
    for index in chosen:
        if images[index] and finite[index]:
            heat = colourise(make_legible(values[index], _LEGIBLE, _LARGEST), HEAT, low, high)
        else:  # a grey field with the reason on it
            reason = "not finite" if images[index] else "no images"
            line = text_band(column, reason, background=EMPTY, centre=True)
            heat = centre(line, height, column, EMPTY)
        count = f"{images[index]} image" + ("" if images[index] == 1 else "s")
        name = text_band(column, class_names[index], bold=True, ink=INK)
        cells.append(vstack([heat, vstack([name, text_band(column, count)], gap=0)], gap=2))
    sheet = tile(cells, max(1, min(8, (_WIDEST + GAP) // (column + GAP))))

    size = format_dimensions(*values.shape[1:])
    facts = f"{images.sum()} images, maps of {size}, one scale for all classes. {_READING}"
    alerts = []
    if classes > len(chosen):
        alerts.append(f"{len(chosen)} of {classes} classes: those with the most images")
    if empty := int((images[chosen] == 0).sum()):
        alerts.append(f"{empty} of {classes} classes without images (grey)")
    if not_finite := int((~finite & (images > 0))[chosen].sum()):
        alerts.append(f"{not_finite} not finite (grey)")
    ends = format_number(low), format_number(high)
    sheet = add_colour_bar(sheet, *ends, name=HEAT, lead="mean evidence")
    return add_title(sheet, title, facts, alert=", ".join(alerts))
