"""The side of convlens in `startup.py`: ``convlens train`` up to the end of the first step.

Everything that a run does before that step is included, such as writing its folder and evaluating
the untrained network. The script prints one JSON line with the seconds of that evaluation
(``judging``).
"""

import argparse
import json
import os
import time
from contextlib import contextmanager
from pathlib import Path

from rounds import claim_stdout

from convlens.cli import train
from convlens.cli.main import main as convlens
from convlens.core.loading import loading_libraries

RECIPE = "exp=reproduce/cats_dogs_regularized"  # that of ours_scratch.py, which imports Lightning


def add_hooks(out) -> None:
    """Time the evaluation of the untrained network, and end the process after the first step."""
    from pytorch_lightning import Callback

    from convlens.experiment import train as runs

    class Stop(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            print(json.dumps({"judging": round(judged[0], 3)}), file=out, flush=True)
            os._exit(0)

    judged = [0.0]
    assembled = runs.build_trainer

    def build_trainer(*given):
        trainer, epoch_log, keeper = assembled(*given)
        judge = epoch_log.begin

        def timed(*about) -> None:
            start = time.perf_counter()
            judge(*about)
            judged[0] = time.perf_counter() - start

        epoch_log.begin = timed
        trainer.callbacks.append(Stop())
        return trainer, epoch_log, keeper

    runs.build_trainer = build_trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True, help="run folder")
    args = parser.parse_args()
    out = claim_stdout()

    @contextmanager
    def load_and_hook():
        with loading_libraries():
            yield
        add_hooks(out)

    train.loading_libraries = load_and_hook
    words = [RECIPE, f"data.dir={args.data}", "callbacks=none", f"run_dir={args.home}"]
    raise SystemExit(convlens(["train", *words]))


if __name__ == "__main__":
    main()
