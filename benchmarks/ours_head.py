"""Our side of `head_epoch`: epochs of the recipe ``vgg16_features``, a head on stored features.

The trainer's loop goes on as in any run, validation, checkpoints and `metrics.csv` included, only
without explanations. An epoch is counted from its start to the start of the next; a round is the
mean of three, after one that is not counted. VGG16's weights are random: they cost the same.
"""

import threading
import time

from ours_scratch import run_folder, serve_training
from pytorch_lightning import Callback
from rounds import arguments, claim_stdout

EPOCHS = 3
PHASE = "{epochs: 1000000, train: [head], lr: {head: 2e-5}, augment: false}"
RECIPE = ("exp=reproduce/vgg16_features", "model.weights=none", f"finetune.phases=[{PHASE}]")


class EpochGate(Callback):
    """Holds the trainer at the start of an epoch until one is asked for."""

    def __init__(self):
        self._asked = threading.Semaphore(0)
        self._there = threading.Semaphore(0)

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self._there.release()
        self._asked.acquire()

    def wait(self) -> None:
        """Until the trainer stands at an epoch's start."""
        self._there.acquire()

    def go(self) -> None:
        """Let one epoch go; returns when the next could begin."""
        self._asked.release()
        self.wait()


def main() -> None:
    args = arguments(__doc__.splitlines()[0]).parse_args()
    out = claim_stdout()
    from convlens import run as runs
    from convlens.config import compose

    words = [*RECIPE, f"data.dir={args.data}", "training.epochs=null", "callbacks=none"]
    config = compose([*words, "logger=csv"])
    home = run_folder()
    run = runs.assemble(config)
    pictures = len(run.data.dataset.splits["train"])
    runs.settle_precision(run)
    trainer, epoch_log, _ = runs.trainer_of(run, home, False)
    epoch_log.on_train_start = lambda *_: None  # the untrained network is judged once a run
    gate = EpochGate()
    trainer.callbacks.append(gate)
    ready = False

    def measure() -> tuple[int, float]:
        nonlocal ready
        if not ready:
            gate.wait()  # features are computed or opened before
            ready = True
        if args.warmup_steps:
            gate.go()
        if "train" not in run.data.stored:
            raise SystemExit("the features are not stored: is there room in $CONVLENS_CACHE?")
        start = time.perf_counter()
        for _ in range(EPOCHS):
            gate.go()
        return pictures, (time.perf_counter() - start) / EPOCHS

    def fit() -> None:
        runs.fit(trainer, run, None)

    serve_training(args, out, fit, measure, {"precision": str(config["precision"])})


if __name__ == "__main__":
    main()
