"""On a GPU: a training step waits for nothing, as torch itself sees it."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

from convlens.cli.main import main

AUGMENTED = [
    "data.augment.rotation_degrees=20", "data.augment.horizontal_flip=true",
    "data.augment.random_resized_crop=[0.5,1]", "data.augment.brightness=0.2",
    "data.augment.contrast=0.2", "data.augment.saturation=0.2", "data.augment.hue=0.1",
]  # fmt: skip


@pytest.fixture
def watched(monkeypatch):
    """From the second step of an epoch on, whatever waits for the device is an error."""
    advance, steps = _TrainingEpochLoop.advance, []

    def watch(loop, fetcher) -> None:
        if not loop.batch_progress.current.ready:
            return advance(loop, fetcher)  # makes what the device keeps
        steps.append(1)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return advance(loop, fetcher)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(_TrainingEpochLoop, "advance", watch)
    yield steps
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
@pytest.mark.parametrize("experiment", ["scratch", "finetune_vgg16", "finetune_timm"])
def test_no_step_waits(tmp_path, watched, experiment, precision):
    words = [f"exp={experiment}", "data=shapes", "data.pictures=200", "trainer=gpu", *AUGMENTED]
    words += [f"precision={precision}", "training.batch_size=8", "callbacks=none"]
    words += ["training.class_weights=balanced", "trainer.log_every_n_steps=3"]
    if experiment == "scratch":
        words += ["training.epochs=2", "data.size=32", "training.accumulate=2"]
    else:
        second = "last_block" if experiment == "finetune_vgg16" else "base"
        words += ["model.weights=none", "data.size=64"]
        words += [
            "finetune.phases=[{epochs: 1, train: [head], lr: 1e-3, augment: false},"
            f"{{epochs: 1, train: [head, {second}], lr: 1e-4}}]"
        ]
    assert main(["train", f"run_dir={tmp_path / 'run'}", *words]) == 0
    assert len(watched) > 20


def test_what_waits_is_seen():
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.ones((), device="cuda").item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
