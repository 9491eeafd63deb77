"""A small network that learns to tell two kinds of points apart by gradient descent.

Legend: ``N`` points, ``G`` side of the grid on which the trained network is drawn.

A point is two numbers, as an image is many. Points of class 0 form a disc, those of class 1 a ring
around it. No straight line separates them, so a network without activation functions, which can
only draw straight lines, must fail.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from convlens.core.errors import UserError, nearest
from convlens.lessons.functions import find_activation

POINTS, GRID = 200, 80
EDGE = 1.2  # the grid reaches from -EDGE to EDGE in both directions
LOSSES = ("cross_entropy", "squared_error")


@dataclass(frozen=True)
class Settings:
    """How a network is built and trained.

    Attributes:
        rate: The learning rate.
        activation: The activation function after each hidden layer.
        loss: ``cross_entropy`` or ``squared_error``.
        hidden: Units of each hidden layer.
        steps: Steps of gradient descent, each over all points.
        seed: Seed of the points and of the initial weights.
    """

    rate: float
    activation: str
    loss: str
    hidden: tuple[int, ...]
    steps: int
    seed: int


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        settings: How it was trained.
        losses: The loss before the first step and after each. The list is shorter than
            ``steps + 1`` if a loss was infinite or NaN: training stops there.
        accuracy: Fraction of the points that are right at the end.
        map: ``(G, G)``, the probability of class 1 over the plane; row 0 is at the top.
    """

    settings: Settings
    losses: list[float]
    accuracy: float
    map: Tensor


def make_points(seed: int) -> tuple[Tensor, Tensor]:
    """Return ``(N, 2)`` points in [-1, 1] and their classes ``(N,)``, 0.0 or 1.0."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(POINTS) % 2).float()
    angle = 2 * math.pi * torch.rand(POINTS, generator=generator)
    share = torch.rand(POINTS, generator=generator)
    # the root spreads the points of the disc evenly over its area
    radius = torch.where(labels == 0, 0.45 * share.sqrt(), 0.65 + 0.3 * share)
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1), labels


def compute_loss(logits: Tensor, labels: Tensor, loss: str) -> Tensor:
    """Return the mean loss of logits ``(N,)`` for labels of 0.0 or 1.0.

    With the probability ``p = sigmoid(logit)``, cross-entropy is ``-ln p`` of the true class, and
    squared error is ``(p - label)²``.

    Raises:
        UserError: There is no such loss.
    """
    if loss not in LOSSES:
        raise UserError(f"loss={loss}: no such loss; {nearest(loss, LOSSES)}")
    if loss == "cross_entropy":
        return functional.binary_cross_entropy_with_logits(logits, labels)
    return (logits.sigmoid() - labels).square().mean()


def train(settings: Settings) -> Trained:
    """Train a network on all points at once, by steps of plain gradient descent.

    Raises:
        UserError: The activation or the loss is unknown.
    """
    points, labels = make_points(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed + 1)
    weights = _initialise((2, *settings.hidden, 1), generator)
    activation, losses = find_activation(settings.activation), []

    def forward(x: Tensor) -> Tensor:
        """Return the logits of points ``(N, 2)``."""
        for matrix, bias in zip(weights[0:-2:2], weights[1:-2:2], strict=True):
            x = activation(x @ matrix + bias)
        return (x @ weights[-2] + weights[-1])[:, 0]

    for step in range(settings.steps + 1):
        loss = compute_loss(forward(points), labels, settings.loss)
        if not math.isfinite(loss.item()):
            break
        losses.append(loss.item())
        if step < settings.steps:
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight -= settings.rate * gradient
    with torch.no_grad():
        right = (forward(points) > 0) == labels.bool()
        line = torch.linspace(-EDGE, EDGE, GRID)
        grid = torch.stack(torch.meshgrid(line, -line, indexing="xy"), -1)
        map = forward(grid.reshape(-1, 2)).sigmoid().reshape(GRID, GRID)
    return Trained(settings, losses, float(right.float().mean()), map)


def _initialise(sizes: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Return matrices and biases in turn, uniform as Glorot and Bengio (AISTATS 2010) propose."""
    weights = []
    for before, after in itertools.pairwise(sizes):
        limit = math.sqrt(6 / (before + after))
        matrix = (2 * torch.rand(before, after, generator=generator) - 1) * limit
        weights += [matrix.requires_grad_(), torch.zeros(after, requires_grad=True)]
    return weights
