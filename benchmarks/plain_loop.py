"""The peer of `plain_scratch` and `plain_last_block`: the same training step in a plain loop.

    plain_loop.py scratch --data DIR ...
    plain_loop.py last_block --data DIR ...

Network, loss, optimizer, batches, augmentation, memory format and precision are exactly those that
convlens trains with, including the fast kernels of frozen layers. The loop is five lines of torch,
without Lightning, metrics, learning-rate schedule or seeding, and does not read the loss. The ratio
is therefore what Lightning and convlens add to a step.
"""

import sys
import time
from collections.abc import Iterator

import numpy
import torch
from ours_scratch import BATCH
from ours_scratch import RECIPE as SCRATCH
from ours_vgg16 import RECIPE as LAST_BLOCK
from rounds import arguments, claim_stdout, serve

from convlens.config.compose import compose
from convlens.experiment import train as runs

RECIPES = {"scratch": SCRATCH, "last_block": LAST_BLOCK}


def endless(data) -> Iterator[dict]:
    """Yield augmented training batches, epoch after epoch."""
    loader = data.train_dataloader()
    while True:
        yield from map(data.finish, loader)
        loader.set_epoch(loader.epoch + 1)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("recipe", choices=RECIPES)
    args = parser.parse_args()
    out = claim_stdout()
    run = runs.assemble(
        compose([*RECIPES[args.recipe], f"data.dir={args.data}", "callbacks=none", "logger=csv"])
    )
    runs.settle_precision(run)
    half = str(run.config.precision) == "bf16"
    module = run.module.train()
    model, objective = module.model, module.objective
    optimizer = module.configure_optimizers()
    module.set_rates(optimizer, 0.0)
    batches = endless(run.data)

    def steps(count: int) -> None:
        for _ in range(count):
            batch = next(batches)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = objective(model.forward_fast(batch["image"]), batch["label"])
            loss.backward()
            optimizer.step()

    def measure() -> tuple[int, float]:
        steps(args.warmup_steps)
        start = time.perf_counter()
        steps(args.steps)
        return args.steps * BATCH, time.perf_counter() - start

    about = {
        "side": "plain",
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "threads": {
            "intra_op": torch.get_num_threads(),
            "inter_op": torch.get_num_interop_threads(),
        },
        "precision": str(run.config.precision),
    }
    serve(out, about, measure)


if __name__ == "__main__":
    main()
