"""What a device has computed is read when it is ready: losses, and whether a signal has arrived."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest
import pytorch_lightning as L
import torch
from convlens.callbacks import EpochLog, Ledger
from pytorch_lightning.profilers import PassThroughProfiler

from convlens.core.errors import SharedError
from convlens.experiment.trainer import BATCH_HOOKS, skip_empty_hooks
from convlens.training.survival import interruption
from convlens.training.survival.divergence import Divergence

GPU = SimpleNamespace(device=torch.device("cuda"))


def make_trainer(**more) -> SimpleNamespace:
    names = [f"{row}.png" for row in range(100)]
    dataset = SimpleNamespace(splits={"train": SimpleNamespace(names=names)})
    values = {
        "world_size": 1, "log_every_n_steps": 2, "num_training_batches": 7, "current_epoch": 0,
        "accumulate_grad_batches": 1, "val_check_batch": 7, "global_step": 0, "precision": "32",
        "datamodule": SimpleNamespace(dataset=dataset), "loggers": [], "optimizers": [
            SimpleNamespace(param_groups=[{"name": "model", "lr": 0.1}])
        ],
    }  # fmt: skip
    return SimpleNamespace(**{**values, **more})


def feed(divergence: Divergence, trainer, losses: list[float]) -> int:
    """Return the number of steps after which the run ended; all of them if it did not."""
    for number, loss in enumerate(losses):
        outputs = {"loss": torch.tensor(loss)}
        batch = {"row": torch.tensor([number])}
        try:
            divergence.on_train_batch_end(trainer, GPU, outputs, batch, number)
        except SharedError as error:
            assert f"batch {losses.index(max(losses)) + 1} of 7" in str(error)
            assert f"{losses.index(max(losses))}.png" in str(error)
            return number + 1
    return len(losses)


@pytest.mark.parametrize(
    ("bad", "ends"), [(0, 4), (1, 4), (2, 6), (3, 6), (4, 7), (5, 7), (6, 7), (None, 7)]
)
def test_a_bad_loss_on_a_device_is_found_at_the_next_check_or_the_epochs_end(bad, ends):
    losses = [float("inf") if number == bad else 0.5 for number in range(7)]
    assert feed(Divergence(), make_trainer(), losses) == ends


class Recorder:
    """A logger that keeps what it gets."""

    def __init__(self):
        self.lines: list[tuple[int, float]] = []

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.lines.append((step, values["train_step/loss"]))


@pytest.mark.parametrize(("device", "late"), [("cpu", 0), ("cuda", 1)])
def test_losses_of_steps_are_written_with_their_own_steps(tmp_path, device, late):
    recorder, log = Recorder(), EpochLog(tmp_path / "metrics.csv", Ledger())
    module = SimpleNamespace(device=torch.device(device))
    for step in range(1, 7):
        trainer = make_trainer(loggers=[recorder], global_step=step)
        outputs, batch = {"mean": torch.tensor(step / 8)}, {"label": torch.zeros(2)}
        log.on_train_batch_end(trainer, module, outputs, batch, step - 1)
        due = [(n, n / 8) for n in range(2, step + 1, 2)]
        assert recorder.lines == (due[:-1] if late else due)
    log.on_save_checkpoint(trainer, module, {})
    assert recorder.lines == [(2, 0.25), (4, 0.5), (6, 0.75)]


@pytest.mark.parametrize(("device", "stops"), [("cpu", 4), ("cuda", 6)])
def test_processes_on_devices_agree_on_a_signal_one_question_later(device, stops, monkeypatch):
    """The other process gets a signal in step 3; both must stop at the same step."""
    elsewhere, ended = [0], []

    def reduce(flag, _) -> None:
        flag.clamp_(min=elsewhere[0])

    monkeypatch.setattr(torch.distributed, "all_reduce", reduce)
    monkeypatch.setattr(interruption, "_end_loops", ended.append)
    full = torch.full
    monkeypatch.setattr(torch, "full", lambda *args, device: full(*args))  # there is no device
    strategy = SimpleNamespace(root_device=torch.device(device))
    trainer = make_trainer(world_size=2, strategy=strategy, num_training_batches=100)
    callback = interruption.Interruption("stopped.ckpt")
    for number in range(8):
        elsewhere[0] = signal.SIGTERM if number >= 2 else 0
        callback.on_train_batch_end(trainer, None, None, None, number)
        if ended:
            break
    assert number + 1 == stops and callback.signal_number == signal.SIGTERM


class Reacts(L.Callback):
    """Overrides two of the hooks of a batch."""

    def __init__(self):
        self.called: list[str] = []

    def on_train_batch_start(self, *args) -> None:
        self.called.append("start")

    def on_before_optimizer_step(self, *args) -> None:
        self.called.append("step")


class Empty(L.Callback):
    """Overrides nothing."""


class Heir(Reacts):
    """Inherits what another callback overrides."""


class Called(PassThroughProfiler):
    """Notes which hooks of callbacks Lightning calls."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def start(self, action_name: str) -> None:
        if action_name.startswith("[Callback]"):
            self.names.append(action_name.removeprefix("[Callback]"))


class Toy(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        return self.weight * batch.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit_toy(callbacks: list[L.Callback]) -> list[str]:
    """Train two steps, and return the hooks of a batch that Lightning called."""
    profiler = Called()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=callbacks, profiler=profiler, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Toy(), torch.utils.data.DataLoader(torch.ones(2)))
    return [name for name in profiler.names if name.endswith(BATCH_HOOKS)]


def test_only_overridden_hooks_of_a_batch_are_called():
    instance = Empty()
    instance.on_train_batch_end = lambda *args: seen.append("own")  # of this object alone
    seen: list[str] = []
    before, callbacks = [Reacts(), Heir(), Empty()], [Reacts(), Heir(), Empty(), instance]
    every = fit_toy(before)
    assert len(every) == 3 * 6 * 2  # all six hooks of a training step, of each callback
    skip_empty_hooks(callbacks)
    skip_empty_hooks(callbacks)  # a trainer that is used twice
    step = [f"{kind}.on_train_batch_start" for kind in ("Reacts", "Heir")]
    step += [f"{kind}.on_before_optimizer_step" for kind in ("Reacts", "Heir")]
    assert fit_toy(callbacks) == [*step, "Empty.on_train_batch_end"] * 2
    assert [each.called for each in callbacks[:2]] == [each.called for each in before[:2]]
    assert seen == ["own", "own"]
