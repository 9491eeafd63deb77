"""Draw the functions of a network as curves: activations, sigmoid, losses, softmax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from convlens.draw.figure import BLUE, ORANGE, add_legend, draw_figure, new_figure, style_axes
from convlens.draw.palette import GREEN, INK, MUTED, RED, SLATE, to_hex
from convlens.lessons.functions import ACTIVATIONS, NONE, compute_slope
from convlens.lessons.learning.network import LOSSES, compute_loss

COLOURS = (BLUE, ORANGE, to_hex(GREEN), to_hex(RED), to_hex(SLATE))
_REACH = 5.0  # the curves reach from -5 to 5
_WIDTH = 10.0  # of a figure, inches


def _sample() -> Tensor:
    """Return the inputs of the curves, from -5 to 5."""
    return torch.linspace(-_REACH, _REACH, 401, dtype=torch.float64)


def compute_loss_curves(logits: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each loss and its slope at single logits ``(N,)`` whose true class is 1."""

    def curve(loss: str) -> tuple[Tensor, Tensor]:
        def single(z: Tensor) -> Tensor:
            return torch.stack([compute_loss(each[None], torch.ones_like(each[None]), loss)
                                for each in z])  # fmt: skip

        return single(logits), compute_slope(single, logits)

    return {loss: curve(loss) for loss in LOSSES}


def activations_chart() -> np.ndarray:
    """Draw each activation function and its slope, uint8 ``(H, W, 3)``."""
    names = [name for name in ACTIVATIONS if name != NONE]
    figure = new_figure(_WIDTH, 5.6)
    every = figure.subplots(2, 4).ravel()
    x = _sample()
    for axes, name in zip(every, names, strict=False):
        style_axes(axes, "input")
        axes.plot(x, ACTIVATIONS[name](x), color=BLUE, linewidth=2, label="output")
        axes.plot(x, compute_slope(ACTIVATIONS[name], x), color=ORANGE, linewidth=1.5,
                  label="slope")  # fmt: skip
        axes.set_ylim(-1.3, 5)
        add_legend(axes, name)
    for axes in every[len(names) :]:
        axes.set_axis_off()
    reading = "Where the slope is 0, a weight before the function learns nothing."
    return draw_figure(figure, "activation functions", reading)


def losses_chart() -> np.ndarray:
    """Draw sigmoid, and both losses with their slopes, over the logit of the true class."""
    figure = new_figure(_WIDTH, 3.6)
    first, second, third = figure.subplots(1, 3)
    x = _sample()
    first.plot(x, x.sigmoid(), color=to_hex(GREEN), linewidth=2, label="sigmoid")
    for (name, (loss, slope)), colour in zip(compute_loss_curves(x).items(), COLOURS, strict=False):
        label = name.replace("_", " ")
        second.plot(x, loss, color=colour, linewidth=2, label=label)
        third.plot(x, slope, color=colour, linewidth=2, label=label)
    headings = "probability of the true class", "loss", "slope of the loss"
    for axes, heading in zip((first, second, third), headings, strict=True):
        style_axes(axes, "logit of the true class")
        add_legend(axes, heading)
    reading = "On the left, the network is confident and wrong: there it has most to learn."
    return draw_figure(figure, "squared error and cross-entropy", reading)


def softmax_chart(logits: Sequence[float]) -> np.ndarray:
    """Draw how softmax turns logits into probabilities, and what happens as the first one grows."""
    values = torch.tensor(logits, dtype=torch.float64)
    names = [str(number) for number in range(1, len(logits) + 1)]
    figure = new_figure(_WIDTH, 3.6)
    *bars, last = figure.subplots(1, 4)
    parts = {
        "logits": (values, "%.2f"),
        "exp(logit)": (values.exp(), "%.3g"),
        "probabilities": (values.softmax(0), "%.3f"),
    }
    for axes, (heading, (heights, form)) in zip(bars, parts.items(), strict=True):
        style_axes(axes, "class")
        axes.grid(False)
        drawn = axes.bar(names, heights, color=COLOURS[: len(logits)], width=0.6)
        axes.bar_label(drawn, fmt=form, fontsize=9, padding=2, color=to_hex(MUTED))
        axes.axhline(0, color=to_hex(MUTED), linewidth=0.8)
        axes.margins(y=0.15)
        axes.set_title(heading, loc="left", fontsize=11, color=to_hex(INK))
    x = _sample()
    moved = values.repeat(len(x), 1)
    moved[:, 0] = x
    for curve, name, colour in zip(moved.softmax(1).T, names, COLOURS, strict=False):
        last.plot(x, curve, color=colour, linewidth=2, label=f"class {name}")
    style_axes(last, "logit of class 1")
    add_legend(last, "probabilities as logit 1 changes", columns=3)
    reading = "The probabilities add up to 1: if one class gains, all others lose."
    return draw_figure(figure, "softmax", reading)
