"""Draw gradient descent: on the loss of one weight, and of a small network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.draw.colour import DIVERGING
from convlens.draw.figure import FAINT, add_legend, draw_figure, new_figure, style_axes
from convlens.draw.palette import INK, WHITE, to_hex
from convlens.lessons.learning.curves import COLOURS
from convlens.lessons.learning.network import EDGE, Trained, make_points
from convlens.lessons.learning.one_weight import Descent, compute_loss, find_best_weight

MOST = len(COLOURS)  # columns of a chart
_WIDTH = 2.5  # inches of a column
_CLASSES = ("#3b4cc0", "#b40426")  # of the points, as the ends of the map's colours


def descent_chart(descents: Sequence[Descent]) -> np.ndarray:
    """Draw the steps of each descent on the curve of the loss, and all losses over the steps.

    Args:
        descents: At most ``MOST`` of them, from the same weight.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    figure = new_figure(max(_WIDTH * len(descents), 6.4), 6.0)
    grid = figure.add_gridspec(2, len(descents), height_ratios=[1.3, 1])
    best, start = find_best_weight(), float(descents[0].weights[0])
    reach = max(1.4 * abs(start - best), 1.0)
    line = np.linspace(best - reach, best + reach, 201)
    top = float(compute_loss(line).max())
    below = figure.add_subplot(grid[1, :])
    for column, (descent, colour) in enumerate(zip(descents, COLOURS, strict=False)):
        axes = figure.add_subplot(grid[0, column])
        style_axes(axes, "weight")
        near = np.abs(descent.weights - best) < 3 * reach  # also drops NaN
        weights = np.where(near, descent.weights, np.nan)
        losses = np.where(near, descent.losses, np.nan)
        axes.plot(line, compute_loss(line), color=FAINT, linewidth=2, label="loss")
        axes.plot(weights, losses, "o-", color=colour, linewidth=1.2, markersize=4, label="steps")
        axes.set_xlim(best - reach, best + reach)
        axes.set_ylim(-0.04 * top, 1.04 * top)
        add_legend(axes, f"lr {descent.rate:g}")
        below.plot(losses, "o-", color=colour, linewidth=1.5, markersize=3,
                   label=f"lr {descent.rate:g}")  # fmt: skip
    style_axes(below, "steps")
    below.set_yscale("log")
    add_legend(below, "loss after each step", columns=MOST)
    reading = "Each step goes downhill: its length is the slope times the learning rate (lr)."
    return draw_figure(figure, "gradient descent on one weight", reading)


def network_chart(results: Sequence[Trained]) -> np.ndarray:
    """Draw what each network predicts in the plane, with the points, and its loss over the steps.

    Args:
        results: At most ``MOST`` of them.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    figure = new_figure(max(_WIDTH * len(results), 6.4), 5.2)
    every = figure.subplots(2, len(results), squeeze=False, height_ratios=[1.5, 1])
    losses = np.concatenate([trained.losses for trained in results])
    positive = losses[losses > 0]  # the axis is logarithmic
    low, high = positive.min(initial=0.1), positive.max(initial=1.0)
    for (above, below), trained, colour in zip(every.T, results, COLOURS, strict=False):
        settings = trained.settings
        points, labels = make_points(settings.seed)
        extent = (-EDGE, EDGE, -EDGE, EDGE)
        above.imshow(trained.map, cmap=DIVERGING, vmin=0, vmax=1, extent=extent, alpha=0.6)
        for number, ink in enumerate(_CLASSES):
            x, y = points[labels == number].T
            above.plot(x, y, "o", color=ink, markersize=3.5, markeredgecolor=to_hex(WHITE),
                       markeredgewidth=0.4)  # fmt: skip
        above.set_axis_off()
        above.set_title(
            f"{settings.activation}, lr {settings.rate:g}\n{settings.loss.replace('_', ' ')}: "
            f"{trained.accuracy:.0%} correct",
            loc="left", fontsize=10, color=to_hex(INK),
        )  # fmt: skip
        style_axes(below, "steps")
        below.plot(trained.losses, color=colour, linewidth=1.5)
        below.set_yscale("log")
        below.set_ylim(low / 1.3, high * 1.3)  # the same in every chart
        below.set_title("loss", loc="left", fontsize=10, color=to_hex(INK))
    reading = "Blue and red are the two classes: of the points, and of the network's predictions."
    return draw_figure(figure, "a small network", reading)
