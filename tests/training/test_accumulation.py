"""Gradients of several batches, or of several processes, against one batch of all their images."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.data.loader import TrainingLoader
from convlens.data.order import TrainingOrder
from convlens.data.pixels.dataset import Images
from convlens.experiment.module import build_module
from convlens.training.objective import Objective
from support.tiny import TINY

EXACT = [*TINY, "data.augment.rotation_degrees=0", "data.augment.horizontal_flip=false"]
EXACT += ["data.augment.vertical_flip=false"]
EXACT += ["precision=64", "callbacks=none", "training.epochs=2", "model.dropout=0"]
EXACT += ["model.head.dropout=0", "model.batch_norm=false", "optimizer=sgd", "optimizer.lr=0.05"]
EXACT += ["scheduler=cosine", "scheduler.warmup_epochs=1", "logger.tensorboard=false"]


def trained(home, *words: str) -> dict[str, torch.Tensor]:
    assert main(["train", f"run_dir={home}", *EXACT, *words]) == 0
    return torch.load(home / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("batch", "accumulate", "more"),
    [
        (64, 4, []),  # one batch, an epoch shorter than its window: was a quarter of the move
        (4, 5, []),  # full windows, and a last one of fewer batches, the last of them smaller
        # batches of unequal weight in one window
        (5, 4, ["training.class_weights=balanced", "training.gradient_clip=0.01"]),
    ],
)
def test_accumulated_batches_equal_one_of_all_their_images(tmp_path, batch, accumulate, more):
    """In float64; the order of the images is the same, whatever the size of a batch."""
    parts = [f"training.batch_size={batch}", f"training.accumulate={accumulate}", *more]
    one = trained(tmp_path / "one", f"training.batch_size={batch * accumulate}", *more)
    several = trained(tmp_path / "several", *parts)
    assert one["model.head.logits.weight"].dtype == torch.float64
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("weights", [None, [0.5, 0.0, 3.0]])
@pytest.mark.parametrize(("world", "accumulate", "count"), [(2, 3, 37), (3, 1, 10), (2, 4, 9)])
def test_gradients_over_ddp_processes_and_batches(weights, world, accumulate, count):
    """What Lightning and DDP add up (1/N a batch, the mean over processes) is the plain mean."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(count, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (count,), generator=rng)
    pictures = Images(np.zeros((count, 1, 1, 3), np.uint8), labels.numpy(), ["x"] * count)
    module = build_module(
        compose([*TINY, "data.pictures=60", f"training.class_weights={weights or 'null'}"]),
        list("abc"),
    )
    module.objective = Objective("cross_entropy", 0.1, weights).double()
    module._trainer = SimpleNamespace(world_size=world, accumulate_grad_batches=accumulate)
    module.compute_logits = lambda batch: logits[batch["row"]]
    parts = [
        list(TrainingLoader(pictures, TrainingOrder(count, 4, 0), 0, r, world,
                            accumulate=accumulate, augmented=lambda: False))
        for r in range(world)
    ]  # fmt: skip
    rows = np.concatenate(list(TrainingOrder(count, 4, 0).batches(0)))
    for first in range(0, len(parts[0]), accumulate):
        window = [batch for part in parts for batch in part[first : first + accumulate]]
        total = sum(module.training_step(b, 0)["loss"] for b in window) / accumulate / world
        mine = rows[first * 4 : (first + accumulate) * 4] if first + accumulate < len(
            parts[0]) else rows[first * 4 :]  # fmt: skip
        weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        expected = F.cross_entropy(logits[mine], labels[mine], weight, label_smoothing=0.1)
        torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)
        (found,) = torch.autograd.grad(total, logits)
        (wanted,) = torch.autograd.grad(expected, logits)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_the_loss_of_a_step_is_a_loss_and_is_written_once(tmp_path):
    """It was divided by the number of accumulated batches, and written for each of them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    home = tmp_path / "run"
    words = [*EXACT[:-1], "training.accumulate=4", "training.batch_size=4", "training.epochs=1"]
    words += ["trainer.log_every_n_steps=1", "optimizer.lr=1e-12"]
    assert main(["train", f"run_dir={home}", *words]) == 0
    events = EventAccumulator(str(home / "tensorboard"))
    events.Reload()
    steps = events.Scalars("train_step/loss")
    assert [event.step for event in steps] == sorted({event.step for event in steps})
    with open(home / "metrics.csv", newline="") as table:
        untrained = float(next(csv.DictReader(table))["val/loss"])
    for event in steps:  # nothing is learnt at such a rate: every batch has about that loss
        assert 0.7 * untrained < event.value < 1.4 * untrained


def test_images_without_a_weight_give_no_gradient_and_no_nan():
    """A batch of nothing but a class of weight 0; torch's own weighted mean is 0 / 0."""
    logits = torch.randn(3, 2, requires_grad=True)
    labels = torch.zeros(3, dtype=torch.long)
    for loss, columns in (("cross_entropy", 2), ("binary", 1)):
        value = Objective(loss, 0.0, [0.0, 1.0])(logits[:, :columns], labels)
        assert float(value.detach()) == 0
        (gradient,) = torch.autograd.grad(value, logits)
        assert not gradient.any()
