"""Small networks to explain: an untrained one, and a Lightning module that trains."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytorch_lightning as L
import torch
from convlens.callbacks import ExplanationCallback, Looks
from convlens.callbacks.explanation import Explanation
from convlens.callbacks.look import Look
from torch import nn

from convlens.config.compose import compose
from convlens.data.probes import Probes
from convlens.experiment.module import build_module
from convlens.rundir.maps import Maps, join_maps
from support.tiny import TINY

NAMES = ("cat", "dog", "emu")
PICTURE = np.zeros((64, 64, 3), np.uint8)


class FakeClock:
    """Stands for ``time.perf_counter``; only what a test says takes time."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def spend(self, seconds: float) -> None:
        self.now += seconds


def untrained(*words: str, names: tuple[str, ...] = NAMES) -> nn.Module:
    return build_module(compose([*TINY, *words]), list(names)).model.eval()


def look_at(
    network: nn.Module, *, names: tuple[str, ...] = NAMES, wrong: int | None = None,
    unknown: int | None = None,
) -> Look:  # fmt: skip
    """Make a look with four probes p0 … p3, all predicted correctly except ``wrong``.

    The true class of ``unknown`` is unknown."""
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = network(images).argmax(1)
    if wrong is not None:
        labels[wrong] = (labels[wrong] + 1) % len(names)
    if unknown is not None:
        labels[unknown] = -1
    probes = Probes(images, labels, [f"p{i}" for i in range(4)], [f"p{i}" for i in range(4)])
    return Look(network, probes, names, 0, False, float("inf"), 0)


def collect_maps(callback: Explanation, look: Look) -> tuple[str, Maps]:
    """The method and the maps that a callback yields for all probes."""
    found = [(tag, value) for tag, value in callback.pictures(look) if isinstance(value, Maps)]
    return found[0][0], join_maps([maps for _, maps in found])


class Small(L.LightningModule):
    """A user-defined module: batch norm, dropout, plain optimizer, nothing from convlens."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def probes(count: int = 3) -> Probes:
    images = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    names = [f"p{i}" for i in range(count)]
    return Probes(images, torch.zeros(count, dtype=torch.long), names, names)


def train_small(callbacks: list[L.Callback], epochs: int = 3) -> Small:
    torch.manual_seed(0)
    module = Small()
    data = torch.utils.data.TensorDataset(torch.rand(16, 3, 12, 12), torch.arange(16) % 2)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, 4, shuffle=True))
    return module


class Work(ExplanationCallback):
    """Units that take ``cost`` seconds each, on a clock of the test.

    A part of several units is not slower for each of them, as on a real device.
    """

    def __init__(self, clock: FakeClock, cost: float, units: int = 40):
        super().__init__(batch=16)
        self.clock, self.cost, self.units = clock, cost, units
        self.parts: list[list[int]] = []

    def pictures(self, look: Look):
        look.pace.note("pass", 1, 0.01)  # measured before, at no cost here
        parts = []
        for part in look.pieces(self.name, self.units, batch=self.batch, passes=5.0):
            self.clock.spend(self.cost * (part.stop - part.start))
            parts.append(part.stop - part.start)
            yield f"picture/{part.start}", PICTURE
        self.parts.append(parts)


class OtherWork(Work):
    """The same, as another kind of work."""


def look_after_epochs(looks: Looks, clock: FakeClock, epochs: int, seconds: float) -> list[float]:
    """Let them look after epochs of some seconds; return what each look took."""
    trainer = SimpleNamespace(is_global_zero=True, loggers=[], callbacks=[], datamodule=None)
    module, taken = Small(), []
    for epoch in range(epochs):
        looks.ledger.begin_epoch()
        clock.spend(seconds)
        looks.ledger.end_epoch(epoch)
        began = clock.now
        looks.look(trainer, module, looks.order, epoch + 1)
        taken.append(clock.now - began)
    return taken
