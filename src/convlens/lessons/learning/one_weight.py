"""Gradient descent on one weight, in numbers that can be checked by hand.

The network is ``prediction = w · x``, and the loss is the mean squared error over five examples.
As a function of ``w``, the loss is a parabola. A step of the rate ``lr`` multiplies the distance of
``w`` from the lowest point by ``1 - lr · curvature``. So the weight arrives if ``lr`` is below
``2 / curvature``; above, every step takes it farther away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

INPUTS = np.array([0.2, 0.4, 0.6, 0.8, 1.0])
TARGETS = np.array([0.5, 0.7, 1.3, 1.5, 2.1])  # about twice the inputs


def compute_loss(weight: float | np.ndarray) -> np.ndarray:
    """Return the mean squared error, ``mean((w · x - y)²)``, for each of the weights."""
    errors = np.asarray(weight, float)[..., None] * INPUTS - TARGETS
    return np.square(errors).mean(-1)


def compute_gradient(weight: float) -> float:
    """Return the slope of the loss, ``mean(2 · (w · x - y) · x)``."""
    return float((2 * (weight * INPUTS - TARGETS) * INPUTS).mean())


def find_best_weight() -> float:
    """Return the weight of the lowest loss, ``mean(x · y) / mean(x²)``."""
    return float((INPUTS * TARGETS).mean() / np.square(INPUTS).mean())


def compute_curvature() -> float:
    """Return the second derivative of the loss, ``2 · mean(x²)``; it is the same everywhere."""
    return float(2 * np.square(INPUTS).mean())


@dataclass(frozen=True)
class Descent:
    """The steps of one descent.

    Attributes:
        rate: The learning rate.
        weights: The weight before the first step and after each, ``steps + 1`` numbers.
        losses: The loss at each of these weights.
    """

    rate: float
    weights: np.ndarray
    losses: np.ndarray


def descend(rate: float, steps: int, start: float) -> Descent:
    """Take ``steps`` steps ``w - rate · gradient`` from the weight ``start``.

    The weights of a diverging descent may overflow to infinity or NaN.
    """
    weights = [start]
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(steps):
            weights.append(weights[-1] - rate * compute_gradient(weights[-1]))
        path = np.array(weights)
        return Descent(rate, path, compute_loss(path))


def describe_descent(descent: Descent) -> list[str]:
    """Write the first step with its numbers, and where the descent ends, as lines of text."""
    rate, first = descent.rate, float(descent.weights[0])
    gradient = compute_gradient(first)
    factor = 1 - rate * compute_curvature()
    verdict = "w arrives" if abs(factor) < 1 else "w moves away"
    return [
        f"lr {rate:g}",
        f"  first step  w = {first:.3f} − {rate:g} · ({gradient:.3f}) = {descent.weights[1]:.3f}",
        f"  each step   multiplies the distance to the best weight by {factor:.3f}: {verdict}",
        f"  the end     after {len(descent.weights) - 1} steps: w = {descent.weights[-1]:.3f}, "
        f"loss {descent.losses[-1]:.4g}",
    ]
