"""Draw clusters of a class's evidence: mean map, some images, and what covering the place does.

Legend: ``h w`` height and width of the maps in cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convlens.core.photograph import Photograph
from convlens.draw.canvas import add_title, centre, hstack, text_band, vstack
from convlens.draw.colour import HEAT, colourise
from convlens.draw.palette import INK, RED, WHITE
from convlens.draw.photograph import fit_photograph, overlay_map
from convlens.draw.picture import make_legible
from convlens.draw.text import SMALL, shorten_path, wrap

_EDGE = 144  # longest side of an image or a map, pixels
_TEXT = 250  # width of the column of text, pixels
_READING = (
    "Images of a class with evidence in similar places. Covered: the cells with half of it and "
    "those beside them, in the mean colour of all images."
)


@dataclass(frozen=True)
class ClusterRow:
    """One cluster of a sheet.

    Attributes:
        name: The class.
        lines: What was found, each wrapped to the column.
        mean: ``(h, w)``, the mean map, at least 0.
        images: Some images of the cluster.
        maps: Their maps, ``(h, w)`` each.
        sources: The names by which a user finds them.
        is_shortcut: Whether to mark the row.
    """

    name: str
    lines: Sequence[str]
    mean: np.ndarray
    images: Sequence[Photograph]
    maps: Sequence[np.ndarray]
    sources: Sequence[str]
    is_shortcut: bool


def _draw_row(row: ClusterRow) -> np.ndarray:
    heat = colourise(make_legible(row.mean, _EDGE, _EDGE), HEAT, 0, float(row.mean.max()))
    columns = [
        text_column(row.name, row.lines, "shortcut" if row.is_shortcut else ""),
        vstack([heat, text_band(heat.shape[1], "mean map")], gap=2),
    ]
    for image, values, source in zip(row.images, row.maps, row.sources, strict=True):
        picture = fit_photograph(image, _EDGE)
        drawn = overlay_map(picture, values, image.frame, high=float(np.nanmax(values)))
        name = text_band(drawn.shape[1], shorten_path(source, drawn.shape[1], "/"))
        columns.append(vstack([drawn, name], gap=2))
    return join_columns(columns)


def text_column(name: str, lines: Sequence[str], mark: str) -> np.ndarray:
    """Draw the name of a row's class, a mark in red unless it is empty, and wrapped lines."""
    bands = [text_band(_TEXT, name, bold=True, ink=INK)]
    if mark:
        bands.append(text_band(_TEXT, mark, bold=True, ink=WHITE, background=RED, centre=True))
    bands += [text_band(_TEXT, *wrap(line, _TEXT, SMALL, most=4), ink=INK) for line in lines]
    return vstack(bands, gap=2)


def join_columns(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Draw columns side by side, aligned at the top."""
    height = max(len(column) for column in columns)
    return hstack([_pad_below(column, height) for column in columns])


def _pad_below(column: np.ndarray, height: int) -> np.ndarray:
    padded = centre(column[:0], height, column.shape[1])
    padded[: len(column)] = column
    return padded


def cluster_sheet(rows: Sequence[ClusterRow], *, title: str) -> np.ndarray:
    """Draw the clusters below each other, each map on its own scale.

    Args:
        rows: The clusters, drawn in this order.
        title: The heading of the picture.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no cluster.
    """
    if not rows:
        raise ValueError("a sheet needs at least one cluster")
    return add_title(vstack([_draw_row(row) for row in rows], gap=16), title, _READING)
