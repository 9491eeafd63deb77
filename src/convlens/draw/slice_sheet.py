"""Draw slices of low accuracy: how large each is, what it is taken for, and some of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convlens.core.photograph import Photograph
from convlens.draw.canvas import add_title, text_band, vstack
from convlens.draw.cluster_sheet import join_columns, text_column
from convlens.draw.palette import INK
from convlens.draw.photograph import fit_photograph
from convlens.draw.text import SMALL, shorten_path, wrap

_EDGE = 128  # longest side of an image, pixels
_READING = (
    "Images of a class with alike features, right far less often than the rest of it. Below each "
    "image: its prediction and its file."
)


@dataclass(frozen=True)
class SliceRow:
    """One slice of a sheet.

    Attributes:
        name: The class.
        lines: What was found, each wrapped to the column.
        images: Some images of the slice.
        captions: What each is predicted as.
        sources: The names by which a user finds them.
    """

    name: str
    lines: Sequence[str]
    images: Sequence[Photograph]
    captions: Sequence[str]
    sources: Sequence[str]


def _draw_row(row: SliceRow) -> np.ndarray:
    columns = [text_column(row.name, row.lines, "low accuracy")]
    for image, caption, source in zip(row.images, row.captions, row.sources, strict=True):
        drawn = fit_photograph(image, _EDGE).copy()
        width = drawn.shape[1]
        bands = [text_band(width, *wrap(caption, width, SMALL, most=2), ink=INK)]
        if source:
            bands.append(text_band(width, shorten_path(source, width, "/")))
        columns.append(vstack([drawn, *bands], gap=2))
    return join_columns(columns)


def slice_sheet(rows: Sequence[SliceRow], *, title: str) -> np.ndarray:
    """Draw slices below each other.

    Args:
        rows: The slices, drawn in this order.
        title: The heading of the picture.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no slice.
    """
    if not rows:
        raise ValueError("a sheet needs at least one slice")
    return add_title(vstack([_draw_row(row) for row in rows], gap=16), title, _READING)
