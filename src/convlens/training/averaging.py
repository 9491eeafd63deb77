"""The exponential moving average of a network's weights, which is the network that answers.

The network holds either the weights that are trained, while a step trains them, or the average, at
all other times. So whatever evaluates, explains or saves the network uses the average, and needs
not know of it. Exchanging the two copies numbers and rounds nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

KEY = "convlens_average"  # of a checkpoint


def compute_decay(decay: float, steps: int) -> float:
    """Return the weight of the average so far, in the update after ``steps`` earlier ones.

    It begins low and rises to ``decay``, as in TensorFlow's ``ExponentialMovingAverage``: otherwise
    the random initial weights would remain in the average for 1 / (1 - decay) steps.

    >>> [round(compute_decay(0.999, steps), 3) for steps in (0, 10, 100, 100_000)]
    [0.1, 0.55, 0.918, 0.999]
    """
    return min(decay, (1 + steps) / (10 + steps))


class WeightAverage:
    """The average of the weights and of the running statistics of a network.

    After every optimizer step, average = d · average + (1 - d) · weights (Polyak and Juditsky 1992;
    Tarvainen and Valpola 2017), with d from ``compute_decay``. Frozen weights equal their average
    to the bit.

    Args:
        network: on its device, with its weights; it holds the average from now on.
        decay: largest d, in (0, 1).
        state: of a checkpoint whose average the network holds; None for a new run.

    Attributes:
        steps: number of updates.
        in_use: whether the network holds the average; otherwise it holds the weights that are
            trained.
    """

    def __init__(self, network: nn.Module, decay: float, state: dict[str, Any] | None = None):
        self.decay, self.steps, self.in_use = decay, 0, True
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

    def update(self) -> None:
        """Add the weights of an optimizer step; the network holds the trained weights."""
        share = 1 - compute_decay(self.decay, self.steps)
        with torch.no_grad():
            torch._foreach_lerp_(list(self._other.values()), list(self._held.values()), share)
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
