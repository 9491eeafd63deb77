"""``metrics.csv`` holds what the looks at the end of training have found, too."""

from __future__ import annotations

import csv
import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convlens.cli.main import main
from support.tiny import TINY

# numbers are tested, no pictures
DRAWN = ("filter_visuals", "activation_grids", "mistakes", "class_means", "occlusion_maps",
         "augmentation_preview", "learning_curves", "reliability")  # fmt: skip
WORDS = [*TINY, "training.epochs=2", *(f"callbacks.{name}=null" for name in DRAWN),
         "scheduler=constant",
         "looking={seconds: 1000, first_seconds: 1000, last_seconds: 1000}"]  # fmt: skip


def test_the_last_row_holds_the_scores_of_the_last_look(tmp_path):
    home = tmp_path / "run"
    words = [*WORDS, "callbacks.scores.which=all", "callbacks.scores.every_n_epochs=3"]
    assert main(["train", f"run_dir={home}", *words]) == 0
    events = EventAccumulator(str(home / "tensorboard")).Reload()
    sent = {
        tag: event.value
        for tag in events.Tags()["scalars"] if tag.startswith("explain/")
        for event in events.Scalars(tag) if event.step == 2
    }  # fmt: skip
    assert any(tag.startswith("explain/randomised/") for tag in sent)
    assert "explain/border_energy" in sent  # not looked at after the epoch itself
    with open(home / "metrics.csv", newline="") as file:
        table = csv.DictReader(file)
        first, _, last = table
    assert {tag: float(last[tag]) for tag in sent} == pytest.approx(sent, rel=1e-6)
    assert table.fieldnames[-1] == "explain/seconds"
    assert not first.get("explain/randomised/head.logits")
    scores = json.loads((home / "summary.json").read_text())["scores"]
    assert {f"explain/{name}": value for name, value in scores.items()}.items() >= {
        tag: float(last[tag]) for tag in sent if tag != "explain/seconds"
    }.items()
    # a longer run has no look at the end there: its table is that of a run left alone
    assert main(["resume", f"run={home}", "training.epochs=3"]) == 0
    with open(home / "metrics.csv", newline="") as file:
        *_, before, last = csv.DictReader(file)
    assert not before["explain/randomised/head.logits"] and last["explain/randomised/head.logits"]
