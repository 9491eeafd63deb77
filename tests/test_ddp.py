"""Two processes on the CPU: one voice, one folder, the same network in both."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from conftest import TINY


def train(home, *words) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "convlens.cli.main", "train", f"run_dir={home}", *TINY, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_ddp_of_two_equals_one_process_with_the_same_global_batch(tmp_path):
    """Every batch of 8 is shared out as 4 + 4; without batch norm and dropout that is the same."""
    words = ["training.epochs=2", "precision=64", "model.batch_norm=false", "training.batch_size=4"]
    words += ["data.augment.rotation_degrees=20", "callbacks.filter_visuals=null"]
    one = train(tmp_path / "one", *words)
    two = train(tmp_path / "two", *words, "trainer=ddp_cpu")
    assert one.count("epoch 2/2") == two.count("epoch 2/2") == 1
    assert two.count("run folder") == 1
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["processes"] == 2
    a, b = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    for name in a:
        if a[name].is_floating_point():
            assert a[name].dtype == torch.float64
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-9)
