"""Draw what attention looks at, and what it contributes to a class: maps laid over a photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convlens.core.photograph import Photograph
from convlens.draw.canvas import add_title, hstack, text_band, tile, vstack
from convlens.draw.colour import HEAT, colour_bar, format_number
from convlens.draw.grad_cam_panel import as_finite_map
from convlens.draw.palette import INK, MUTED, RED
from convlens.draw.photograph import EDGE, as_photograph, fit_photograph, overlay_map
from convlens.draw.picture import Array
from convlens.draw.text import SMALL, format_dimensions, shorten_middle, shorten_path, text_width

READING = (
    "The brighter a part, the more attention it gets. Attention is the same for every class; "
    "evidence is for the class that is named."
)
HEADS_READING = (
    "The brighter a part, the more attention it gets. Attention is the same for every class: it is "
    "not evidence."
)
NORMS_READING = (
    "They are far longer than other tokens: they hold facts about the whole image, not about their "
    "place. Maps of attention show them as bright dots."
)
LEGRAD_READING = (
    "LeGrad: the brighter a region, the more the score of the class grows with attention to it, "
    "mean of all blocks."
)
RELEVANCE_READING = (
    "Relevance: the brighter a region, the more the attention that raises the score of the class "
    "reads from it, over all blocks."
)
_NAME = 420  # pixels up to which the name of a row may widen a panel
CELL = 144  # longest side of the photograph under each map, pixels


@dataclass(frozen=True)
class NamedMap:
    """One map of a row.

    Attributes:
        name: What it shows, such as "head 3" or "LeGrad: dog".
        map: ``(h, w)``, at least 0, at the resolution of the patches or of the image.
        scale: The value drawn in full colour; None for the map's maximum, or the row's if its maps
            share a scale.
    """

    name: str
    map: Array
    scale: float | None = None


@dataclass(frozen=True)
class MapRow:
    """Maps that are drawn together: the heads of a layer, or several methods.

    Attributes:
        name: What they have in common: the layer, or "evidence".
        maps: At least one.
        shared: Whether they are coloured from 0 to the same value, so that they can be compared;
            otherwise each has its own scale.
    """

    name: str
    maps: Sequence[NamedMap]
    shared: bool = True


def name_heads(
    maps: Array, limit: int | None = None, *, names: Sequence[str] = ()
) -> list[NamedMap]:
    """Return the maps of a layer's heads with their names.

    Args:
        maps: ``(heads, h, w)``.
        limit: Maximum number of heads, evenly chosen; None for all.
        names: Names of the maps; "head 1", "head 2" and so on if empty.
    """
    count = len(maps) if limit is None else min(limit, len(maps))
    places = np.linspace(0, len(maps) - 1, count).round().astype(int)
    return [NamedMap(names[k] if names else f"head {k + 1}", maps[k]) for k in places.tolist()]


def attention_panel(
    image: Array | Photograph, rows: Sequence[MapRow], *, title: str, source: str = "",
    columns: int = 6, pixelated: bool = True, reading: str = READING,
) -> np.ndarray:  # fmt: skip
    """Draw [photograph | rows of maps], each map over the photograph with its name and its peak.

    Below the maps of a row that share a scale is one colour bar with the value of full colour;
    otherwise each map has its own bar.

    Args:
        image: The photograph, or ``(C, H, W)`` before normalisation, as for
            ``convlens.draw.picture.to_uint8``.
        rows: The rows, from top to bottom.
        title: What distinguishes this panel from others: the image, the epoch.
        source: The name by which a user finds the image.
        columns: Maximum number of maps side by side.
        pixelated: Whether the patches keep sharp edges; otherwise they are interpolated.
        reading: A sentence on how to read the maps.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no row or no map in one, or the image or a map has a wrong shape.
    """
    if not rows or not all(row.maps for row in rows):
        raise ValueError("an attention panel needs rows with at least one map each")
    photograph = as_photograph(image)
    picture, small = fit_photograph(photograph, EDGE), fit_photograph(photograph, CELL)
    note = text_band(picture.shape[1], shorten_path(source, picture.shape[1], "/"), photograph.seen)
    drawn = [_draw_row(small, photograph, row, columns, pixelated) for row in rows]
    body = hstack([vstack([picture, note], gap=2), vstack(drawn, gap=16)], gap=16)
    return add_title(body, title, reading)


def _draw_row(
    picture: np.ndarray, photograph: Photograph, row: MapRow, columns: int, pixelated: bool
) -> np.ndarray:
    """Draw the name of a row, its maps and the colour bars."""
    shared = _find_scale(row.maps) if row.shared else None
    drawn = [_draw_cell(picture, photograph, each, shared, pixelated) for each in row.maps]
    grid = tile(drawn, columns)
    sizes = {format_dimensions(*as_finite_map(each.map)[0].shape) for each in row.maps}
    cells = f" · {', '.join(sorted(sizes))} cells"
    # the name of a layer may be wider than its maps: of a single head, or of the rollout
    room = max(grid.shape[1], _NAME) - text_width(cells, SMALL, bold=True)
    name = shorten_middle(row.name, room, SMALL, bold=True) + cells
    width = max(grid.shape[1], text_width(name, SMALL, bold=True))
    parts = [text_band(width, name, ink=INK, bold=True), grid]
    if shared is not None:
        parts.append(colour_bar(min(grid.shape[1], EDGE), "0", format_number(shared), name=HEAT))
    return vstack(parts, gap=4)


def _find_scale(maps: Sequence[NamedMap]) -> float:
    """Return the value in full colour: the largest given scale or, without one, value."""
    ends = [as_finite_map(each.map)[0].max() if each.scale is None else each.scale for each in maps]
    return max(0.0, *map(float, ends), 0.0)


def _draw_cell(
    picture: np.ndarray, photograph: Photograph, each: NamedMap, shared: float | None,
    pixelated: bool,
) -> np.ndarray:  # fmt: skip
    """Draw one map with its name, and its peak or its own colour bar."""
    values, finite = as_finite_map(each.map)
    high = _find_scale([each]) if shared is None else shared
    drawn = overlay_map(picture, values, photograph.frame, high=high, pixelated=pixelated)
    width = picture.shape[1]
    line, ink = f"peak {format_number(float(values.max()))}", MUTED
    if not finite:
        line, ink = "map not finite", RED
    elif not (values > 0).any():
        line, ink = "empty", RED
    is_readable = ink == MUTED and shared is None
    below = (
        colour_bar(width, "0", format_number(high), name=HEAT)
        if is_readable
        else text_band(width, line, ink=ink)
    )
    return vstack([drawn, text_band(width, each.name, ink=INK), below], gap=2)
