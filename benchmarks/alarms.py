"""How often alarms speak rightly and wrongly, over runs with planted shortcuts and honest ones.

    make proofs                                 # 12 seeds of each of 5 kinds, 60 honest runs
    make proofs args="--seeds 3 --honest 9"
    make proofs args="-- data.pictures=4000 training.epochs=5"

Each run trains the network of `exp=clever_hans` on `shapes`, with a mark of one kind in every
training and validation image (`data.shortcut_kind`), or with none. Test images never have one, so a
network that has learned the mark is far worse on them. A run that is finished is kept: a
measurement that was stopped continues.

The table counts the runs in which each alarm holds at the end (`summary.json`). It is written to
`benchmarks/results/alarms.json` with every run.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from results import RESULTS, write_result

from convlens.cli.main import main

KINDS = ("corner", "tint", "border", "watermark", "texture")
HONEST = "none"
# alarm -> how its line begins
ALARMS = {
    "shortcut": "shortcut: ",
    "place": "evidence for ",
    "outside": "evidence mostly outside the object",
}
WORDS = (
    "exp=clever_hans", "data.pictures=2400", "training.epochs=3", "logger.tensorboard=false",
    "callbacks.filter_visuals=null", "callbacks.occlusion_maps=null",
    "callbacks.activation_grids=null", "looking.seconds=10", "looking.last_seconds=30",
)  # fmt: skip


def list_runs(seeds: int, honest: int) -> list[tuple[str, int]]:
    """Return kind and seed of every run: first one of each kind, then the next, and so on."""
    runs = []
    for seed in range(max(seeds, honest)):
        runs += [(kind, seed) for kind in KINDS if seed < seeds]
        runs += [(HONEST, seed)] if seed < honest else []
    return runs


def train(home: Path, kind: str, seed: int, words: list[str]) -> dict:
    """Train a run, unless it is finished; return its summary."""
    file = home / "summary.json"
    if not file.exists():
        marks = ["data.shortcut=0"] if kind == HONEST else [f"data.shortcut_kind={kind}"]
        begin = ["train", f"run_dir={home}", "overwrite=true", f"seed={seed}"]
        if main([*begin, *WORDS, *marks, *words]):
            raise SystemExit(f"{home}: the run failed")
    return json.loads(file.read_text(encoding="utf-8"))


def read_run(summary: dict) -> dict:
    """Return accuracy, alarms by name, and the line of each."""
    lines = {
        name: line
        for name, start in ALARMS.items()
        for line in summary["alarms"]
        if line.startswith(start)
    }
    return {
        "validation": summary["val"]["accuracy"], "test": summary["test"]["accuracy"],
        "alarms": lines,
    }  # fmt: skip


def make_table(found: list[dict]) -> str:
    """Return the counts by kind, as a table in Markdown."""
    lines = ["| mark | runs | validation | test | " + " | ".join(ALARMS) + " |"]
    lines.append("| --- " * (4 + len(ALARMS)) + "|")
    for kind in (*KINDS, HONEST):
        runs = [run for run in found if run["kind"] == kind]
        if runs:
            medians = [statistics.median(run[k] for run in runs) for k in ("validation", "test")]
            counts = [sum(name in run["alarms"] for run in runs) for name in ALARMS]
            cells = [kind, len(runs), *(f"{value:.3f}" for value in medians), *counts]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def run() -> None:
    """Read the words of the command, train, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=12, help="runs of each kind; default: 12")
    parser.add_argument("--honest", type=int, default=60, help="runs without a mark; default: 60")
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/alarms"), help="where the runs are kept"
    )
    parser.add_argument("words", nargs="*", help="further words of the training")
    args = parser.parse_args()
    found = []
    for kind, seed in list_runs(args.seeds, args.honest):
        home = args.folder / f"{kind}_{seed}"
        summary = train(home, kind, seed, args.words)
        found.append({"kind": kind, "seed": seed, **read_run(summary)})
    write_result(RESULTS / "alarms.json", "how often alarms speak", runs=found)
    print(make_table(found))


if __name__ == "__main__":
    run()
