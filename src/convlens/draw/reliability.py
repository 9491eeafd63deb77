"""Draw a reliability chart: how often predictions are right, by how sure the network is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from convlens.draw.figure import (
    BLUE,
    FAINT,
    ORANGE,
    SMALL_TEXT,
    add_legend,
    draw_figure,
    new_figure,
    style_axes,
)

_COLOURS = (BLUE, ORANGE)
_READING = (
    "Points below the line: too sure; above it: not sure enough. Bars: where chance leaves 95 % of "
    "the points of a calibrated network."
)
_LEFT, _WIDTH = 0.13, 0.84  # of the axes, as fractions of the figure


class Curve(NamedTuple):
    """Images by confidence, in M bins.

    Attributes:
        name: for the legend.
        counts: (M,) number of images.
        confidences: (M,) mean confidence, in [0, 1]; NaN in empty bins.
        accuracies: (M,) fraction of correct predictions, in [0, 1]; NaN in empty bins.
    """

    name: str
    counts: np.ndarray
    confidences: np.ndarray
    accuracies: np.ndarray


def reliability_chart(curves: Sequence[Curve], *, title: str) -> np.ndarray:
    """Draw accuracy against confidence, and below how many images have which confidence.

    The bars are consistency bars (Bröcker and Smith 2007): the accuracy of n images of the mean
    confidence c lies between c ± 1.96 · sqrt(c (1 - c) / n), if the network is calibrated.

    Args:
        curves: One, or two to compare.
        title: The heading of the picture.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no curve, or one without an image.
    """
    if not curves or not all(curve.counts.sum() for curve in curves):
        raise ValueError("a reliability chart needs at least one curve, each with an image")
    figure = new_figure(5.2, 5.2)
    figure.set_layout_engine("none")  # finding the layout takes as long as drawing
    upper = figure.add_axes((_LEFT, 0.36, _WIDTH, 0.55))
    lower = figure.add_axes((_LEFT, 0.1, _WIDTH, 0.18))
    upper.plot([0, 1], [0, 1], color=FAINT, linestyle=(0, (4, 3)), linewidth=1.2)
    for number, (curve, colour) in enumerate(zip(curves, _COLOURS, strict=False)):
        full = curve.counts > 0
        counts, sure, right = (part[full] for part in curve[1:])
        spread = 1.96 * np.sqrt(sure * (1 - sure) / counts)
        upper.vlines(
            sure, np.clip(sure - spread, 0, 1), np.clip(sure + spread, 0, 1),
            color=colour, alpha=0.3, linewidth=5,
        )  # fmt: skip
        upper.plot(
            sure, right, color=colour, linewidth=1.6, marker="o", markersize=4.5, label=curve.name
        )
        edges = np.linspace(0, 1, len(curve.counts) + 1)
        width = edges[1] / len(curves)
        lower.bar(
            edges[:-1] + (number + 0.5) * width, curve.counts / curve.counts.sum(),
            width=0.9 * width, color=colour,
        )  # fmt: skip
    for axes, xlabel, ylabel in (
        (upper, "", "accuracy"),
        (lower, "confidence: probability of the predicted class", "share of images"),
    ):
        style_axes(axes, xlabel)
        axes.set_ylabel(ylabel, **SMALL_TEXT)
        axes.set_xlim(-0.01, 1.01)
    upper.set_ylim(-0.02, 1.02)  # the same at every epoch
    lower.set_ylim(0, 1)
    add_legend(upper, columns=1)
    return draw_figure(figure, title, _READING)
