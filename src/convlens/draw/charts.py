"""Draw charts with Matplotlib in the colours of the panels: learning curves, depth, rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from convlens.draw.figure import (
    BLUE,
    DPI,
    FAINT,
    ORANGE,
    SMALL_TEXT,
    add_legend,
    draw_figure,
    new_figure,
    style_axes,
)
from convlens.draw.palette import GREEN, MUTED, RED, SLATE, to_hex
from convlens.draw.text import SMALL, printable, shorten, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CURVES = (
    "Validation that gets worse while training improves is overfitting. The ring is at the lowest "
    "validation loss."
)
_DEPTH = "A jump points to the layer to look at."
_PARTS = {  # split -> colour and name of its line
    "train": (BLUE, "training"),
    "val": (ORANGE, "validation"),
    "test": (to_hex(GREEN), "test"),
}
_NAME = 170  # maximum width of a layer's name, pixels
_STEP = 14  # pixels from one layer's name to the next
_NARROWEST, _WIDEST = 520, 1500  # width of a depth chart, pixels
_RING = {"ms": 9, "mfc": "none", "mec": to_hex(RED), "mew": 1.6}
_CHART = 400  # width of a chart of learning curves without its numbers, pixels
_PART = 90  # maximum width of a part's name in a legend, pixels


def find_best_epoch(history: Mapping[str, Sequence[float]], epochs: Sequence[int]) -> int | None:
    """Return the epoch of the lowest finite ``val/loss`` (the first of equals), or None."""
    losses = np.asarray(history.get("val/loss", ()), float)
    finite = np.isfinite(losses)
    return int(epochs[np.where(finite, losses, np.inf).argmin()]) if finite.any() else None


def _draw_curves(
    axes: Axes, series: Mapping[str, Sequence[float]], epochs: Sequence[int], best: int | None
) -> None:
    """Draw one line for each part of the data, and a ring at the best epoch."""
    for part, values in series.items():
        colour, name = _PARTS.get(part, (to_hex(SLATE), printable(part)))
        line = np.asarray(values, float)
        finite = np.isfinite(line)  # there may be no training loss at epoch 0
        marker = "o" if finite.sum() < 15 else None
        label = shorten(name.lstrip("_"), _PART)  # Matplotlib hides labels that start with _
        axes.plot(
            epochs, np.where(finite, line, np.nan), color=colour, label=label,
            linewidth=1.8, marker=marker, markersize=3.5,
        )  # fmt: skip
    if best is not None and "val" in series:
        value = float(series["val"][list(epochs).index(best)])
        axes.plot([best], [value], "o", label=f"{value:.3f} at epoch {best}", **_RING)


def _draw_marks(axes: Axes, marks: Mapping[str, int], epochs: Sequence[int]) -> int:
    """Draw a dashed vertical line for each mark, and its name above the chart.

    Returns:
        The number of rows that the names take, since none overlaps another.
    """
    ends: list[float] = []  # where the last name of each row ends, pixels from the chart's left
    for name, epoch in sorted(marks.items(), key=lambda mark: mark[1]):
        axes.axvline(epoch, color=to_hex(MUTED), linewidth=1, linestyle=(0, (4, 3)))
        text = shorten(name, _CHART - 24)
        width = text_width(text, SMALL) + 12
        along = (epoch - epochs[0]) / max(epochs[-1] - epochs[0], 1) * _CHART
        start = min(max(along - width / 2, 0), _CHART - width)  # the name ends at the chart's edges
        row = next((row for row, end in enumerate(ends) if end <= start), len(ends))
        ends[row : row + 1] = [start + width]
        axes.annotate(
            text, ((start + width / 2) / _CHART, 1), xycoords="axes fraction",
            xytext=(0, 2 + 12 * row), textcoords="offset points", ha="center", va="bottom",
            fontsize=8.5, color=to_hex(MUTED), parse_math=False,
        )  # fmt: skip
    return len(ends)


def learning_curves(
    history: Mapping[str, Sequence[float]],
    epochs: Sequence[int],
    *,
    title: str,
    marks: Mapping[str, int] | None = None,
) -> np.ndarray:
    """Draw training and validation in one chart per metric, side by side.

    In every chart with a validation curve, a ring marks the epoch of the lowest ``val/loss``.

    Args:
        history: Tags such as ``train/loss``, ``val/loss``, ``val/accuracy``, each with one value
            per epoch; NaN where there is none. Tags with the same name after the ``/`` share a
            chart. Loss comes first, then accuracy, then the others by name.
        epochs: Completed epochs in rising order, as many as there are values.
        title: The run.
        marks: Dashed vertical lines, name → epoch ("block5 unfrozen" → 5).

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is nothing to draw, or a series and ``epochs`` differ in length.
    """
    from matplotlib.ticker import MaxNLocator

    if not history or not len(epochs):
        raise ValueError("learning curves need at least one series and one epoch")
    charts: dict[str, dict[str, Sequence[float]]] = {}
    for tag, values in history.items():
        if len(values) != len(epochs):
            raise ValueError(f"{tag} has {len(values)} values for {len(epochs)} epochs")
        part, _, metric = tag.partition("/")
        charts.setdefault(metric or part, {})[part] = values
    order = {"loss": 0, "accuracy": 1}
    metrics = sorted(charts, key=lambda metric: (order.get(metric, 2), metric))
    figure = new_figure(4.8 * len(metrics), 3.6)
    best = find_best_epoch(history, epochs)
    every = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(every, metrics, strict=True):
        style_axes(axes, "completed epochs")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        _draw_curves(axes, charts[metric], epochs, best)
        rows = _draw_marks(axes, marks or {}, epochs)
        axes.margins(x=0.04, y=0.08)
        add_legend(axes, metric, rows=rows)
    return draw_figure(figure, title, _CURVES)


def shorten_layer_names(layers: Sequence[str]) -> list[str]:
    """Shorten the names of layers for a chart.

    The leading parts that all names share are dropped. Names that are still too long lose their
    beginning, because layers differ at the end.

    >>> shorten_layer_names(["backbone.block1.conv", "backbone.block2.conv"])
    ['block1.conv', 'block2.conv']
    """
    parts = [printable(layer).split(".") for layer in layers]
    shared = 0
    while all(len(names) > shared + 1 and names[shared] == parts[0][shared] for names in parts):
        shared += 1
    return [shorten(".".join(names[shared:])[::-1], _NAME)[::-1] for names in parts]


def depth_chart(
    layers: Sequence[str],
    now: Sequence[float],
    before: Sequence[float] | None,
    *,
    title: str,
    what: str,
) -> np.ndarray:
    """Draw one value per layer from first to last: now (strong) and before training (grey).

    Args:
        layers: Names in the order of depth; their common beginning is dropped.
        now: One value in [0, 1] per layer, such as its sparsity or its fraction of dead channels;
            NaN leaves a gap.
        before: The same at epoch 0; None if unknown.
        title: The heading of the picture.
        what: What the values are, written at the axis.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no layer, the number of values differs, or a value is outside [0, 1].
    """
    count = len(layers)
    width = min(max(_STEP * count + 120, _NARROWEST), _WIDEST)
    figure = new_figure(width / DPI, 4.4)
    axes = figure.subplots()
    depth, marker = np.arange(count), "o" if count <= 120 else None
    for name, values, colour, thick, size in (
        ("before training", before, FAINT, 1.5, 3.5),
        ("now", now, BLUE, 2, 4.5),
    ):
        if values is None:
            continue
        if not count or len(values) != count:
            raise ValueError(f"{name} has {len(values)} values for {count} layers")
        if not all(0 <= value <= 1 for value in values if not np.isnan(value)):
            raise ValueError(f"{name} has values outside 0 to 1")
        axes.plot(
            depth, np.asarray(values, float), color=colour, label=name,
            linewidth=thick, marker=marker, markersize=size,
        )  # fmt: skip
    every = -(-count * _STEP // (width - 100))  # names never overlap
    labels = shorten_layer_names(layers)
    axes.set_xticks(depth[::every], labels[::every], rotation=90, parse_math=False)
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(-0.03, 1.03)  # the whole range, so that 0.01 and 0.02 look close
    style_axes(axes, "depth: from the first layer to the last")
    axes.set_ylabel(shorten(what, 260), parse_math=False, **SMALL_TEXT)
    add_legend(axes)
    return draw_figure(figure, title, _DEPTH)


def rate_curve(
    rates: Sequence[float],
    smooth: Sequence[float],
    losses: Sequence[float],
    best: float | None,
    *,
    title: str,
) -> np.ndarray:
    """Draw the learning-rate range test: the loss of each step (faint) and its average.

    Args:
        rates: The learning rate of each step, rising.
        smooth: The averaged loss of each step.
        losses: The loss of each step.
        best: The suggested rate, which is marked; None for no mark.
        title: The heading of the picture.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no step.
    """
    if not len(rates):
        raise ValueError("a rate curve needs at least one step")
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.plot(rates, losses, color="#b9c7e2", linewidth=1, label="each step")
    axes.plot(rates, smooth, color=BLUE, linewidth=2, label="average")
    if best is not None:
        place = best, float(smooth[list(rates).index(best)])
        axes.plot(*place, "o", label=f"steepest descent at {best:.2g}", **_RING)
    # the first steps and the divergence at the end would flatten everything in between
    top = max(smooth[0], float(np.median(smooth))) * 1.5
    axes.set_ylim(min(0.9 * min(smooth), 0.9 * min(losses)), top)
    style_axes(axes, "learning rate")
    axes.spines[["left", "bottom"]].set_color("black")
    add_legend(axes, "training loss")
    return draw_figure(figure, title)
