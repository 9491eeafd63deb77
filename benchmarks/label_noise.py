"""How well the diary finds planted wrong labels, and what keeping it costs.

    .venv/bin/python benchmarks/label_noise.py shapes [key=value …]
    .venv/bin/python benchmarks/label_noise.py DIR exp=reproduce/vgg16_features training.epochs=3

A tenth of the training labels (``--share 0.1``) is made wrong: by ``data.label_noise`` on
``shapes``; in a table (``data.csv``) for a folder ``DIR/{train,validation,test}/CLASS/…``, whose
files stay untouched. ``--share 0`` plants nothing: the count of suspects is then that of honest
labels. One run is trained with the further words, and its ``diary.csv`` is compared with what was
planted:

- AUROC of the mean margin (scikit-learn), and the share of wrong labels among the k lowest, k being
  the number planted;
- suspects, what chance gives, and how many suspects are wrong;
- seconds of the diary, per step and at the end of epochs, as a fraction of the epochs they are in;
- with ``--cleanlab``, for a run on stored features: quality and seconds of cleanlab's own recipe on
  the same features and labels (``CleanLearning``: probabilities of a logistic regression,
  cross-validated five-fold, and confident learning, Northcutt et al. 2021, arXiv:1911.00068).
  It is in the extra ``proofs``;
- with ``--audit``, for a folder: which share of the wrong labels, and of the right ones, ``make
  audit`` puts below its cut, and its seconds.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from results import RESULTS, write_result
from sklearn.metrics import roc_auc_score

from convlens.cli.main import main
from convlens.training import ClassifierModule
from convlens.training.diary.diary import Diary
from convlens.training.diary.keeper import DiaryKeeper
from convlens.training.diary.suspects import find_suspects
from convlens.training.finetune import phases

SPLITS = ("train", "validation", "test")


def plant(source: Path, file: Path, share: float, seed: int) -> set[str]:
    """Write a table of the images of a folder in which some training labels are wrong.

    Args:
        source: folder with ``train``, ``validation`` and ``test``, each with class folders.
        file: the table.
        share: fraction of the training images with a wrong label.
        seed: decides which.

    Returns:
        The names of the files with a wrong label, relative to ``source``.
    """
    rows = [
        [image.relative_to(source).as_posix(), image.parent.name, split]
        for split in SPLITS
        for image in sorted((source / split).glob("*/*"))
    ]
    classes = sorted({label for _, label, _ in rows})
    train = [row for row in rows if row[2] == "train"]
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(train))[: round(share * len(train))]
    for number in wrong:
        others = [name for name in classes if name != train[number][1]]
        train[number][1] = others[rng.integers(len(others))]
    with open(file, "w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([["file", "label", "split"], *rows])
    return {train[number][0] for number in wrong}


class Clock:
    """Adds up the seconds of a method, also of its calls of itself by another name."""

    def __init__(self, owner: type, name: str):
        self.seconds = 0.0
        plain: Callable = getattr(owner, name)

        def timed(*args, **options):
            began = time.perf_counter()
            try:
                return plain(*args, **options)
            finally:
                self.seconds += time.perf_counter() - began

        setattr(owner, name, timed)


class Epochs:
    """Adds up the seconds from the first batch of each epoch to the end of its diary."""

    def __init__(self):
        self.seconds, self._began = 0.0, 0.0
        start, close = ClassifierModule.on_train_batch_start, DiaryKeeper.on_train_epoch_end

        def begin(module, batch, number):
            self._began = self._began if number else time.perf_counter()
            return start(module, batch, number)

        def end(keeper, trainer, module):
            close(keeper, trainer, module)
            self.seconds += time.perf_counter() - self._began

        ClassifierModule.on_train_batch_start = begin
        DiaryKeeper.on_train_epoch_end = end


class Stored:
    """Keeps the training images' stored features, and the diary, of the run that follows.

    Attributes:
        features: (N, …); None if the run stored none.
        diary: with the labels that were given and the names of the images.
    """

    def __init__(self):
        self.features: np.ndarray | None = None
        self.diary: Diary | None = None
        compute, setup = phases.compute_features, DiaryKeeper.setup

        def keep_features(*args, **options):
            found = compute(*args, **options)
            if " train " in options["title"]:
                self.features = found.array
            return found

        def keep_diary(keeper, trainer, module, stage):
            setup(keeper, trainer, module, stage)
            if stage == "fit":
                self.diary = module.diary

        phases.compute_features, DiaryKeeper.setup = keep_features, keep_diary


def judge(features: np.ndarray, labels: np.ndarray, wrong: np.ndarray, seed: int) -> dict:
    """Return how well, and how fast, cleanlab's own recipe finds wrong labels.

    Args:
        features: (N, …) stored features.
        labels: (N,) the given classes.
        wrong: (N,) bool, which of them are wrong.
        seed: of the folds.
    """
    from cleanlab.classification import CleanLearning
    from sklearn.linear_model import LogisticRegression

    began = time.perf_counter()
    learner = CleanLearning(LogisticRegression(max_iter=1000), cv_n_folds=5, seed=seed)
    issues = learner.find_label_issues(features.reshape(len(features), -1), labels)
    seconds = time.perf_counter() - began
    quality, flagged = issues["label_quality"].to_numpy(), issues["is_label_issue"].to_numpy()
    lowest = np.argsort(quality, kind="stable")[: wrong.sum()]
    found = {
        "cleanlab_seconds": round(seconds, 1), "cleanlab_suspects": int(flagged.sum()),
        "cleanlab_wrong_suspects": int(wrong[flagged].sum()),
    }  # fmt: skip
    if wrong.any():
        found["cleanlab_auroc"] = round(float(roc_auc_score(wrong, -quality)), 4)
        found["cleanlab_precision"] = round(float(wrong[lowest].mean()), 4)
    return found


def compare(home: Path, wrong: set[str]) -> dict:
    """Compare ``diary.csv`` with the files whose labels were made wrong."""
    with open(home / "diary.csv", encoding="utf-8", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["aum"]]
    truth = np.array([row["file"] in wrong for row in rows])
    aum = np.array([float(row["aum"]) for row in rows])
    flagged = np.array([bool(row["suspected"]) for row in rows])
    found = {
        "images": len(rows), "wrong": int(truth.sum()), "suspects": int(flagged.sum()),
        "by_chance": round(find_suspects(aum).by_chance, 1),
        "wrong_suspects": int(truth[flagged].sum()),
    }  # fmt: skip
    if truth.any():
        found["auroc"] = round(float(roc_auc_score(truth, -aum)), 4)
        found["precision"] = round(float(truth[: truth.sum()].mean()), 4)
    return found


def judge_by_audit(home: Path, wrong: set[str]) -> dict:
    """Audit a run, and compare ``mislabelled.csv`` with the files whose labels were made wrong."""
    began = time.perf_counter()
    if main(["audit", f"run={home}"]):
        raise SystemExit("the audit failed")
    seconds = time.perf_counter() - began
    with open(home / "mislabelled.csv", encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    truth = np.array([row["file"] in wrong for row in rows])
    flagged = np.array([bool(row["suspected"]) for row in rows])
    found = {
        "audit_seconds": round(seconds, 1), "audit_suspects": int(flagged.sum()),
        "audit_wrong_suspects": int(truth[flagged].sum()),
        "audit_right_below": round(float(flagged[~truth].mean()), 4),
    }  # fmt: skip
    if truth.any():
        found["audit_caught"] = round(float(flagged[truth].mean()), 4)
        below = [float(row["aum"]) - float(row["cut"]) for row in rows]
        found["audit_auroc"] = round(float(roc_auc_score(truth, -np.array(below))), 4)
    return found


def measure(
    source: str, share: float, seed: int, words: list[str], *, cleanlab: bool = False,
    audit: bool = False,
) -> dict:  # fmt: skip
    """Train one run; return what its diary found, and cost, and what others find if asked."""
    stored = Stored() if cleanlab else None
    steps, ends = Clock(Diary, "take"), Clock(DiaryKeeper, "on_train_epoch_end")
    epochs = Epochs()
    with tempfile.TemporaryDirectory() as scratch:
        home, table = Path(scratch) / "run", Path(scratch) / "labels.csv"
        if source == "shapes":
            planted = [f"data.label_noise={share}"]
        else:
            folder = Path(source).expanduser().resolve()
            names = plant(folder, table, share, seed)
            planted = ["data=image_folder", f"data.dir={folder}", f"data.csv={table}"]
        words = ["train", f"run_dir={home}", f"seed={seed}", "callbacks=none", *words, *planted]
        if main(words):
            raise SystemExit("the run failed")
        if source == "shapes":
            lines = (home / "planted.csv").read_text().splitlines()[1:] if share else []
            wrong = {line.partition(",")[0] for line in lines}
        else:
            wrong = {str(folder / name) for name in names} | names
        found = compare(home, wrong)
        if audit:
            found |= judge_by_audit(home, wrong)
    if stored is not None:
        if stored.features is None or stored.diary is None:
            raise SystemExit(
                "--cleanlab needs stored features, such as those of exp=features_vgg16"
            )
        truth = np.array([name in wrong for name in stored.diary.names])
        found |= judge(stored.features, stored.diary.labels, truth, seed)
    cost = (steps.seconds + ends.seconds) / epochs.seconds
    return found | {
        "epoch_seconds": round(epochs.seconds, 2), "step_seconds": round(steps.seconds, 4),
        "end_seconds": round(ends.seconds, 4), "cost": round(cost, 5),
    }  # fmt: skip


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("source", help="shapes, or a folder with train, validation and test")
    asked.add_argument("--share", type=float, default=0.1)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--cleanlab", action="store_true", help="also cleanlab's own recipe")
    asked.add_argument("--audit", action="store_true", help="also the audit of the labels")
    chosen, more = asked.parse_known_args()
    figures = measure(
        chosen.source, chosen.share, chosen.seed, more, cleanlab=chosen.cleanlab, audit=chosen.audit
    )
    name = Path(chosen.source).name
    print(f"{name}, share {chosen.share:g}, seed {chosen.seed}:")
    for key, value in figures.items():
        print(f"  {key}: {value}")
    file = RESULTS / f"label_noise_{name}_{chosen.share:g}_{chosen.seed}.json"
    settings = {"share": chosen.share, "seed": chosen.seed, "words": more}
    write_result(file, "planted wrong labels found by the diary", **settings, **figures)
