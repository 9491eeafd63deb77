"""The learning-rate range test: raise the rate step by step and watch the loss."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor

from convlens.data.datamodule import PictureData
from convlens.data.loader import TrainingLoader
from convlens.training.finetune.features import compute_features
from convlens.training.finetune.phases import Phases
from convlens.training.module import ClassifierModule
from convlens.training.objective import select_targets
from convlens.training.randomness import seed_batch

SMOOTHING = 0.9  # of the exponential average of the loss
DIVERGED = 4.0  # multiple of the lowest loss at which the test ends


@dataclass(frozen=True)
class RateTest:
    """The result of a range test.

    Attributes:
        rates: learning rate of each step, evenly spaced in their logarithm.
        losses: loss before each step.
        smooth: the averaged losses.
        best: the rate at the steepest fall of the average; None if it never fell.
        trained: names of the trained groups.
        key: the config key to set.
    """

    rates: list[float]
    losses: list[float]
    smooth: list[float]
    best: float | None
    trained: tuple[str, ...] = ()
    key: str = "optimizer.lr"


def run_range_test(
    step: Callable[[float], Tensor], *, low: float, high: float, steps: int
) -> RateTest:
    """Take ``steps`` steps at rates from ``low`` to ``high``; end early if the loss explodes.

    L. N. Smith, *Cyclical Learning Rates for Training Neural Networks*, WACV 2017,
    https://arxiv.org/abs/1506.01186. The steepest fall of the smoothed loss over the logarithm of
    the rate marks a rate at which training is fast and stable.

    Args:
        step: takes one training step at a rate and returns the loss before it, a scalar.
        low: first rate.
        high: last rate.
        steps: number of steps.
    """
    rates, losses, smooth = [], [], []
    average = 0.0
    for number in range(steps):
        rate = low * (high / low) ** (number / max(steps - 1, 1))
        loss = float(step(rate))
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        value = average / (1 - SMOOTHING ** (number + 1))
        if not math.isfinite(loss) or (smooth and value > DIVERGED * min(smooth)):
            break
        rates.append(rate)
        losses.append(loss)
        smooth.append(value)
    return RateTest(rates, losses, smooth, _steepest(rates, smooth))


def _steepest(rates: list[float], smooth: list[float]) -> float | None:
    """Return the rate at the steepest fall before the minimum; the first steps are skipped."""
    if len(smooth) < 5:
        return None
    lowest = smooth.index(min(smooth))
    slopes = {i: smooth[i + 1] - smooth[i - 1] for i in range(2, min(lowest, len(smooth) - 1))}
    if not slopes or min(slopes.values()) >= 0:
        return None
    return rates[min(slopes, key=slopes.__getitem__)]


def find_rate(
    module: ClassifierModule,
    data: PictureData,
    phases: Phases,
    device: torch.device,
    *,
    low: float,
    high: float,
    steps: int,
) -> RateTest:
    """Run the range test for a run's first phase, on its batches, in float32.

    The rate found is that of the group with the highest rate; the others keep their proportions.
    The module is trained in place: build another one for the run itself.

    Args:
        module: the module to test with.
        data: its data.
        phases: decides whether the phase trains on stored features.
        device: where to train.
        low: first rate.
        high: last rate.
        steps: number of steps.
    """
    phase = module.schedule.phases[0]
    module.to(device).enter(phase)
    data.augmenting = phase.augment
    data.serve(device)
    if cut := phases.cut(module, data, phase):
        stored = compute_features(
            module.model, cut, data.dataset.splits["train"], precision="32",
            context=contextlib.nullcontext, device=device, directory=phases.directory,
            title="features of the training images",
        )  # fmt: skip
        data.stored = {"train": stored}
    module.train()
    optimizer = module.configure_optimizers()
    fastest = max(phase.rates.values())
    proportions = {name: rate / fastest for name, rate in phase.rates.items()}
    batches = enumerate(_endless(data.train_dataloader()))

    def step(rate: float) -> Tensor:
        number, batch = next(batches)
        seed_batch(module.seed, 0, number, 0, module.device)
        for group in optimizer.param_groups:
            group["lr"] = rate * proportions.get(group["name"], 0.0)
        batch = data.finish(move_data_to_device(batch, device))
        loss = module.objective(module.compute_logits(batch), select_targets(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    result = run_range_test(step, low=low, high=high, steps=steps)
    leader = max(phase.rates, key=phase.rates.__getitem__)
    group = leader.partition("/")[0]
    key = f"finetune.phases.0.lr.{group}" if module.schedule.phased else "optimizer.lr"
    return dataclasses.replace(result, trained=phase.train, key=key)


def _endless(loader: TrainingLoader) -> Iterator[dict]:
    """Yield the batches of a loader, epoch after epoch."""
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        yield from loader
