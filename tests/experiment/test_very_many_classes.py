"""A thousand classes from the folder to the report: it works, is soon done, and can be read."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from convlens.cli.main import main
from support.tiny import TINY

CLASSES = 1000


@pytest.mark.slow
def test_a_run_with_a_thousand_classes(at, capsys):
    rng = np.random.default_rng(0)
    for number in range(CLASSES):
        folder = at / "pictures" / f"class_{number:04}"
        folder.mkdir(parents=True)
        for place in range(8):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{place}.png")
    words = [w for w in TINY if not w.startswith("data.pictures")]
    words += ["training.batch_size=64", "training.epochs=1", "looking.last_seconds=10"]
    assert main(["train", "data=image_folder", "data.dir=pictures", "run_dir=run", *words]) == 0
    said = capsys.readouterr().out + (at / "run" / "train.log").read_text()
    assert max(map(len, said.splitlines())) < 400
    assert len(said.splitlines()) < 200

    home, summary = at / "run", json.loads((at / "run" / "summary.json").read_text())
    assert not summary["failures"]
    assert set(summary["test"]) == {"loss", "accuracy", "balanced_accuracy", "macro_f1"}
    with open(home / "metrics.csv", newline="") as file:
        assert len(next(csv.reader(file))) < 100
    # with a comparison of every answer with K · K numbers it was a second a batch
    assert summary["seconds"]["validation"] < 20
    assert (home / "report.html").stat().st_size <= 3e6
    shown = home / "explanations" / "epoch_001"
    # the eight mistakes stand below each other, each with its maps, whatever the number of classes
    for name, most in (
        ("predictions/confusion_matrix", 2000), ("grad_cam_means", 2000),
        ("predictions/random", 2000), ("predictions/mistakes", 8 * 450),
    ):  # fmt: skip
        with Image.open(shown / f"{name}.jpg") as picture:
            assert max(picture.size) < most, name

    assert main(["eval", "run=run", "trainer=cpu"]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) < 60 and not re.search("F1 class_", printed)
    with open(home / "evaluation" / "best" / "predictions.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + int(0.15 * 8 * CLASSES) and len(rows[0]) == CLASSES + 4
