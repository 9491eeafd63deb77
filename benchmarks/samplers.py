"""What TPE finds beside random search, with the same number of trials.

    .venv/bin/python benchmarks/samplers.py --trials 20 --seeds 3

Each sweep trains the built-in network on few `shapes` for two epochs. Its values are the learning
rate, the batch size, the dropout and the optimizer. The table has the lowest validation loss among
the first trials, for each seed of the sampler. All runs have the same seed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from results import RESULTS, write_result

from convlens.cli.main import main
from convlens.experiment.sweep.plan import SAMPLERS, read_plan
from convlens.experiment.sweep.study import list_trials, open_study

WORDS = (
    "data.pictures=600", "data.size=32", "training.epochs=2", "callbacks=none", "diary=null",
    "logger=csv",
    "space={optimizer: [adam,sgd], optimizer.lr: log(1e-5,1), training.batch_size: [8,16,32,64], "
    "model.head.dropout: uniform(0,0.8)}",
)  # fmt: skip
AFTER = (5, 10, 20, 40)  # trials


def search(home: Path, sampler: str, seed: int, trials: int) -> list[float]:
    """Return the result of each trial of a sweep."""
    begin = ["sweep", f"run_dir={home}", f"sampler={sampler}", f"sampler_seed={seed}"]
    if main([*begin, f"trials={trials}", *WORDS]):
        raise SystemExit(f"{home}: the sweep failed")
    study = open_study(read_plan(home), home)
    return [trial.values[0] if trial.values else float("inf") for trial in list_trials(study)]


def run() -> None:
    """Read the words of the command, search, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    found = {sampler: [] for sampler in SAMPLERS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            for sampler in SAMPLERS:
                home = Path(folder) / f"{sampler}_{seed}"
                found[sampler].append(search(home, sampler, seed, args.trials))
    write_result(RESULTS / "samplers.json", "TPE and random search", results=found)
    columns = [count for count in AFTER if count <= args.trials]
    print("| sampler | " + " | ".join(f"after {count} trials" for count in columns) + " |")
    print("| --- " * (1 + len(columns)) + "|")
    for sampler, runs in found.items():
        cells = [", ".join(f"{min(values[:n]):.3f}" for values in runs) for n in columns]
        print(f"| {sampler} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    run()
