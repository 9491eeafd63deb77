"""What every look keeps to: no harm, failures said once, memory halved, the budget."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from convlens.callbacks import ExplanationCallback, Ledger, Looks
from convlens.callbacks.ledger import SkipReport
from convlens.callbacks.look import Look

from convlens.cli.main import main
from support.looks import Small, probes, train_small
from support.tiny import TINY

PICTURE = np.zeros((64, 64, 3), np.uint8)


def fit(callback, folder, epochs: int = 3) -> Small:
    if callback is None:
        return train_small([], epochs)
    callback.attach(probes(), ("a", "b"), folder, seed=0)
    return train_small([callback], epochs)


class Rude(ExplanationCallback):
    """Does all that a look must not do."""

    def pictures(self, look: Look):
        look.network.train()
        torch.rand(100)
        torch.manual_seed(99)
        np.random.default_rng()
        yield "rude", PICTURE


def test_weights_unchanged_by_a_look_that_draws_and_switches_modes(tmp_path):
    one, other = fit(None, None), fit(Rude(), tmp_path)
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


class Clock(ExplanationCallback):
    def pictures(self, look: Look):
        assert not look.final or look.deadline == float("inf")
        yield f"seen/{look.clock}", PICTURE


def test_looks_before_training_and_after_every_epoch(tmp_path):
    fit(Clock(), tmp_path)
    seen = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.jpg"))
    assert seen == [f"epoch_{i:03d}/seen/{i}.jpg" for i in range(4)]


def test_every_n_epochs_still_shows_first_and_last(tmp_path):
    fit(Clock(every_n_epochs=2), tmp_path, epochs=5)
    seen = sorted(int(file.stem) for file in tmp_path.rglob("*.jpg"))
    assert seen == [0, 2, 4, 5]


class Broken(ExplanationCallback):
    def pictures(self, look: Look):
        yield "fine", PICTURE
        raise ValueError("two\nlines")


def test_a_look_that_fails_is_said_once_and_training_goes_on(tmp_path, said):
    module = fit(Broken(), tmp_path)
    assert said == ["Broken failed at epoch 0: ValueError: two; training continues"]
    assert module.trainer.current_epoch == 3
    assert Looks.of(module.trainer).ledger.failures["Broken"].startswith("Broken failed at epoch 0")


class Hungry(ExplanationCallback):
    """Fits only two pictures at a time."""

    tried: list[int]

    def pictures(self, look: Look):
        self.tried = []

        def compute(batch):
            self.tried.append(batch)
            if batch > 2:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
            return batch

        assert self.fit_batch(compute) == 2
        yield "fed", PICTURE


def test_memory_halves_the_batch_and_stays_there(tmp_path):
    callback = Hungry(batch=8)
    fit(callback, tmp_path, epochs=1)
    assert callback.batch == 2
    assert callback.tried == [2]
    assert len(list(tmp_path.rglob("fed.jpg"))) == 2


def test_other_errors_are_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="shape"):
        Hungry().fit_batch(lambda batch: (_ for _ in ()).throw(RuntimeError("wrong shape")))


def test_ledger_grants_a_share_and_keeps_what_is_left():
    ledger = Ledger(share=0.05, floor=2.0)
    for epoch in (0, 1):
        ledger.begin_epoch()
        ledger.end_epoch(epoch)
    assert ledger.left == pytest.approx(4.0)
    ledger.charge("GradCam", 3.0, free=False)
    ledger.charge("GradCam", 50.0, free=True)
    assert ledger.left == pytest.approx(1.0)
    assert ledger.total == 53.0
    assert [looked for _, looked in ledger.epochs.values()] == [0.0, 3.0]
    own = sum(own for own, _ in ledger.epochs.values())
    assert ledger.share_of_epochs == pytest.approx(3.0 / (own + 3.0))
    again = Ledger()
    again.restore(ledger.state())
    assert (again.left, again.total) == (ledger.left, ledger.total)
    assert again.epochs == ledger.epochs


class Leisurely(ExplanationCallback):
    """Pictures until the time is over."""

    left: float

    def pictures(self, look: Look):
        self.left = look.seconds_left
        yield "first", PICTURE
        yield "second", PICTURE


def test_in_an_epoch_time_is_kept_for_the_picture_that_is_begun_last(tmp_path):
    """The look before tells what a picture takes; the first look and the last are free."""
    callback = Leisurely()
    looks = Looks.of(fit(callback, tmp_path, epochs=1).trainer)
    account = looks.account(callback)
    assert 0 < account.least < 1 and 0 < account.next < 1
    assert 1 < callback.left <= 2.0  # the floor of an epoch's allowance
    trainer = SimpleNamespace(is_global_zero=True, loggers=[], callbacks=[], datamodule=None)
    ledger = Ledger()
    looks = Looks([callback], ledger=ledger)
    looks.account(callback).next = 1.5
    ledger.begin_epoch(), ledger.end_epoch(0)
    looks.look(trainer, Small(), [callback], 1)
    assert 0 < callback.left <= 0.5
    looks.account(callback).next, callback.estimates_cost = 1.5, True
    ledger.begin_epoch(), ledger.end_epoch(1)
    looks.look(trainer, Small(), [callback], 2)
    assert callback.left > 1.5


def test_without_a_budget_only_the_most_telling_pictures_are_drawn(tmp_path):
    words = [*TINY, "training.epochs=3", "looking.seconds=0", "callbacks.budget=0.0"]
    assert main(["train", f"run_dir={tmp_path}/run", *words]) == 0
    shown = {
        epoch: len(list((tmp_path / "run/explanations" / f"epoch_{epoch:03d}").rglob("*.jpg")))
        for epoch in (0, 3)
    }
    between = tmp_path / "run/explanations/epoch_002"
    assert len(list(between.rglob("*.jpg"))) < min(shown.values()) / 2


def test_a_spent_budget_is_one_line_with_a_key_and_never_zeros(said):
    ledger, skips = Ledger(), SkipReport()
    skips.report(ledger, {"ConfusionMatrix": 0.04}, 1, "looking.seconds")
    assert not said and "0.0 s" not in ledger.left_out["ConfusionMatrix"]
    for clock in (2, 3):
        skips.report(ledger, {"Scores": 2.1, "ConfusionMatrix": 0.04}, clock, "looking.seconds")
    (line,) = said
    assert line.startswith("epoch 2: no time for Scores (2.1 s);") and "0.0 s" not in line
    assert line.endswith("raise looking.seconds")
