"""The average of a network's weights, which is the network that answers.

The network holds either the weights that are trained, while a step trains them, or their average,
at all other times. So whatever evaluates, explains or saves the network uses the average, and needs
not know of it. Exchanging the two copies numbers and rounds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from convlens.config.schema import TrainingConfig
from convlens.core.errors import UserError

KEY = "convlens_average"  # of a checkpoint
Rule = Callable[[int, int, bool], float]
"""Takes the steps before, the epoch from 0, and whether the step is the epoch's last; returns the
share of the weights after the step in the average, in [0, 1]."""


def choose_rule(training: TrainingConfig, epochs: int) -> Rule | None:
    """Return how the weights are averaged; None if they are not.

    Args:
        training: the config group.
        epochs: of the whole run.

    Raises:
        UserError: both kinds of averages are asked for, or one that would average nothing.
    """
    ema, swa = training.ema, training.swa
    if ema is not None and swa is not None:
        raise UserError(f"training.ema={ema:g} training.swa={swa}: choose one of the two averages")
    if ema is not None:
        return lambda steps, epoch, is_last: 1 - compute_decay(ema, steps)
    if swa is None:
        return None
    if swa >= epochs:
        raise UserError(
            f"training.swa={swa}: the run has {epochs} epochs, so nothing would be averaged; "
            f"choose a lower number"
        )
    return lambda steps, epoch, is_last: compute_equal_share(swa, epoch, is_last)


def compute_decay(decay: float, steps: int) -> float:
    """Return the weight of the moving average so far, in the update after ``steps`` earlier ones.

    It begins low and rises to ``decay``, as in TensorFlow's ``ExponentialMovingAverage``: otherwise
    the random initial weights would remain in the average for 1 / (1 - decay) steps.

    >>> [round(compute_decay(0.999, steps), 3) for steps in (0, 10, 100, 100_000)]
    [0.1, 0.55, 0.918, 0.999]
    """
    return min(decay, (1 + steps) / (10 + steps))


def compute_equal_share(start: int, epoch: int, is_last: bool) -> float:
    """Return the share of a step's weights in the equal average of the ends of epochs.

    Args:
        start: number of the first epoch, from 1, whose end is averaged; the average equals the
            weights until then.
        epoch: number of the epoch, from 0.
        is_last: whether the step is the epoch's last.

    >>> [round(compute_equal_share(2, epoch, True), 3) for epoch in range(4)]
    [1.0, 1.0, 0.5, 0.333]
    """
    before = max(0, epoch + 1 - start)  # ends of epochs in the average
    return 1 / (before + 1) if is_last or not before else 0.0


class WeightAverage:
    """The average of the weights and of the running statistics of a network.

    After every optimizer step, average = (1 - share) · average + share · weights.

    - Moving average (Polyak and Juditsky 1992; Tarvainen and Valpola 2017, arXiv:1703.01780): the
      share is 1 - d, with d from ``compute_decay``.
    - Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407): the weights at the ends
      of epochs have equal shares. Running statistics are averaged, too, not computed anew.

    Frozen weights equal their average to the bit.

    Args:
        network: on its device, with its weights; it holds the average from now on.
        rule: the share of each step.
        state: of a checkpoint whose average the network holds; None for a new run.

    Attributes:
        steps: number of optimizer steps so far.
        in_use: whether the network holds the average; otherwise it holds the weights that are
            trained.
    """

    def __init__(self, network: nn.Module, rule: Rule, state: dict[str, Any] | None = None):
        self.rule, self.steps, self.in_use = rule, 0, True
        self._held = {k: v for k, v in network.state_dict().items() if v.is_floating_point()}
        self._other = {name: value.clone() for name, value in self._held.items()}
        self._statistics = [name for name, _ in network.named_buffers() if name in self._held]
        if state is not None:
            self.steps = state["steps"]
            for name, value in state["weights"].items():
                self._other[name].copy_(value)

    def use(self, *, average: bool) -> None:
        """Make the network hold the average, or the weights that are trained."""
        if average == self.in_use:
            return
        with torch.no_grad():
            for held, other in zip(self._held.values(), self._other.values(), strict=True):
                before = held.clone()
                held.copy_(other)
                other.copy_(before)
        self.in_use = average

    def update(self, epoch: int, is_last: bool) -> None:
        """Count an optimizer step and add its weights; the network holds the trained weights.

        Args:
            epoch: number of the epoch, from 0.
            is_last: whether it is the epoch's last step.
        """
        if share := self.rule(self.steps, epoch, is_last):
            _move(list(self._other.values()), list(self._held.values()), share)
        self.steps += 1

    def get(self, name: str) -> Tensor:
        """Return the average of a weight or statistic while the trained weights are in use."""
        return self._other[name]

    def copy_statistics(self) -> dict[str, Tensor]:
        """Return copies on the host of all averages of buffers; the trained weights are in use.

        Within an epoch those of batch normalisation differ between processes.
        """
        return {name: self._other[name].cpu().clone() for name in self._statistics}

    def save(self, checkpoint: dict[str, Any], prefix: str) -> None:
        """Put the average into a checkpoint's weights, and the trained weights beside them.

        Args:
            checkpoint: of Lightning, with ``state_dict``.
            prefix: of the network's names in it.
        """
        trained, average = self._held, self._other
        if self.in_use:
            trained, average = average, trained
        checkpoint["state_dict"].update({f"{prefix}{k}": v for k, v in average.items()})
        checkpoint[KEY] = {"steps": self.steps, "weights": dict(trained)}


@torch.no_grad()
def _move(averages: list[Tensor], weights: list[Tensor], share: float) -> None:
    """Move averages towards the weights; equal numbers keep their bits."""
    if share == 1:
        torch._foreach_copy_(averages, weights)
    else:  # torch's lerp adds 0, which turns a weight of -0.0 into 0.0
        torch._foreach_sub_(averages, torch._foreach_sub(averages, weights), alpha=share)
