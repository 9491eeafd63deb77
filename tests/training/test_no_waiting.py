"""In a training step the host waits for nothing that a device computes."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from convlens.callbacks import EpochLog, Looks

from convlens.config.compose import compose
from convlens.config.folder import list_groups
from convlens.data.feed import Allocate
from convlens.experiment.assemble import assemble
from convlens.experiment.prepare import decode, prepare
from convlens.experiment.trainer import build_trainer
from convlens.training import ClassifierModule
from convlens.training.finetune.phases import Phases
from support.pretend import Enough, Last, NoWaiting, Strategy, Waited, pretend
from support.tiny import TINY, shrink_network

STEPS = 5


class Stored:
    """Features of all images at a cut: numbers that do not matter."""

    def __init__(self, module, data, cut: int):
        self.cut, self.nbytes, size = cut, 0, data.spec.size
        with torch.no_grad():
            example = torch.zeros(1, data.spec.channels, size, size, device="meta")
            self.shape = module.model.features(example, cut).shape[1:]

    def rows(self, rows: np.ndarray, allocate: Allocate | None) -> torch.Tensor:
        return torch.zeros(len(rows), *self.shape)


def fetch(phases, trainer, module, data, phase, cut: int) -> dict[str, Stored]:
    return {"train": Stored(module, data, cut)}


def train_pretending(
    tmp_path, monkeypatch, words, phase: int = 0, plant=None
) -> tuple[NoWaiting, ClassifierModule]:
    """Take real training steps with all callbacks of a run; return what watched, and the module."""
    tmp_path.mkdir(exist_ok=True)
    config = compose([*words, "trainer=cpu", "precision=32", "probes.count=2"])
    run = assemble(config)
    decode(run)
    prepare(run, tmp_path, resumed=False)
    trainer, *_ = build_trainer(run, tmp_path, None)
    mode = NoWaiting()
    first = sum(each.epochs for each in run.module.schedule.phases[:phase])
    monkeypatch.setattr(Looks, "look", lambda *args, **options: None)
    monkeypatch.setattr(EpochLog, "_measure_untrained", lambda *args: None)
    monkeypatch.setattr(Phases, "_fetch", fetch)
    callbacks = [*trainer.callbacks, *([plant] if plant else []), Last(STEPS)]
    pretend(monkeypatch, mode)
    watched = L.Trainer(
        strategy=Strategy(mode), callbacks=callbacks, max_epochs=first + 2, log_every_n_steps=2,
        logger=trainer.loggers, num_sanity_val_steps=0, enable_progress_bar=False,
        gradient_clip_val=config.training.gradient_clip, use_distributed_sampler=False,
        accumulate_grad_batches=config.training.accumulate, enable_model_summary=False,
    )  # fmt: skip
    progress = watched.fit_loop.epoch_progress.current
    progress.processed = progress.completed = first
    with pytest.raises(Enough):
        watched.fit(run.module, datamodule=run.data)
    return mode, run.module


def shrink(experiment: str) -> list[str]:
    """Return words that make an experiment's steps small and offline, with random weights."""
    config = compose([f"exp={experiment}", "data=shapes"])
    words = [
        f"exp={experiment}",
        "data=shapes",
        f"data.classes={2 if config.data.size == 150 else 5}",
    ]
    words += ["training.batch_size=4", "data.pictures=100"]
    if config.model.name != "scratch":
        words += shrink_network(config.model.name)
    return words


EXPERIMENTS = list_groups()["experiment"]
# those that differ in what happens in a step; the others in the network's layers or the images
STORED = (
    "features_vgg16", "finetune_inception_v3", "finetune_timm", "finetune_vgg16", "finetune_vit",
    "modern_timm",
    "probe_dinov2", "reproduce/inception_v3_flowers", "reproduce/vgg16_features",
    "reproduce/vgg16_finetune",
)  # fmt: skip
QUICK = (
    "scratch",
    "multi_label",
    "finetune_vgg16",
    "finetune_timm",
    "own",
)


@pytest.mark.parametrize(
    "experiment",
    [pytest.param(e, marks=[] if e in QUICK else [pytest.mark.slow]) for e in EXPERIMENTS],
)
def test_no_step_of_an_experiment_waits(experiment, tmp_path, monkeypatch):
    words, number, phases = shrink(experiment), 0, 1
    while number < phases:
        with monkeypatch.context() as patches:
            home = tmp_path / str(number)
            mode, module = train_pretending(home, patches, words, number)
        phases, phase = len(module.schedule.phases), module.schedule.phases[number]
        assert module.uses_stored_features == (experiment in STORED and not phase.augment)
        assert "convolution" in mode.seen or "addmm" in mode.seen
        assert "convolution_backward" in mode.seen or "mm" in mode.seen
        number += 1


EVERYTHING = [
    "data.augment.rotation_degrees=20", "data.augment.horizontal_flip=true",
    "data.augment.random_resized_crop=[0.5,1]", "data.augment.brightness=0.2",
    "data.augment.contrast=0.2", "data.augment.saturation=0.2", "data.augment.hue=0.1",
    "model.dropout=0.2", "training.gradient_clip=1", "training.class_weights=balanced",
    "training.label_smoothing=0.1", "training.accumulate=2", "data.pictures=200",
    "metrics=[auroc]",
]  # fmt: skip
"""Words of a run with everything that a step can contain."""


OPTIMIZERS, LOSSES = ("adam", "adamw", "sgd", "rmsprop"), {"cross_entropy": 5, "binary": 2}
# each optimizer and each loss; the other pairs of them are slow tests
PAIRS = [
    pytest.param(o, loss, marks=[] if (i + j) % 2 == 0 else [pytest.mark.slow])
    for i, o in enumerate(OPTIMIZERS) for j, loss in enumerate(LOSSES)
]  # fmt: skip


@pytest.mark.parametrize(("optimizer", "loss"), PAIRS)
def test_no_step_with_everything_waits(optimizer, loss, tmp_path, monkeypatch):
    classes = LOSSES[loss]
    words = [*TINY, *EVERYTHING, f"training.loss={loss}", f"data.classes={classes}"]
    mode, _ = train_pretending(tmp_path, monkeypatch, [*words, f"optimizer={optimizer}"])
    fused = {name for name in mode.seen if name.startswith("_fused")}
    assert fused == ({f"_fused_{optimizer}_"} if optimizer != "rmsprop" else set())


class Planted(L.Callback):
    """Does something with the loss of every step."""

    def __init__(self, act):
        self.act = act

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch_idx == STEPS - 2:
            self.act(outputs["loss"], batch["image"])


PLANTS = {
    "item": lambda loss, images: loss.item(),
    "float": lambda loss, images: float(loss),
    "bool": lambda loss, images: bool(loss > 0),
    "tolist": lambda loss, images: images[0, 0, 0].tolist(),
    "mask": lambda loss, images: images[images > 0],
    "assigned mask": lambda loss, images: images.index_put_((images > 0,), loss),
    "nonzero": lambda loss, images: images.nonzero(),
    "masked_select": lambda loss, images: images.masked_select(images > 0),
    "bincount": lambda loss, images: images.long().flatten().bincount(),
    "equal": lambda loss, images: images.equal(images),
    "cpu": lambda loss, images: images.cpu(),
    "copy": lambda loss, images: torch.zeros(()).copy_(loss),
    "tensor": lambda loss, images: torch.tensor([1.0, 2.0], device=images.device),
    "new_tensor": lambda loss, images: images.new_tensor([1.0, 2.0]),
    "as_tensor": lambda loss, images: torch.as_tensor(1.0, device=images.device),
    "numpy": lambda loss, images: torch.from_numpy(np.zeros(3)).to(images.device),
    "list": lambda loss, images: images[[0, 1]],
}


@pytest.mark.parametrize("plant", PLANTS)
def test_what_waits_is_found(plant, tmp_path, monkeypatch):
    with pytest.raises(Waited):
        train_pretending(tmp_path, monkeypatch, TINY, plant=Planted(PLANTS[plant]))
