"""The learning-rate range test as a chart: loss over rate, with the suggestion marked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.draw.canvas import INK, MUTED, RED, titled
from convlens.draw.chart import html, image_of, new_figure, plain

_LINE, _FAINT = "#3465c0", "#b9c7e2"


def rate_curve(
    rates: Sequence[float],
    smooth: Sequence[float],
    losses: Sequence[float],
    best: float | None,
    *,
    title: str,
) -> np.ndarray:
    """Loss of each step (faint) and its average (strong) over the rate, logarithmic.

    Args:
        rates, smooth, losses: one value a step, rates rising.
        best: the suggested rate, marked; None for no mark.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: no step.
    """
    if not len(rates):
        raise ValueError("a rate curve needs at least one step")
    muted, ink, red = map(html, (MUTED, INK, RED))
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.plot(rates, losses, color=_FAINT, linewidth=1, label="each step")
    axes.plot(rates, smooth, color=_LINE, linewidth=2, label="average")
    if best is not None:
        value = float(smooth[list(rates).index(best)])
        axes.plot([best], [value], "o", ms=9, mfc="none", mec=red, mew=1.6)
        axes.annotate(
            f"steepest fall at {best:.2g}", (best, value), xytext=(10, 8),
            textcoords="offset points", color=red, fontsize=9,
        )  # fmt: skip
    # the first steps and the explosion at the end would flatten what lies between
    top = max(smooth[0], float(np.median(smooth))) * 1.5
    axes.set_ylim(min(0.9 * min(smooth), 0.9 * min(losses)), top)
    plain(axes)
    axes.set_xlabel("learning rate", color=muted, fontsize=9)
    axes.set_title("training loss", loc="left", color=ink, fontsize=11)
    axes.legend(frameon=False, fontsize=9, labelcolor=ink, loc="upper left")
    return titled(image_of(figure), title)
