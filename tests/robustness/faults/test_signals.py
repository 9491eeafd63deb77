"""SIGTERM and Ctrl-C: the step is finished, all is saved, and the end is the same to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import pytorch_lightning as L

from convlens.cli.main import main
from convlens.experiment import train as runs
from support.lively import WORDS, checkpoint, differences, logged, pictures, start, told, wait_for
from support.tiny import TINY

# epochs long enough to be hit; looking is another test's matter
LONG = [word for word in WORDS if not word.startswith("callbacks.")]
LONG += ["callbacks=none", "training.steps_per_epoch=500"]


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
    words = [*words, f"data.dir={data}"] if data else words
    process = start(["train", f"run_dir={home}", *words], Path(os.environ["CONVLENS_CACHE"]))
    wait_for(process, logged(home, sign))
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    return told(process), process.returncode


@pytest.mark.slow
def test_sigterm_ends_the_step_and_resume_goes_on_amid_the_epoch(data, tmp_path):
    """A quick run; all that a run may hold is in the slow test."""
    words = [*TINY, "callbacks=none", "training.epochs=1", "training.steps_per_epoch=500"]
    words += ["model.batch_norm=true", "model.dropout=0.2", "optimizer=adam"]
    home, alone = tmp_path / "run", tmp_path / "alone"
    assert main(["train", f"run_dir={alone}", *words]) == 0
    lines, ended = stop(home, None, words, signal.SIGTERM, "run folder", 0.2)
    assert ended == 143
    (line,) = lines
    assert "stopped by SIGTERM after 0 of 1 epochs and " in line
    assert f"convlens resume run={home}" in line
    assert main(["resume", f"run={home}"]) == 0
    assert not differences(alone, home)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "epoch"),
    [(signal.SIGTERM, 143, 0), (signal.SIGTERM, 143, 3), (signal.SIGINT, 130, 4)],
)
def test_a_signal_ends_the_step_and_resume_goes_on_amid_the_epoch(
    left_alone, data, tmp_path, number, status, epoch
):
    home = tmp_path / "run"
    sign = f"epoch {epoch}/" if epoch else "run folder"
    lines, ended = stop(home, data, LONG, number, sign, 0.4)
    assert ended == status
    (line,) = lines
    assert f"stopped by {number.name} after {epoch} of 6 epochs and " in line
    assert f"convlens resume run={home}" in line
    kept = checkpoint(home, "stopped")
    done = kept["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["completed"]
    assert f"and {done} of 500 batches" in line and done > 0
    assert main(["resume", f"run={home}"]) == 0
    assert not differences(left_alone, home)
    assert not (home / "checkpoints" / "stopped.ckpt").exists()


class Signal(L.Callback):
    """Sends this process a signal at one hook of one epoch."""

    def __init__(self, hook: str, epoch: int):
        self.epoch, self.sent = epoch, False
        setattr(self, hook, self._send)

    def _send(self, trainer, *_) -> None:
        if trainer.current_epoch == self.epoch and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGTERM)


FEW = [
    *TINY, "callbacks=none", "training.epochs=3", "training.eval_batch_size=2",
    "model.batch_norm=true", "model.dropout=0.2", "optimizer=adam",
]  # fmt: skip


@pytest.fixture(scope="module", params=["", "training.accumulate=4", "training.validations=3"])
def few_left_alone(request, tmp_path_factory) -> tuple[list[str], Path]:
    """Train without interruption; return the words and the run folder."""
    words, home = [*FEW, *filter(None, [request.param])], tmp_path_factory.mktemp("few") / "run"
    assert main(["train", f"run_dir={home}", *words]) == 0
    return words, home


@pytest.mark.slow
@pytest.mark.parametrize(
    "hook",
    ["on_train_start", "on_train_batch_start", "on_validation_start", "on_validation_batch_end",
     "on_validation_epoch_end", "on_train_epoch_end", "on_train_end", "on_test_batch_start"],
)  # fmt: skip
def test_sigterm_at_any_hook(few_left_alone, tmp_path, capsys, monkeypatch, hook):
    """Also amid an accumulation, amid a validation in the epoch or at its end, and behind it."""
    few, alone = few_left_alone
    capsys.readouterr()
    epoch = {"on_train_start": 0, "on_train_end": 3, "on_test_batch_start": 3}.get(hook, 1)
    plain = runs.build_trainer

    def build_trainer(*args):
        trainer, *rest = plain(*args)
        trainer.callbacks.insert(-2, Signal(hook, epoch))
        return trainer, *rest

    home = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(runs, "build_trainer", build_trainer)
        assert main(["train", f"run_dir={home}", *few]) == 143
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    (line,) = [line for line in err.splitlines() if line.startswith("convlens: ")]
    assert "stopped by SIGTERM" in line and f"convlens resume run={home}" in line
    assert main(["resume", f"run={home}"]) == 0
    assert not differences(alone, home)


@pytest.mark.slow
def test_sigterm_before_training(tmp_path):
    """While pictures are decoded, or the libraries load: a line, and nothing half-made."""
    process = start(["train", f"run_dir={tmp_path / 'run'}", *LONG], tmp_path / "cache")
    wait_for(process, lambda: _handles_sigterm(process.pid))
    process.send_signal(signal.SIGTERM)
    (line,) = told(process)
    assert process.returncode == 143 and "stopped by SIGTERM" in line
    assert not (tmp_path / "run" / "config.yaml").exists()


def _handles_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
