"""Epoch 0 is the network before training: of a pretrained one "untrained" would be untrue."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from convlens.core.errors import UserError
from convlens.pages.compare import compare
from convlens.pages.report import report
from convlens.training.alarms import find_dead_layers
from support.runs_made import CONFIG, changed, write_run

SHOWN = {**changed(CONFIG, finetune__phases=None), "scheduler": {"name": "cosine"},
         "precision": "32"}  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


def test_the_pages_say_before_training(tmp_path):
    homes = [
        write_run(tmp_path / name, [1.0, 0.5], config=SHOWN, probes={"00_cat": "red"},
                  finished=False)
        for name in "ab"
    ]  # fmt: skip
    for page in (report(homes[0]).read_text(encoding="utf-8"), compare(homes)):
        assert "untrained" not in page
        assert "poch 0 is the network before training" in page


def test_the_alarm_and_the_error_say_before_training(tmp_path):
    (line,) = find_dead_layers(
        {"explain/dead/a": 0.95}, {"explain/dead/a": 0.1}, share=0.9
    ).values()
    assert "(before training: 10%)" in line and "untrained" not in line
    home = write_run(tmp_path / "r", [1.0, 0.5])
    (home / "metrics.csv").unlink()
    with pytest.raises(UserError, match="wait until the network before training is validated"):
        report(home)


def test_nothing_that_a_person_reads_calls_epoch_0_untrained():
    """In any text between quotes; an untrained *head* is one whose weights were just drawn."""
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "callbacks").glob("*.py"),
             *(ROOT / "src").rglob("*.html"), *(ROOT / "configs").rglob("*.yaml")]  # fmt: skip
    assert len(files) > 100
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not re.search(
            r"untrained (network|one|model)|\"untrained\"\s*:\s*untrained", text
        ), file
