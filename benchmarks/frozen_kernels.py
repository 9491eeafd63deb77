"""Compare training steps on frozen layers with `models/winograd.py` and without it.

    frozen_kernels.py [--rounds 7] [--steps 4] [--precision auto]

The steps are those of two recipes on a frozen VGG16 at 150 pixels: the head alone, and the head
with the last block. Images are augmented, so no features are stored. "ours" computes the
frozen layers with `Backbone.run_frozen`; "torch" uses torch's own layers, without gradients and
with ReLU after pooling. Each side chooses its own `precision: auto`, with its own cache. Then both
take turns in this process, and the medians of the rounds count. Random weights cost the same.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from convlens.config.compose import compose
from convlens.experiment.assemble import assemble
from convlens.experiment.devices import settle_precision
from convlens.models.backbone import Backbone

FROZEN = (
    "exp=reproduce/vgg16_frozen", "model.weights=none", "data=shapes", "data.size=150",
    "data.classes=2", "data.pictures=200", "data.cache=ram", "callbacks=none", "logger=csv",
)  # fmt: skip
RECIPES = {
    "head alone": FROZEN,
    "last block": (
        *FROZEN,
        "finetune=last_block",
        "finetune.phases=[{epochs: 1, train: [head, last_block], lr: 1e-5}]",
    ),
}
OURS = Backbone.run_frozen


def torchs(self: Backbone, images: torch.Tensor, stop: int) -> torch.Tensor:
    with torch.no_grad():
        return self.run(images, 0, stop, forward_fast=True)


SIDES = {"ours": OURS, "torch": torchs}


@contextmanager
def frozen_by(side: str) -> Iterator[None]:
    Backbone.run_frozen = SIDES[side]
    try:
        yield
    finally:
        Backbone.run_frozen = OURS


def prepare(side: str, words: tuple[str, ...]) -> tuple[Callable[[int], float], str, int]:
    """Prepare a side.

    Returns:
        A function from a number of steps to their seconds, the precision, and the batch size.
    """
    os.environ["CONVLENS_CACHE"] = tempfile.mkdtemp(prefix="convlens-benchmark-")
    with frozen_by(side):
        run = assemble(compose(list(words)))
        settle_precision(run)
    half = str(run.config.precision) == "bf16"
    module = run.module.train()
    optimizer = module.configure_optimizers()
    module.set_rates(optimizer, 0.0)
    batches = _endless(run.data)

    def seconds(count: int) -> float:
        drawn = [next(batches) for _ in range(count)]
        with frozen_by(side):
            start = time.perf_counter()
            for batch in drawn:
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    loss = module.objective(
                        module.model.forward_fast(batch["image"]), batch["label"]
                    )
                loss.backward()
                optimizer.step()
            return time.perf_counter() - start

    return seconds, str(run.config.precision), run.data.batch_size


def _endless(data) -> Iterator[dict]:
    loader = data.train_dataloader()
    while True:
        yield from map(data.finish, loader)
        loader.set_epoch(loader.epoch + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", default="auto", choices=("auto", "32", "bf16"))
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"{torch.backends.cpu.get_cpu_capability()}")  # fmt: skip
    for name, words in RECIPES.items():
        sides = {side: prepare(side, (*words, f"precision={args.precision}")) for side in SIDES}
        for seconds, *_ in sides.values():
            seconds(2)  # warm up
        taken = {side: [] for side in sides}
        for number in range(args.rounds):
            order = list(sides) if number % 2 else list(sides)[::-1]
            for side in order:
                taken[side].append(sides[side][0](args.steps))
        rates = {}
        for side, (_, precision, batch) in sides.items():
            rates[side] = args.steps * batch / statistics.median(taken[side])
            low, high = (args.steps * batch / of(taken[side]) for of in (max, min))
            print(f"{name}: {side:5s} {rates[side]:6.1f} images/s ({low:.1f} to {high:.1f}), "
                  f"precision {precision}")  # fmt: skip
        print(f"{name}: ours / torch = {rates['ours'] / rates['torch']:.2f}")


if __name__ == "__main__":
    main()
