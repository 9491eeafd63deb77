"""A run ends with the same bits, wherever its images are and whoever prepares its batches."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch

from convlens.cli.main import main
from convlens.data.datamodule import PictureData
from convlens.data.feed import Feed, Stream
from convlens.training.survival.interruption import Interruption
from support.tiny import TINY, TWO_UNFREEZES

WORDS = [*TINY, "callbacks=none", "model.dropout=0.2", "optimizer=adam", "looking.seconds=0"]
WORDS += ["data.augment.brightness=0.2"]
SHORT = ["training.epochs=3", "model.batch_norm=true", "training.accumulate=2"]
MODES = ("ram", "device", "disk, ahead", "device, ahead")


def train(home, mode: str, *words: str, command: str = "train") -> int:
    cache = [f"data.cache={mode.partition(',')[0]}"] if command == "train" else []
    where = f"run_dir={home}" if command == "train" else f"run={home}"
    return main([command, where, *(WORDS if cache else []), *cache, *words])


def weights(home) -> dict[str, torch.Tensor]:
    return torch.load(home / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_same(one, other) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert not [name for name in first if not torch.equal(first[name], second[name])]


def left_over() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "convlens-feed"]


@pytest.fixture
def ahead(monkeypatch):
    """Called with a mode: main memory stands for a device whose batches are prepared ahead."""
    real, launched = PictureData.serve, []

    class Counting(Stream):
        def launch(self, work):
            launched.append(1)
            return super().launch(work)

    def serve(data, device) -> None:
        real(data, device)
        data.feed = Feed(Counting(), data.finish)

    def choose(mode: str) -> list[int]:
        monkeypatch.setattr(PictureData, "serve", serve if mode.endswith("ahead") else real)
        return launched

    return choose


@pytest.mark.parametrize(
    "words",
    [
        SHORT,
        TWO_UNFREEZES,
        pytest.param([*SHORT, "precision=64"], marks=pytest.mark.slow),
        pytest.param([*SHORT, "precision=bf16"], marks=pytest.mark.slow),
    ],
    ids=["augmented", "phases", "float64", "bf16"],
)
def test_the_weights_are_the_same_in_every_mode(tmp_path, ahead, words):
    """With stored features, too: in the first phase nothing is augmented."""
    assert train(tmp_path / "disk", "disk", *words) == 0
    for mode in MODES:
        launched = ahead(mode)
        launched.clear()
        assert train(tmp_path / mode, mode, *words) == 0
        assert bool(launched) == mode.endswith("ahead") and not left_over()
        assert_same(tmp_path / mode, tmp_path / "disk")


@pytest.mark.parametrize("mode", MODES[1:])
def test_resume_amid_an_epoch(tmp_path, ahead, monkeypatch, mode):
    """The thread is ahead of the batch at which a signal stops the run."""
    words = [*SHORT, "training.batch_size=4"]
    assert train(tmp_path / "alone", "disk", *words) == 0
    ahead(mode)
    real = Interruption.on_train_batch_start

    def kill(callback, trainer, module, batch, number) -> None:
        real(callback, trainer, module, batch, number)
        if (trainer.current_epoch, number) == (1, 3):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "on_train_batch_start", kill)
        assert train(tmp_path / "run", mode, *words) == 143
    assert not left_over()
    stopped = tmp_path / "run" / "checkpoints" / "stopped.ckpt"
    loops = torch.load(stopped, weights_only=True)["loops"]["fit_loop"]
    assert loops["state_dict"]["combined_loader"] == [{"epoch": 1, "batch": 4}]
    assert train(tmp_path / "run", mode, command="resume") == 0
    assert_same(tmp_path / "run", tmp_path / "alone")
    assert not left_over()


@pytest.mark.parametrize("words", [["trainer.fast_dev_run=true"], ["callbacks.none_such=1"]])
def test_a_run_that_ends_at_once_leaves_no_thread(tmp_path, ahead, words):
    launched = ahead("disk, ahead")
    status = train(tmp_path / "run", "disk", *SHORT, *words)
    assert (status, bool(launched)) == ((0, True) if "dev" in words[0] else (2, False))
    assert not left_over()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_a_step_leaves_no_thread(tmp_path, ahead, monkeypatch, error):
    ahead("disk, ahead")

    def fail(self, trainer, module, batch, number) -> None:
        assert left_over()
        raise error

    monkeypatch.setattr(Interruption, "on_train_batch_start", fail)
    words = [*SHORT, "training.batch_size=2"]
    if error is RuntimeError:
        with pytest.raises(RuntimeError):
            train(tmp_path / "run", "disk", *words)
    else:
        assert train(tmp_path / "run", "disk", *words) == 130
    assert not left_over()
