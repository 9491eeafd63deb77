"""Draw charts with Matplotlib in the colours of the panels: learning curves, depth, rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from convlens.draw.canvas import add_title
from convlens.draw.palette import BACKGROUND, GREEN, INK, MUTED, RED, SLATE, to_hex
from convlens.draw.text import printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CURVES = "Validation that gets worse while training improves is overfitting."
_DEPTH = "A jump names the layer to look at."
_DPI = 100
_BLUE = "#3465c0"
_PARTS = {  # split -> colour and name of its line
    "train": (_BLUE, "training"),
    "val": ("#e27a18", "validation"),
    "test": (to_hex(GREEN), "test"),
}
_NAME = 170  # maximum width of a layer's name, pixels
_STEP = 14  # pixels from one layer's name to the next
_NARROWEST, _WIDEST = 520, 1500  # width of a depth chart, pixels
_SMALL = {"color": to_hex(MUTED), "fontsize": 9}  # text at an axis
_LEGEND = {"frameon": False, "fontsize": 9, "labelcolor": to_hex(INK)}
_RING = {"ms": 9, "mfc": "none", "mec": to_hex(RED), "mew": 1.6}


def _new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, independent of pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(width, height), dpi=_DPI, facecolor=to_hex(BACKGROUND), layout="constrained"
    )
    FigureCanvasAgg(figure)
    return figure


def _style(axes: Axes, xlabel: str) -> None:
    """Reduce the chart to what helps the reader: two muted axis lines and a faint grid."""
    axes.set_facecolor(to_hex(BACKGROUND))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(to_hex(MUTED))
    axes.set_axisbelow(True)
    axes.grid(True, color="#e3e5e8", linewidth=0.8)
    axes.tick_params(colors=to_hex(MUTED), labelsize=9)
    axes.set_xlabel(xlabel, **_SMALL)


def _draw_figure(figure: Figure, title: str, reading: str | None = None) -> np.ndarray:
    """Draw the figure below its title and how to read it, uint8 ``(H, W, 3)``."""
    figure.canvas.draw()
    return add_title(np.asarray(figure.canvas.buffer_rgba())[..., :3], title, reading)


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
        label = name.lstrip("_")  # Matplotlib hides labels that start with _
        axes.plot(
            epochs, np.where(finite, line, np.nan), color=colour, label=label,
            linewidth=1.8, marker=marker, markersize=3.5,
        )  # fmt: skip
    if best is not None and "val" in series:
        value = float(series["val"][list(epochs).index(best)])
        axes.plot([best], [value], "o", **_RING)
        # The text is below the ring, because curves run above it: training in a chart of
        # accuracy, validation itself in a chart of loss. It must not cross the chart's edge.
        along = (best - epochs[0]) / max(epochs[-1] - epochs[0], 1)
        axes.annotate(
            f"{value:.3f} at epoch {best}", (best, value), xytext=(0, -18),
            textcoords="offset points", fontsize=9, color=to_hex(RED),
            ha="left" if along < 0.2 else "right" if along > 0.8 else "center",
            bbox={"fc": to_hex(BACKGROUND), "ec": "none", "pad": 1, "alpha": 0.8},
        )  # fmt: skip


def _draw_marks(axes: Axes, marks: Mapping[str, int]) -> None:
    """Draw a dashed vertical line with its name for each mark."""
    for name, epoch in marks.items():
        axes.axvline(epoch, color=to_hex(MUTED), linewidth=1, linestyle=(0, (4, 3)))
        axes.text(
            epoch, 0.02, " " + shorten(name, 150), transform=axes.get_xaxis_transform(),
            rotation=90, ha="right", va="bottom", fontsize=8.5, color=to_hex(MUTED),
            parse_math=False,
        )  # fmt: skip


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
    figure = _new_figure(4.8 * len(metrics), 3.4)
    best = find_best_epoch(history, epochs)
    every = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(every, metrics, strict=True):
        _style(axes, "completed epochs")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        heading = shorten(metric, 300)
        axes.set_title(heading, loc="left", color=to_hex(INK), fontsize=11, parse_math=False)
        _draw_curves(axes, charts[metric], epochs, best)
        _draw_marks(axes, marks or {})
        axes.margins(x=0.04, y=0.16)
        axes.legend(loc="best", **_LEGEND)
    return _draw_figure(figure, title, _CURVES)


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
    figure = _new_figure(width / _DPI, 4.4)
    axes = figure.subplots()
    depth, marker = np.arange(count), "o" if count <= 120 else None
    for name, values, colour, thick, size in (
        ("before training", before, "#a0a6b0", 1.5, 3.5),
        ("now", now, _BLUE, 2, 4.5),
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
    _style(axes, "depth: from the first layer to the last")
    axes.set_ylabel(shorten(what, 260), parse_math=False, **_SMALL)
    # above the chart, because lines may run through every corner of it
    axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, **_LEGEND)
    return _draw_figure(figure, title, _DEPTH)


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
    figure = _new_figure(6.4, 3.6)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.plot(rates, losses, color="#b9c7e2", linewidth=1, label="each step")
    axes.plot(rates, smooth, color=_BLUE, linewidth=2, label="average")
    if best is not None:
        place = best, float(smooth[list(rates).index(best)])
        axes.plot(*place, "o", **_RING)
        axes.annotate(
            f"steepest descent at {best:.2g}", place, xytext=(10, 8), textcoords="offset points",
            color=to_hex(RED), fontsize=9,
        )  # fmt: skip
    # the first steps and the divergence at the end would flatten everything in between
    top = max(smooth[0], float(np.median(smooth))) * 1.5
    axes.set_ylim(min(0.9 * min(smooth), 0.9 * min(losses)), top)
    _style(axes, "learning rate")
    axes.spines[["left", "bottom"]].set_color("black")
    axes.set_title("training loss", loc="left", color=to_hex(INK), fontsize=11)
    axes.legend(loc="upper left", **_LEGEND)
    return _draw_figure(figure, title)
