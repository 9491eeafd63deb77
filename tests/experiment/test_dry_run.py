"""``debug=fast_dev_run``: one batch of everything, in words that are true, and nothing kept."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from convlens.cli.main import main
from convlens.core import progress
from convlens.training.alarms import check_against_untrained, check_overfitting
from convlens.training.evidence_alarms import check_evidence_outside
from support.tiny import TINY

DRY = [*TINY, "debug=fast_dev_run", "data.augment.rotation_degrees=20"]


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_dry_run_says_little_and_leaves_nothing(at, capsys, monkeypatch):
    monkeypatch.setattr(progress, "SHOWN_AFTER", float("inf"))  # a busy machine takes its time
    assert main(["train", *DRY, "optimizer.lr=10"]) == 0
    out, err = capsys.readouterr()
    assert not err and not everything(at)
    for word in ("DummyLogger", "function", "alarm", "! ", "run folder", "worse", "None"):
        assert word not in out, out
    assert out.splitlines()[-1] == (
        "dry run: one batch of training, validation and test passed; nothing is kept"
    )
    assert "dry run    one batch each" in out and "epoch 1/1" in out


def test_a_dry_run_over_another_run_leaves_that_one_whole(at):
    """overwrite=true would have emptied the folder for a run of which nothing is kept."""
    home = at / "run"
    words = [*TINY, "callbacks=none", "training.epochs=1"]
    assert main(["train", f"run_dir={home}", *words]) == 0
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    words += ["trainer.fast_dev_run=true", f"run_dir={home}"]
    assert main(["train", *words, "overwrite=true"]) == 0
    assert main(["train", *words]) == 0
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_a_dry_run_moves_by_its_one_batch(at, capsys, monkeypatch):
    """A window of accumulated batches is cut short too: its move is that of the one batch."""
    from convlens.training import ClassifierModule

    shares, plain = [], ClassifierModule._weight
    monkeypatch.setattr(
        ClassifierModule, "_weight",
        lambda self, batch: shares.append(float(plain(self, batch))) or shares[-1],
    )  # fmt: skip
    words = [*DRY, "callbacks=none", "training.accumulate=4"]
    assert main(["train", *words]) == 0
    assert shares == [4.0]  # which Lightning divides by 4


def test_eval_is_not_run_dry(at, capsys):
    home = at / "run"
    assert main(["train", f"run_dir={home}", *TINY, "callbacks=none", "training.epochs=1"]) == 0
    before = (home / "summary.json").read_text()
    assert main(["eval", f"run={home}", "trainer.fast_dev_run=true"]) == 2
    assert "eval tests every image" in capsys.readouterr().err
    assert (home / "summary.json").read_text() == before


def test_a_signal_ends_a_dry_run_without_a_way_to_resume(at, capsys, monkeypatch):
    import os
    import signal

    from convlens.callbacks import EpochLog

    monkeypatch.setattr(EpochLog, "on_train_start", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["train", *DRY, "callbacks=none"]) == 143
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "stopped by SIGTERM in a dry run" in line and "resume" not in line
    assert not everything(at)
    logging.getLogger("convlens").handlers.clear()


@pytest.mark.parametrize(
    ("line", "never"),
    [
        (check_against_untrained([1.61201, 1.61204]), "1.612, not 1.612"),
        (
            check_overfitting([0.50001, 0.5, 0.49999], [0.8, 1, 1], epochs=2, rise=0.1),
            "0.500 to 0.500",
        ),
        (
            check_evidence_outside(
                {"explain/energy_inside": 0.2001, "explain/object_share": 0.2004}, lift=1.0
            ),
            "20% of it is on the objects, which cover 20%",
        ),
    ],
)
def test_numbers_that_differ_are_written_so_that_it_is_seen(line, never):
    assert line and never not in line
