"""Draw what supports a class and what contradicts it: signed maps over the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from convlens.core.photograph import Frame, Photograph
from convlens.draw.canvas import Label, add_title, blank, vstack, write_labels
from convlens.draw.colour import (
    DIVERGING,
    FINE,
    colour_bar,
    find_full_colour_value,
    format_number,
)
from convlens.draw.grad_cam_panel import Cell, ClassMap, LayerMap, as_finite_map, draw_classes
from convlens.draw.palette import MUTED, RED
from convlens.draw.photograph import as_photograph, overlay_signed_map
from convlens.draw.picture import Array
from convlens.draw.text import SMALL, format_dimensions, line_height, shorten_path, text_width

_READINGS = {
    "occlusion": "Occlusion: covering a red part lowers the logit of the class, "
    "covering a blue part raises it.",
    "superpixels": "Superpixels: covering a red patch lowers the logit of the class, "
    "covering a blue patch raises it.",
    "token_occlusion": "Token occlusion: leaving out a red patch lowers the logit of the class, "
    "leaving out a blue patch raises it.",
    "attn_lrp": "AttnLRP: red parts contribute to the logit of the class, blue parts take from it.",
    "integrated_gradients": "Integrated gradients: compared with a black image, red parts raise "
    "the logit of the class, blue parts lower it.",
}


def describe_reading(method: str) -> str:
    """Return a sentence on how to read the signed maps of a method.

    Args:
        method: ``occlusion``, ``superpixels``, or a method of Captum.
    """
    name = method.replace("_", " ").capitalize()
    return _READINGS.get(method, f"{name}: red parts speak for the class, blue parts against it.")


def attribution_panel(
    image: Array | Photograph, maps: Sequence[ClassMap], *, title: str, reading: str,
    source: str = "", smooth: float = 0.0, least: float = 0.0, note: str | None = None,
) -> np.ndarray:  # fmt: skip
    """Draw [photograph | overlay of each class], as ``draw_classes`` does.

    The overlays lie on the photograph in grey, so that red (for the class) and blue (against it)
    come from the maps alone. All classes have one scale, symmetric about 0, which the bar below
    names. It ends at ``scale``, or else at the largest magnitude. For maps of at least 32 × 32 it
    is the 99.5th percentile of the magnitudes; larger values get the colour of the end, which the
    bar marks with ≥.

    Single pixels of such a fine map are too small to be seen. With ``smooth`` it is drawn averaged
    with a Gaussian, as the line below the bar says, and the scale is that of the averaged map.

    Args:
        image: the photograph, or ``(C, H, W)`` as for ``convlens.draw.picture.to_uint8``.
        maps: One entry for each class, drawn in this order; maps may be negative here.
        title: The image, the method, the epoch.
        reading: A sentence on how to read the maps, see ``describe_reading``.
        source: The name by which a user finds the image.
        smooth: Standard deviation of the Gaussian, as a fraction of the map's sides; 0 for none.
        least: The smallest magnitude that may get full colour, so that rounding does not look like
            evidence.
        note: A caveat about these maps, written on a red line of its own.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no map, or the image or a map has a wrong shape.
    """
    draw_row = partial(_draw_row, smooth=smooth, least=least)
    body = draw_classes(as_photograph(image), maps, draw_row, source)
    return add_title(body, title, reading, alert=note)


def smooth_map(values: np.ndarray, sigma: float) -> np.ndarray:
    """Average a map ``(h, w)`` with a Gaussian, float32; at the edges over what lies inside.

    Args:
        values: the map, finite.
        sigma: standard deviation, as a fraction of the map's sides; 0 returns the map as it is.
    """
    if not sigma:
        return values
    rows, columns = (_weigh(side, sigma * side) for side in values.shape)
    return (rows @ values @ columns.T).astype(np.float32)


def _weigh(side: int, sigma: float) -> np.ndarray:
    """Return the weights of a Gaussian along a side, ``(side, side)``; each row sums to 1."""
    places = np.arange(side)
    weights = np.exp(-0.5 * ((places[:, None] - places) / sigma) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)


def _draw_row(
    picture: np.ndarray,
    frame: Frame,
    columns: Sequence[LayerMap],
    width: int,
    *,
    smooth: float,
    least: float,
) -> tuple[list[Cell], np.ndarray]:
    """Draw signed maps, and the colour bar below them."""
    found = [as_finite_map(each.map) for each in columns]
    height, wide = found[0][0].shape
    is_fine = min(height, wide) >= FINE
    sigma = smooth if is_fine else 0.0
    maps = [smooth_map(values, sigma) for values, _ in found]
    scales = [
        find_full_colour_value(values) if each.scale is None else float(each.scale)
        for values, each in zip(maps, columns, strict=True)
    ]
    high, cells = max(least, *scales), []
    for values, (_, finite) in zip(maps, found, strict=True):
        drawn = overlay_signed_map(picture, values, frame, high=high)
        ends = f"from {format_number(float(values.min()))} to {format_number(float(values.max()))}"
        line, ink = ends, MUTED
        if not finite:
            line, ink = "map not finite", RED
        elif not values.any():
            line, ink = "empty: nothing for or against the class", RED
        cells.append((drawn, line, ink))
    beyond = any(np.abs(values).max() > high for values in maps)
    lead = f"{format_dimensions(height, wide)} {'pixels' if is_fine else 'cells'}"
    if sigma:
        lead += f", smoothed (Gaussian, sigma {sigma:.0%} of the side)"
    if columns[0].layer:
        room = max(width // 3, width - text_width(f" · {lead}", SMALL))
        lead = f"{shorten_path(columns[0].layer, room)} · {lead}"
    return cells, _draw_legend(width, high, beyond, lead)


def _draw_legend(width: int, high: float, beyond: bool, lead: str) -> np.ndarray:
    """Draw the bar from −high to high, and below it what its ends and its middle mean."""
    ends = "≤ " * beyond + format_number(-high), "≥ " * beyond + format_number(high)
    bar, line = colour_bar(width, *ends, name=DIVERGING), line_height(SMALL)
    places = (0, "lm", "blue: against the class"), (width // 2, "mm", "0")
    places += ((width, "rm", "red: for the class"),)
    labels = [Label(x, line // 2, text, MUTED, SMALL, anchor=a) for x, a, text in places]
    labels.append(Label(0, line + line // 2, lead, MUTED, SMALL))
    return vstack([bar, write_labels(blank(2 * line, width), labels)], gap=0)
