"""What every look keeps to: its moments, no harm, failures said once, memory halved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from convlens.callbacks import ExplanationCallback, Looks
from convlens.callbacks.look import Look

from support.looks import PICTURE, Small, probes, train_small


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
