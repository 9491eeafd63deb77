"""Our side of the speed benchmark: the recipe ``cats_dogs_regularized``, trained by convlens.

Same pictures, network, augmentation, loss, optimizer and batch size as `peers/keras_scratch.py`;
data path, arithmetic and precision are convlens's own.
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
FOLDERS: list[Path] = []  # of this process's runs, removed at its end


def run_folder() -> Path:
    """A folder for a run, which is removed when the driver has heard the last round."""
    FOLDERS.append(Path(tempfile.mkdtemp(prefix="convlens-benchmark-")))
    return FOLDERS[-1]


class StepGate(Callback):
    """Lets the trainer's loop take as many steps as are asked for, and no more.

    A step lasts from the moment its batch has been fetched to the moment the next one has been.
    """

    def __init__(self):
        self.pictures = 0
        self._gate = Gate()

    def go(self, steps: int) -> int:
        """Let ``steps`` steps go; returns how many pictures they took."""
        before = self.pictures
        self._gate.go(steps)
        return self.pictures - before

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._gate.pass_by()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.pictures += len(batch["label"])


def build(
    data_dir: Path, recipe: tuple[str, ...] = RECIPE
) -> tuple[Callable[[], None], Callable[[int], int], dict]:
    """Get a recipe (words of the command line) ready to train, as ``convlens train`` would.

    ``data_dir`` is the folder that holds ``train/<class>/*.jpg``. Whatever is done once a run
    (decoding into the cache, building network and optimizer, choosing the precision) is done here.

    Returns:
        ``fit``, which trains in the thread that calls it, the main one as in real training;
        ``steps(n)``, called from another thread: lets it take ``n`` steps of 20 pictures and
        returns the number of pictures when training stands still again; and what the results say
        of this side.
    """
    from convlens.config.compose import compose
    from convlens.experiment import train as runs

    config = compose(
        [
            *recipe,
            f"data.dir={data_dir}",
            "training.epochs=1",
            "training.steps_per_epoch=1000000",  # no validation in between, as at the peer's
            "callbacks=none",
            "logger=csv",
        ]
    )
    home = run_folder()
    run = runs.assemble(config)
    _ = run.data.dataset
    runs.settle_precision(run)
    trainer, epoch_log, _ = runs.build_trainer(run, home, False)
    # the untrained network is judged once a run; that is no part of a step
    epoch_log.on_train_start = lambda *_: None
    gate = StepGate()
    trainer.callbacks.append(gate)

    def fit() -> None:
        runs.fit(trainer, run, None)  # as a run does, with kernels that repeat their bits

    return fit, gate.go, {"precision": str(run.config.precision), "memory_format": "channels_last"}


def main() -> None:
    args = arguments(__doc__.splitlines()[0]).parse_args()
    out = claim_stdout()
    fit, steps, told = build(args.data)
    serve_training(args, out, fit, rounds_of(args, steps), told)


def rounds_of(args, steps: Callable[[int], int]) -> Callable[[], tuple[int, float]]:
    """What measures a round of training steps: (pictures, seconds)."""

    def measure() -> tuple[int, float]:
        if args.warmup_steps:
            steps(args.warmup_steps)
        start = time.perf_counter()
        images = steps(args.steps)
        seconds = time.perf_counter() - start
        if images != args.steps * BATCH:
            raise SystemExit(
                f"{images} pictures in {args.steps} steps: not the recipe's batch of 20"
            )
        return images, seconds

    return measure


def serve_training(args, out, fit, measure, told) -> None:
    """Train in this thread, and answer the driver from another; see :func:`build`."""
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
        **told,
    }

    def answer() -> None:
        serve(out, about, measure)
        out.flush()
        for folder in FOLDERS:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)  # the trainer would go on for a million steps

    threading.Thread(target=answer, daemon=True).start()
    fit()


if __name__ == "__main__":
    main()
