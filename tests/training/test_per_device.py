"""Batch size and learning rate, for the run or for each process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.experiment.data import build_data
from convlens.experiment.module import build_module
from support.tiny import TINY

TWO = SimpleNamespace(
    global_rank=1, world_size=2, accumulate_grad_batches=1, num_training_batches=float("inf")
)


@pytest.mark.parametrize(("counts", "each"), [("global", 4), ("per_device", 8)])
def test_the_batch_size_of_a_process(counts, each):
    data = build_data(compose([*TINY, f"training.batch_size_is={counts}"]))
    data.trainer = TWO
    first = next(iter(data.train_dataloader()))
    assert len(first["label"]) == each


@pytest.mark.parametrize(("counts", "factor"), [("global", 1), ("per_device", 2)])
def test_the_rate_with_two_processes(counts, factor):
    words = [*TINY, f"training.lr_is={counts}", "scheduler=constant", "scheduler.warmup_epochs=0"]
    module = build_module(compose([*words, "optimizer.lr=0.125"]), list("abcde"))
    module._trainer = TWO
    optimizer = module.configure_optimizers()
    module.set_rates(optimizer, 1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125 * factor]


def test_other_words_are_refused():
    for key in ("batch_size_is", "lr_is"):
        with pytest.raises(UserError, match="global or per_device"):
            compose([f"training.{key}=local"])
