"""A loss that is no number: the run stops at once, and no checkpoint holds what made it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from convlens.cli.main import main
from support.lively import checkpoint, differences, start, told
from support.tiny import TINY

FEW = [*TINY, "callbacks=none", "optimizer=sgd", "finetune.groups={head: head, base: backbone}"]


def phases(first: float, second: float) -> list[str]:
    """Two epochs at one learning rate, then some at another."""
    return [
        f"finetune.phases=[{{epochs: 2, train: [head, base], lr: {first}}},"
        f"{{epochs: 3, train: [head, base], lr: {second}}}]",
        "training.epochs=null",
        "scheduler=constant",
    ]


def finite(home: Path, which: str) -> bool:
    state = checkpoint(home, which)["state_dict"]
    return all(bool(value.isfinite().all()) for value in state.values())


def test_a_loss_that_is_nan_stops_and_keeps_the_last_good_epoch(tmp_path, capsys):
    """A learning rate of 1e30 in the third epoch: the weights overflow, then the loss."""
    home = tmp_path / "run"
    assert main(["train", f"run_dir={home}", *FEW, *phases(0.01, 1e30)]) == 2
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("convlens: ")]
    assert "Traceback" not in out + err
    where = r"the training loss is (nan|inf) in epoch 3, batch \d of 6 \(step 1[3-8]; shapes/train/"
    assert re.search(where, line), line
    rates = re.search(r"head (\S+), base (\S+);", line)
    assert rates and all(float(rate) > 1e29 for rate in rates.groups()), line
    assert "checkpoints are of epoch 2" in line and "lower learning rate" in line
    assert checkpoint(home)["epoch"] == 1
    assert finite(home, "last") and finite(home, "best")


def test_weights_spoilt_by_an_epochs_last_step_reach_no_checkpoint(tmp_path, capsys):
    """One step an epoch: its loss is finite, what it makes of the weights is not."""
    home = tmp_path / "run"
    words = [*FEW, *phases(0.01, 1e38), "training.batch_size=64"]
    assert main(["train", f"run_dir={home}", *words]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    epoch = re.search(r"the validation loss is \S+ after epoch (\d)", line)
    assert epoch and checkpoint(home)["epoch"] == int(epoch[1]) - 2
    assert finite(home, "last") and finite(home, "best")


@pytest.mark.slow
def test_nothing_good_yet(tmp_path, capsys):
    home = tmp_path / "run"
    assert main(["train", f"run_dir={home}", *FEW, *phases(1e30, 0.1)]) == 2
    assert "there is no checkpoint yet" in capsys.readouterr().err
    assert not list(home.rglob("*.ckpt"))


@pytest.mark.slow
def test_ddp_processes_all_stop(tmp_path):
    home = tmp_path / "run"
    words = [*FEW, *phases(0.01, 1e30), "trainer=ddp_cpu"]
    process = start(["train", f"run_dir={home}", *words], tmp_path / "cache")
    (line,) = told(process, 120)
    assert process.returncode == 2 and "in epoch 3" in line
    assert checkpoint(home)["epoch"] == 1 and finite(home, "last")


@pytest.mark.slow
def test_looking_at_losses_changes_no_bit(tmp_path, monkeypatch):
    from convlens.training.survival.divergence import Divergence

    words = [*FEW, *phases(0.01, 0.02)]
    assert main(["train", f"run_dir={tmp_path / 'one'}", *words]) == 0
    monkeypatch.setattr(Divergence, "on_train_batch_end", lambda *_: None)
    assert main(["train", f"run_dir={tmp_path / 'other'}", *words]) == 0
    assert not differences(tmp_path / "one", tmp_path / "other")
    assert torch.isfinite(
        torch.tensor(checkpoint(tmp_path / "one")["convlens_record"][4]["val/loss"])
    )
