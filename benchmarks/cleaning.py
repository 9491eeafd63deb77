"""Whether cleaning the labels pays: test results with wrong labels, and after correcting them.

    .venv/bin/python benchmarks/cleaning.py DIR exp=reproduce/vgg16_features training.epochs=3

A tenth of the training labels (``--share 0.1``) of ``DIR/{train,validation,test}/CLASS/…`` is made
wrong in a table; the files stay untouched. Runs with the further words:

- ``noisy``: with the wrong labels;
- ``left_out``: without the images of the lowest mean margins in the first run's ``diary.csv``, as
  many as labels are wrong (``data.corrections``);
- ``relabelled``: these images have the class that the network named instead;
- ``true``: with all labels right, which no user has.

Validation and test images keep their labels. All runs have the same seed.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path

from label_noise import plant
from results import RESULTS, write_result

from convlens.cli.main import main
from convlens.data.sources.corrections import LEAVE_OUT, Correction, write_corrections


def read_lowest(file: Path, count: int) -> list[dict[str, str]]:
    """Return the rows of ``diary.csv`` with the lowest mean margins."""
    with open(file, encoding="utf-8", newline="") as table:
        return [row for row in csv.DictReader(table) if row["aum"]][:count]


def measure(source: Path, share: float, seed: int, words: list[str]) -> dict[str, dict]:
    """Train the runs; return the test results of each by its name."""
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch:
        labels = Path(scratch) / "labels.csv"
        wrong = plant(source, labels, share, seed)
        begin = [f"seed={seed}", "callbacks=none", "data=image_folder", f"data.dir={source}",
                 f"data.csv={labels}", *words]  # fmt: skip

        def train(name: str, table: list[Correction] | None = None) -> Path:
            home, file = Path(scratch) / name, Path(scratch) / f"{name}.csv"
            more = []
            if table is not None:
                write_corrections(file, table)
                more = [f"data.corrections={file}"]
            if main(["train", f"run_dir={home}", *begin, *more]):
                raise SystemExit(f"the run {name} failed")
            found[name] = json.loads((home / "summary.json").read_text(encoding="utf-8"))["test"]
            return home

        lowest = read_lowest(train("noisy") / "diary.csv", len(wrong))
        given = {row["file"]: row["class"] for row in lowest}
        train("left_out", [Correction(file, name, LEAVE_OUT) for file, name in given.items()])
        named = [(row["file"], row["class"], row["other"] or row["class"]) for row in lowest]
        train("relabelled", [Correction(*each) for each in named])
        with open(labels, encoding="utf-8", newline="") as table:
            pairs = [(r["file"], r["label"]) for r in csv.DictReader(table) if r["file"] in wrong]
        train("true", [Correction(name, label, Path(name).parent.name) for name, label in pairs])
    return found


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("source", type=Path, help="a folder with train, validation and test")
    asked.add_argument("--share", type=float, default=0.1)
    asked.add_argument("--seed", type=int, default=0)
    chosen, more = asked.parse_known_args()
    folder = chosen.source.expanduser().resolve()
    results = measure(folder, chosen.share, chosen.seed, more)
    for name, test in results.items():
        print(f"{name}: accuracy {test['accuracy']:.4f}, loss {test['loss']:.4f}")
    file = RESULTS / f"cleaning_{folder.name}_{chosen.share:g}_{chosen.seed}.json"
    write_result(file, "test results before and after cleaning the labels", test=results,
                 share=chosen.share, seed=chosen.seed, words=more)  # fmt: skip
