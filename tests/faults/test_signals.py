"""SIGTERM and Ctrl-C: the step is finished, all is saved, and the end is the same to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lively import WORDS, checkpoint, differences, logged, pictures, start, told, wait_for

from convlens.cli.main import main

# epochs long enough to be hit; looking is another test's matter
LONG = [word for word in WORDS if not word.startswith("callbacks.")]
LONG += ["callbacks=none", "training.steps_per_epoch=150"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory, data):
    home = tmp_path_factory.mktemp("alone") / "run"
    assert main(["train", f"run_dir={home}", f"data.dir={data}", *LONG]) == 0
    return home


def stop(home: Path, data: Path, words: list[str], number: int, sign: str, after: float = 0.1):
    """Start a run, send it a signal once its log says ``sign``; what it said, and its status."""
    process = start(
        ["train", f"run_dir={home}", f"data.dir={data}", *words], Path(os.environ["CONVLENS_CACHE"])
    )
    wait_for(process, logged(home, sign))
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    return told(process), process.returncode


@pytest.mark.parametrize(
    ("number", "status", "epoch"),
    [
        (signal.SIGTERM, 143, 0),
        pytest.param(signal.SIGTERM, 143, 3, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, 4, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_step_and_resume_goes_on_amid_the_epoch(
    left_alone, data, tmp_path, number, status, epoch
):
    home = tmp_path / "run"
    sign = f"epoch {epoch}/" if epoch else "training "
    lines, ended = stop(home, data, LONG, number, sign, 0.4)
    assert ended == status
    (line,) = lines
    assert f"stopped by {number.name} after {epoch} of 6 epochs and " in line
    assert f"make resume run={home}" in line
    kept = checkpoint(home, "stopped")
    done = kept["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["completed"]
    assert f"and {done} of 150 batches" in line and done > 0
    assert main(["resume", f"run={home}"]) == 0
    assert not differences(left_alone, home)
    assert not (home / "checkpoints" / "stopped.ckpt").exists()
