"""Measure the host's time per training step: convlens beside bare Lightning and a plain loop.

    .venv/bin/python benchmarks/host_step.py

The network multiplies its images by one number, pools them and has a linear head, on four images of
16×16 pixels, so a step is almost only what the host does around the network. Network, loss and
optimizer are the same on all sides:

- `convlens`: the loop of `convlens train` with the default callbacks and loggers, without
  augmentation. It reads its images from the pixel cache.
- `lightning`: a Lightning module of two methods, one ready batch, no logger and no callbacks.
- `plain`: five lines of torch, and the same batch.

The sides run in turns in this process, in an order that alternates, with one thread. A round in
which anything else on the machine used more than a tenth of a core is repeated. The result is the
milliseconds that convlens adds to Lightning, and Lightning to the plain loop, in each round.
"""

import argparse
import contextlib
import itertools
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytorch_lightning as L
import torch
from results import RESULTS, processor, spread, write_result
from rounds import take_rounds, watched
from torch import nn

from convlens.config.compose import compose
from convlens.experiment import prepare, trainer
from convlens.experiment.assemble import Run, assemble

BATCH = 4
WORDS = [
    "exp=own", "model._target_=host_step.Scale", "model.name=scale", "model.weights=none",
    "model.head={pool: average, hidden: []}", "data.pictures=400", "data.size=16",
    "data.augment.horizontal_flip=false", "data.augment.vertical_flip=false",
    f"training.batch_size={BATCH}", "training.epochs=1", "precision=32", "trainer=cpu",
]  # fmt: skip


class Scale(nn.Module):
    """Multiplies images (B, C, H, W) by one number, which is trained."""

    def __init__(self, channels: int):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * self.factor


class Bare(L.LightningModule):
    """The least that Lightning asks of a module.

    Args:
        run: its network, loss and optimizer are used.
    """

    def __init__(self, run: Run):
        super().__init__()
        self.run, self.model = run, run.module.model

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        return self.run.module.objective(self.model(batch["image"]), batch["label"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.run.module.configure_optimizers()


class OneBatch:
    """Yields the same batch again and again."""

    def __init__(self, batch: dict):
        self.batch = batch

    def __iter__(self) -> Iterator[dict]:
        return itertools.repeat(self.batch)


class Done(Exception):
    """All steps are timed."""


class Timer(L.Callback):
    """Times the steps of a training, but for the first ones; then ends it.

    Attributes:
        seconds: of all timed steps.
    """

    def __init__(self, warmup: int, steps: int):
        self.warmup, self.last, self.seconds = warmup, warmup + steps, 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == self.warmup:
            self._began = time.perf_counter()
        if batch_idx == self.last:
            self.seconds = time.perf_counter() - self._began
            raise Done


def build(steps: int) -> Run:
    """Assemble a run whose epoch is longer than a round."""
    run = assemble(compose([*WORDS, f"training.steps_per_epoch={steps + 1000}"]))
    prepare.decode(run)
    return run


def take_batch(run: Run) -> dict:
    return run.data.finish(next(iter(run.data.train_dataloader())))


def time_convlens(warmup: int, steps: int) -> float:
    """Return the seconds of the steps, as `convlens train` takes them."""
    run = build(warmup + steps)
    with tempfile.TemporaryDirectory() as folder:
        prepare.prepare(run, Path(folder), resumed=False)
        fitting, epoch_log, _ = trainer.build_trainer(run, Path(folder), None)
        # what a run does before its first step and after its last is not measured
        looks = fitting.callbacks[
            [type(each).__name__ for each in fitting.callbacks].index("Looks")
        ]
        looks.look = epoch_log.begin = lambda *args, **options: None
        timer = Timer(warmup, steps)
        fitting.callbacks.append(timer)
        with contextlib.suppress(Done):
            trainer.fit(fitting, run, None)
    return timer.seconds


def time_lightning(warmup: int, steps: int) -> float:
    """Return the seconds of the steps in Lightning's loop."""
    run, timer = build(warmup + steps), Timer(warmup, steps)
    fitting = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, callbacks=[timer],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with contextlib.suppress(Done):
        fitting.fit(Bare(run), OneBatch(take_batch(run)))
    return timer.seconds


def time_plain(warmup: int, steps: int) -> float:
    """Return the seconds of the steps in a plain loop."""
    run = build(warmup + steps)
    batch, module = take_batch(run), run.module
    optimizer = module.configure_optimizers()
    module.train()
    for number in range(warmup + steps):
        if number == warmup:
            began = time.perf_counter()
        loss = module.objective(module.model(batch["image"]), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - began


SIDES: dict[str, Callable[[int, int], float]] = {
    "convlens": time_convlens, "lightning": time_lightning, "plain": time_plain,
}  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="default: %(default)s")
    add("--warmup-steps", type=int, default=200, help="uncounted steps per round (%(default)s)")
    add("--steps", type=int, default=2000, help="counted steps per round (%(default)s)")
    add("--out", type=Path, default=RESULTS / "host_step.json", help="default: %(default)s")
    return parser.parse_args()


def main() -> int:
    args = parse()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    print(f"{'round':>8}" + "".join(f"{name:>12}" for name in SIDES) + "   ms a step", flush=True)

    def measure(number: int) -> tuple[dict, list[float | None]]:
        names = list(SIDES)[:: 1 if number % 2 == 0 else -1]
        seen: list[float | None] = []
        taken = {
            name: watched(lambda name=name: SIDES[name](args.warmup_steps, args.steps), seen)
            for name in names
        }
        line = {name: round(1000 * taken[name] / args.steps, 4) for name in SIDES}
        print(f"{number + 1:>8}" + "".join(f"{line[name]:>12.3f}" for name in SIDES), flush=True)
        return line, seen

    rounds = take_rounds(args.rounds, measure)
    added = {
        "convlens": [line["convlens"] - line["lightning"] for line in rounds],
        "lightning": [line["lightning"] - line["plain"] for line in rounds],
    }
    for name, values in added.items():
        print(f"{name} adds {spread(values)['median']:.3f} ms a step")
    print(processor())
    write_result(
        args.out, "the host's milliseconds per training step", rounds=rounds, steps=args.steps,
        added={name: spread(values) for name, values in added.items()},
        versions={"torch": torch.__version__, "pytorch-lightning": L.__version__},
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the host alone is measured
    sys.exit(main())
