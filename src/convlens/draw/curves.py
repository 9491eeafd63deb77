"""Learning curves: training against validation, in one chart for loss and one for accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from convlens.draw.canvas import BACKGROUND, GREEN, INK, MUTED, RED, SLATE, Colour, titled
from convlens.draw.chart import html, image_of, new_figure, plain
from convlens.draw.text import printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE: dict[str, tuple[Colour, str]] = {
    "train": ((52, 101, 192), "training"),
    "val": ((226, 122, 24), "validation"),
    "test": (GREEN, "test"),
}


def best_epoch(history: Mapping[str, Sequence[float]], epochs: Sequence[int]) -> int | None:
    """The epoch of the lowest finite ``val/loss``, the first of equals; None if there is none."""
    losses = np.asarray(history.get("val/loss", ()), float)
    if not np.isfinite(losses).any():
        return None
    return int(epochs[int(np.nanargmin(np.where(np.isfinite(losses), losses, np.nan)))])


def _epochs_axes(axes: Axes, metric: str) -> None:
    """Quiet axes over whole epochs."""
    from matplotlib.ticker import MaxNLocator

    plain(axes)
    axes.spines[["left", "bottom"]].set_color(html(MUTED))
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_xlabel("completed epochs", color=html(MUTED), fontsize=9)
    text = shorten(metric, 300)
    axes.set_title(text, loc="left", color=html(INK), fontsize=11, parse_math=False)


def _curves(
    axes: Axes, series: Mapping[str, Sequence[float]], epochs: Sequence[int], best: int | None
) -> None:
    """One line for each part of the data, and a ring where the best epoch is."""
    for part, values in series.items():
        colour, name = _STYLE.get(part, (SLATE, printable(part)))
        line = np.asarray(values, float)
        line[~np.isfinite(line)] = np.nan  # a gap: there is no training loss at epoch 0
        alone = np.isfinite(line).sum() < 15
        axes.plot(
            epochs,
            line,
            color=html(colour),
            linewidth=1.8,
            marker="o" if alone else None,
            markersize=3.5,
            label=name.lstrip("_"),  # Matplotlib hides names that start with it
        )
    if best is not None and "val" in series:
        value = float(series["val"][list(epochs).index(best)])
        axes.plot([best], [value], "o", ms=9, mfc="none", mec=html(RED), mew=1.6)
        # below the ring: the training curve is above it in a chart of accuracy, and the
        # validation curve itself in one of loss; never across the chart's edge
        along = (best - epochs[0]) / max(epochs[-1] - epochs[0], 1)
        axes.annotate(
            f"{value:.3f} at epoch {best}",
            (best, value),
            xytext=(0, -18),
            textcoords="offset points",
            ha="left" if along < 0.2 else "right" if along > 0.8 else "center",
            fontsize=9,
            color=html(RED),
            bbox={"fc": html(BACKGROUND), "ec": "none", "pad": 1, "alpha": 0.8},
        )


def _marks(axes: Axes, marks: Mapping[str, int]) -> None:
    """A dashed upright line with its name for each mark."""
    for name, epoch in marks.items():
        axes.axvline(epoch, color=html(MUTED), linewidth=1, linestyle=(0, (4, 3)))
        axes.text(
            epoch,
            0.02,
            " " + shorten(name, 150),
            transform=axes.get_xaxis_transform(),
            rotation=90,
            ha="right",
            va="bottom",
            fontsize=8.5,
            color=html(MUTED),
            parse_math=False,
        )


def learning_curves(
    history: Mapping[str, Sequence[float]],
    epochs: Sequence[int],
    *,
    title: str,
    marks: Mapping[str, int] | None = None,
) -> np.ndarray:
    """Training and validation in one chart for each metric, side by side.

    The epoch of the lowest ``val/loss`` is ringed in every chart that has a validation curve.

    Args:
        history: tags such as ``train/loss``, ``val/loss``, ``val/accuracy``, each with one value
            an epoch; NaN where there is none. Tags that share what follows the ``/`` share a
            chart; loss comes first, then accuracy, then the others by name.
        epochs: completed epochs, as many as there are values, rising.
        title: the run.
        marks: upright dashed lines, name → epoch ("block5 unfrozen" → 5).

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: nothing to draw, or a series of another length than ``epochs``.
    """
    if not history or not len(epochs):
        raise ValueError("learning curves need at least one series and one epoch")
    for tag, values in history.items():
        if len(values) != len(epochs):
            raise ValueError(f"{tag} has {len(values)} values for {len(epochs)} epochs")
    charts: dict[str, dict[str, Sequence[float]]] = {}
    for tag, values in history.items():
        part, _, metric = tag.partition("/")
        charts.setdefault(metric or part, {})[part] = values
    order = {"loss": 0, "accuracy": 1}
    metrics = sorted(charts, key=lambda metric: (order.get(metric, 2), metric))
    figure = new_figure(4.8 * len(metrics), 3.4)
    best = best_epoch(history, epochs)
    for axes, metric in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
    ):
        _epochs_axes(axes, metric)
        _curves(axes, charts[metric], epochs, best)
        _marks(axes, marks or {})
        axes.margins(x=0.04, y=0.16)
        axes.legend(frameon=False, fontsize=9, labelcolor=html(INK), loc="best")
    return titled(image_of(figure), title)
