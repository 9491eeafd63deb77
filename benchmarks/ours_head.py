"""The side of convlens in `head_epoch`: a head on stored features, recipe ``vgg16_features``.

The trainer's loop is that of any run, with validation, checkpoints and `metrics.csv`, but without
explanations. An epoch lasts from its start to the start of the next one. A round is the mean of
three epochs, after one that is not counted. VGG16's weights are random, which costs the same.
"""

import time

from gate import Gate
from ours_scratch import run_folder, serve_training
from pytorch_lightning import Callback
from rounds import arguments, claim_stdout

EPOCHS = 3
PHASE = "{epochs: 1000000, train: [head], lr: {head: 2e-5}, augment: false}"
RECIPE = ("exp=reproduce/vgg16_features", "model.weights=none", f"finetune.phases=[{PHASE}]")


class EpochGate(Callback):
    """Holds the trainer at the start of an epoch until epochs are requested."""

    def __init__(self):
        self._gate = Gate()
        self.go = self._gate.go

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self._gate.pass_by()


def main() -> None:
    args = arguments(__doc__.splitlines()[0]).parse_args()
    out = claim_stdout()
    from convlens.config.compose import compose
    from convlens.experiment import train as runs

    words = [*RECIPE, f"data.dir={args.data}", "training.epochs=null", "callbacks=none"]
    config = compose([*words, "logger=csv"])
    home = run_folder()
    run = runs.assemble(config)
    images = len(run.data.dataset.splits["train"])
    runs.settle_precision(run)
    trainer, epoch_log, _ = runs.build_trainer(run, home, False)
    # the untrained network is evaluated once per run, which is not part of an epoch
    epoch_log.begin = lambda *_: None
    gate = EpochGate()
    trainer.callbacks.append(gate)

    def measure() -> tuple[int, float]:
        if args.warmup_steps:
            gate.go()  # the first epoch computes or opens the features
        if "train" not in run.data.stored:
            raise SystemExit("the features are not stored: is there room in $CONVLENS_CACHE?")
        start = time.perf_counter()
        gate.go(EPOCHS)
        return images, (time.perf_counter() - start) / EPOCHS

    def fit() -> None:
        runs.fit(trainer, run, None)

    serve_training(args, out, fit, measure, {"precision": str(run.config.precision)})


if __name__ == "__main__":
    main()
