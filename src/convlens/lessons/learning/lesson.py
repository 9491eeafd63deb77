"""The lessons about learning: each computes, draws a chart and writes its numbers as text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from convlens.lessons.functions import ACTIVATIONS, NONE
from convlens.lessons.learning.charts import descent_chart, network_chart
from convlens.lessons.learning.curves import (
    activations_chart,
    compute_loss_curves,
    losses_chart,
    softmax_chart,
)
from convlens.lessons.learning.network import Settings, train
from convlens.lessons.learning.one_weight import descend, describe_descent
from convlens.lessons.result import Lesson

FILE = "lesson.jpg"
_SAMPLES = (-4.0, -2.0, 0.0, 2.0, 4.0)  # logits and inputs in tables


def teach_one_weight(rates: Sequence[float], steps: int, start: float) -> Lesson:
    """Take the same number of steps at each learning rate, from the same weight."""
    descents = [descend(rate, steps, start) for rate in rates]
    lines = [line for descent in descents for line in describe_descent(descent)]
    return Lesson(descent_chart(descents), lines)


def teach_network(every: Sequence[Settings]) -> Lesson:
    """Train a small network once for each of the settings.

    Raises:
        UserError: An activation or a loss is unknown.
    """
    results = [train(settings) for settings in every]
    lines = []
    for each in results:
        settings, steps = each.settings, len(each.losses) - 1
        end = f"loss {each.losses[0]:.3f} → {each.losses[-1]:.3f} in {steps} steps"
        if steps < settings.steps:
            end += ", then infinite"
        lines.append(
            f"{settings.activation}, lr {settings.rate:g}, {settings.loss}: {end}; "
            f"{each.accuracy:.1%} of the points right"
        )
    return Lesson(network_chart(results), lines)


def teach_activations() -> Lesson:
    """Draw the activation functions, with a table of some values."""
    x = torch.tensor(_SAMPLES, dtype=torch.float64)
    lines = [f"{'input':<12}{_format_row(x)}"]
    lines += [f"{name:<12}{_format_row(f(x))}" for name, f in ACTIVATIONS.items() if name != NONE]
    return Lesson(activations_chart(), lines)


def teach_losses() -> Lesson:
    """Draw squared error and cross-entropy, with a table of some values."""
    x = torch.tensor(_SAMPLES, dtype=torch.float64)
    lines = [f"{'logit':<21}{_format_row(x)}", f"{'probability':<21}{_format_row(x.sigmoid())}"]
    for name, (loss, slope) in compute_loss_curves(x).items():
        lines += [f"{name:<21}{_format_row(loss)}", f"{'  its slope':<21}{_format_row(slope)}"]
    return Lesson(losses_chart(), lines)


def teach_softmax(logits: Sequence[float]) -> Lesson:
    """Draw how logits become probabilities, with the numbers."""
    values = torch.tensor(logits, dtype=torch.float64)
    lines = [
        f"{'logits':<14}{_format_row(values)}",
        f"{'exp(logit)':<14}{_format_row(values.exp())}   sum {values.exp().sum():.4g}",
        f"{'probabilities':<14}{_format_row(values.softmax(0))}   sum 1",
    ]
    return Lesson(softmax_chart(logits), lines)


def _format_row(values: torch.Tensor) -> str:
    return "".join(f"{value:>9.3f}" for value in values.tolist())
