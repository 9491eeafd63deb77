"""The side of convlens in `scratch`: train the recipe ``cats_dogs_regularized``.

Images, network, augmentation, loss, optimizer and batch size are those of
`peers/keras_scratch.py`. Data loading, arithmetic and precision are those of convlens.
"""

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from gate import Gate
from pytorch_lightning import Callback
from rounds import arguments, claim_stdout, serve

BATCH = 20
RECIPE = ("exp=reproduce/cats_dogs_regularized",)
FOLDERS: list[Path] = []  # run folders of this process, removed at its end


def run_folder() -> Path:
    """Make a folder for a run; it is removed when the driver has received the last round."""
    FOLDERS.append(Path(tempfile.mkdtemp(prefix="convlens-benchmark-")))
    return FOLDERS[-1]


class StepGate(Callback):
    """Lets the trainer's loop take exactly the requested number of steps.

    A step lasts from the moment its batch is available until the next batch is available.
    """

    def __init__(self):
        self.images = 0
        self._gate = Gate()

    def go(self, steps: int) -> int:
        """Take ``steps`` steps and return the number of their images."""
        before = self.images
        self._gate.go(steps)
        return self.images - before

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._gate.pass_by()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.images += len(batch["label"])


def build(
    data_dir: Path, recipe: tuple[str, ...] = RECIPE
) -> tuple[Callable[[], None], Callable[[int], int], dict]:
    """Prepare a recipe for training, as ``convlens train`` does.

    Everything that a run does once is done here: decode into the cache, build network and
    optimizer, choose the precision.

    Args:
        data_dir: folder that contains ``train/<class>/*.jpg``.
        recipe: overrides of the command line.

    Returns:
        ``fit``, which trains in the thread that calls it (the main thread, as in a run);
        ``steps(n)``, which another thread calls to let the training take ``n`` steps, and which
        returns the number of their images; and entries for the description of this side.
    """
    from convlens.config.compose import compose
    from convlens.experiment import train as runs

    config = compose(
        [
            *recipe,
            f"data.dir={data_dir}",
            "training.epochs=1",
            "training.steps_per_epoch=1000000",  # no validation in between, as in the peer
            "callbacks=none",
            "logger=csv",
        ]
    )
    home = run_folder()
    run = runs.assemble(config)
    _ = run.data.dataset
    runs.settle_precision(run)
    trainer, epoch_log, _ = runs.build_trainer(run, home, False)
    # the untrained network is evaluated once per run, which is not part of a step
    epoch_log.begin = lambda *_: None
    gate = StepGate()
    trainer.callbacks.append(gate)

    def fit() -> None:
        runs.fit(trainer, run, None)  # with deterministic kernels, as in a run

    return fit, gate.go, {"precision": str(run.config.precision), "memory_format": "channels_last"}


def main() -> None:
    args = arguments(__doc__.splitlines()[0]).parse_args()
    out = claim_stdout()
    fit, steps, details = build(args.data)
    serve_training(args, out, fit, rounds_of(args, steps), details)


def rounds_of(args, steps: Callable[[int], int]) -> Callable[[], tuple[int, float]]:
    """Return a function that measures a round of training steps: (images, seconds)."""

    def measure() -> tuple[int, float]:
        if args.warmup_steps:
            steps(args.warmup_steps)
        start = time.perf_counter()
        images = steps(args.steps)
        seconds = time.perf_counter() - start
        if images != args.steps * BATCH:
            raise SystemExit(
                f"{images} images in {args.steps} steps: the batches do not have {BATCH} images"
            )
        return images, seconds

    return measure


def serve_training(args, out, fit, measure, details) -> None:
    """Train in this thread, and serve the driver from another.

    Args:
        args: parsed arguments of the side.
        out: stream of the protocol.
        fit: trains, as returned by ``build``.
        measure: measures a round.
        details: more entries for the description of this side.
    """
    import numpy
    import torch

    about = {
        "side": "convlens",
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "threads": {
            "intra_op": torch.get_num_threads(),
            "inter_op": torch.get_num_interop_threads(),
        },
        **details,
    }

    def answer() -> None:
        serve(out, about, measure)
        out.flush()
        for folder in FOLDERS:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)  # the trainer would continue for a million steps

    threading.Thread(target=answer, daemon=True).start()
    fit()


if __name__ == "__main__":
    main()
