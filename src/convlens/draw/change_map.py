"""Draw how much each layer changed from epoch to epoch, as two heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from convlens.draw.charts import shorten_layer_names
from convlens.draw.figure import SMALL_TEXT, draw_figure, new_figure, style_axes
from convlens.draw.palette import INK, MUTED, to_hex

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW = 0.24  # inches of a layer
_LEAST, _MOST = 1.6, 12.0  # inches of all layers together
_COLUMNS = 16  # columns up to which every epoch has its number, and a cell its value
_READING = (
    "1 (yellow): the layer relates the images to each other as it did. Lower (blue): training "
    "changed what it computes. Grey: unknown."
)


def change_map(
    layers: Sequence[str],
    epochs: Sequence[int],
    with_before: np.ndarray,
    with_start: np.ndarray | None,
    *,
    title: str,
) -> np.ndarray:
    """Draw the CKA of L layers at E epochs with the look before, and with the start.

    Args:
        layers: L names in the order of depth; their common beginning is dropped.
        epochs: E numbers of completed epochs, rising.
        with_before: ``(L, E)``, at most 1; values below 0 are drawn as 0, NaN is grey.
        with_start: ``(L, E)`` likewise; None if the start is unknown.
        title: The heading of the picture.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no layer or no epoch, or a shape differs.
    """
    panels = {"with the look before": with_before}
    if with_start is not None:
        panels["with the network before training"] = with_start
    shape = len(layers), len(epochs)
    if 0 in shape or any(values.shape != shape for values in panels.values()):
        shapes = ", ".join(str(values.shape) for values in panels.values())
        raise ValueError(f"{shape[0]} layers and {shape[1]} epochs, but values of {shapes}")
    height = min(max(_ROW * len(layers), _LEAST), _MOST)
    figure = new_figure(1.6 + 3.9 * len(panels), height + 0.9)
    every = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (name, values) in zip(every, panels.items(), strict=True):
        image = _draw_panel(axes, epochs, values, name)
    names = shorten_layer_names(layers)
    step = -(-len(layers) * 11 // int(100 * height))  # names never overlap
    every[0].set_yticks(range(0, len(layers), step), names[::step], parse_math=False)
    bar = figure.colorbar(image, ax=every, fraction=0.03, pad=0.02)
    bar.set_label("CKA", **SMALL_TEXT)
    bar.ax.tick_params(colors=to_hex(MUTED), labelsize=9)
    bar.outline.set_visible(False)
    return draw_figure(figure, title, _READING)


def _draw_panel(axes: Axes, epochs: Sequence[int], values: np.ndarray, name: str):
    """Draw one heat map, first layer at the top; return the image that the colour bar explains."""
    style_axes(axes, "completed epochs")
    axes.grid(False)
    axes.set_facecolor("#c8ccd2")  # of unknown values
    image = axes.imshow(
        np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=1, aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    count = len(epochs)
    step = -(-count // _COLUMNS)
    axes.set_xticks(range(0, count, step), [str(epoch) for epoch in epochs[::step]])
    axes.set_title(name, loc="left", color=to_hex(INK), fontsize=10)
    if count <= _COLUMNS // 2:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", fontsize=7,
                    color="black" if value > 0.6 else "white",
                )  # fmt: skip
    return image
