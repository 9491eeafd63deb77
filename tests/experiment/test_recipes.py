"""Runs with MixUp, CutMix, RandAugment and averaged weights: killed, resumed, evaluated, explained.

``test_unchanged.py`` and ``test_ddp.py`` show that looking changes nothing and that two processes
draw the same.
"""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import convlens
from convlens.cli.main import main
from convlens.config.checks import restore_config
from convlens.core.errors import UserError
from convlens.experiment.data import build_data
from convlens.experiment.networks import restore_module
from convlens.training.metrics import EpochMetrics
from convlens.training.survival.checkpoint import read_checkpoint
from convlens.training.survival.interruption import Interruption
from support.lively import kill_group, logged, results, start, table, wait_for
from support.same import assert_maps_of_the_checkpoint, assert_same, trained
from support.tiny import RANDOM_ATTENTION, TINY, TINY_VIT, TWO_UNFREEZES

COMMON = ["training.epochs=3", "callbacks=none", "data.augment.rotation_degrees=20"]
WORDS = [*TINY, "model.batch_norm=true", "model.dropout=0.2", *COMMON]
AVERAGE = ["training.ema=0.9", "training.validations=2"]
MIXED = ["data.augment.mixup=0.4", "data.augment.cutmix=1"]
KINDS = {
    "mixup": ["data.augment.mixup=0.4"],
    "cutmix": ["data.augment.cutmix=1"],
    "rand_augment": ["data.augment.policy=rand_augment"],
    "ema": AVERAGE,
    "swa": ["training.swa=2", "training.validations=2"],
    "all": [
        *MIXED, *AVERAGE, "data.augment.policy=trivial_augment", "data.augment.erasing=0.3",
        "training.sampler=balanced", "training.accumulate=2", "training.class_weights=balanced",
        "optimizer=timm", "optimizer.name=muon", "training.gradient_clip=1",
    ],
    "focal": [*MIXED, "training.loss=focal", "optimizer=timm", "optimizer.name=lamb"],
    "attention": [*RANDOM_ATTENTION, "training.ema=0.9"],
}  # fmt: skip
BASES = {"attention": [*TINY_VIT, *COMMON]}


def train(home: Path, *words: str, base: list[str] = WORDS) -> Path:
    assert main(["train", f"run_dir={home}", *base, *words]) == 0
    return home


def assert_ends_alike(one: Path, other: Path) -> None:
    for which in ("last", "best"):
        assert_same(trained(one, which), trained(other, which))
    assert table(one) == table(other)
    assert results(one) == results(other)


# ------------------------------------------------------------------------------------ kill it


@pytest.mark.parametrize(
    "kind",
    [
        k if k in ("ema", "all", "attention") else pytest.param(k, marks=pytest.mark.slow)
        for k in KINDS
    ],
)
@pytest.mark.parametrize("place", [(1, 3), pytest.param((1, 5), marks=pytest.mark.slow)])
def test_a_run_stopped_amid_an_epoch_and_resumed_ends_with_the_same_bits(
    tmp_path, monkeypatch, kind, place
):
    """Place: the epoch, and the batch after which a signal stops it; some batches validate."""
    base = BASES.get(kind, WORDS)
    alone = train(tmp_path / "alone", *KINDS[kind], base=base)
    real = Interruption.on_train_batch_start

    def stop(callback, trainer, module, batch, number) -> None:
        real(callback, trainer, module, batch, number)
        if (trainer.current_epoch, number) == place:
            os.kill(os.getpid(), signal.SIGTERM)

    home = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "on_train_batch_start", stop)
        assert main(["train", f"run_dir={home}", *base, *KINDS[kind]]) == 143
    assert (home / "checkpoints" / "stopped.ckpt").exists()
    assert main(["resume", f"run={home}"]) == 0
    assert_ends_alike(alone, home)


def test_a_run_stopped_during_a_validation_keeps_both_weights(tmp_path, monkeypatch):
    words = [*KINDS["ema"], *MIXED, "training.eval_batch_size=3"]
    alone = train(tmp_path / "alone", *words)
    real = Interruption.on_validation_batch_end

    def stop(callback, trainer, *args) -> None:
        if trainer.current_epoch == 1 and not callback.signal_number:
            os.kill(os.getpid(), signal.SIGTERM)
        real(callback, trainer, *args)

    home = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "on_validation_batch_end", stop)
        assert main(["train", f"run_dir={home}", *WORDS, *words]) == 143
    assert main(["resume", f"run={home}"]) == 0
    assert_ends_alike(alone, home)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_kill_9_and_resume_end_with_the_same_bits(tmp_path, kind):
    words, base = [*KINDS[kind], "training.steps_per_epoch=100"], BASES.get(kind, WORDS)
    alone = train(tmp_path / "alone", *words, base=base)
    home, cache = tmp_path / "killed", Path(os.environ["CONVLENS_CACHE"])
    process = start(["train", f"run_dir={home}", *base, *words], cache)
    wait_for(process, logged(home, "epoch 1/"))
    kill_group(process)
    assert not (home / "summary.json").exists()
    assert main(["resume", f"run={home}"]) == 0
    assert_ends_alike(alone, home)


def test_a_schedule_with_stored_features_and_an_average_is_resumed(tmp_path):
    """In the first phase nothing is augmented: features are stored, and nothing is mixed."""
    words = [*TWO_UNFREEZES, *MIXED, "training.ema=0.9", "data.augment.policy=rand_augment"]
    alone = train(tmp_path / "alone", *words)
    home = train(tmp_path / "half", *words, "training.epochs=3")
    assert main(["resume", f"run={home}", "training.epochs=null"]) == 0
    assert_same(trained(alone), trained(home))
    log = (alone / "train.log").read_text()
    assert log.count("features of") >= 2


# ------------------------------------------------------------------- what the average changes


def test_averaging_changes_nothing_of_the_training(tmp_path):
    """The trained weights and the optimizer are those of a run without it, to the bit."""
    words = [*KINDS["all"], "data.augment.horizontal_flip=true"]
    plain = trained(train(tmp_path / "plain", *words, "training.ema=null"))
    averaged = trained(train(tmp_path / "averaged", *words))
    kept = averaged["average"]["weights"]
    assert set(kept) < {name.removeprefix("model.") for name in plain["weights"]}
    for name, value in kept.items():
        assert torch.equal(value, plain["weights"][f"model.{name}"]), name
    assert_same(plain["optimizer"], averaged["optimizer"])
    assert plain["average"] is None
    changed = [n for n, v in kept.items() if not torch.equal(v, averaged["weights"][f"model.{n}"])]
    assert "head.logits.weight" in changed and "backbone.block1.norm.running_mean" in changed


def evaluate(module, data) -> dict[str, float]:
    """The results on the validation images, in one batch."""
    (batch,) = data.evaluation_loader("validation")
    batch, metrics = data.finish(batch), EpochMetrics(module.class_names, detailed=True)
    with torch.no_grad():
        logits = module.eval()(batch["image"])
        metrics.update(module.objective(logits, batch["label"]), logits, batch["label"])
    return metrics.compute()


def test_the_average_is_evaluated_explained_and_saved(tmp_path):
    looks = ["callbacks=default", "callbacks.budget=1", "looking.seconds=100", "training.ema=0.95"]
    looks += ["optimizer.lr=0.03"]
    looks += [f"callbacks.{name}=null" for name in ("filter_visuals", "occlusion_maps", "scores")]
    home = train(tmp_path / "run", *looks)
    content = read_checkpoint(home / "checkpoints" / "last.ckpt")
    module = restore_module(content, "the checkpoint")
    data = build_data(config_of(content))
    found = evaluate(module, data)
    assert found["loss"] == pytest.approx(float(table(home)[-1]["val/loss"]), rel=1e-5)
    module.model.load_state_dict(content["convlens_average"]["weights"], strict=False)
    assert abs(evaluate(module, data)["loss"] - found["loss"]) > 1e-3
    # the maps of the last look are those of the saved network, and its probabilities too
    assert_maps_of_the_checkpoint(home, epoch=3)


def config_of(content: dict):
    return restore_config(content["hyper_parameters"]["config"], "the checkpoint")


def test_the_run_says_that_the_average_answers(tmp_path):
    home = train(tmp_path / "run", "training.ema=0.95", "training.epochs=1")
    said = "moving average of the weights, decay 0.95; it is evaluated, explained and saved"
    assert said in (home / "train.log").read_text()


# ------------------------------------------------------------------------ test-time augmentation


@pytest.mark.parametrize("loss", ["cross_entropy", "binary"])
def test_flipped_images_are_averaged_in_eval(tmp_path, capsys, loss):
    words = [f"training.loss={loss}", "data.classes=2", "data.augment.horizontal_flip=false"]
    home = train(tmp_path / "run", *words, "training.epochs=1")
    file = home / "checkpoints" / "best.ckpt"
    before = (home / "summary.json").read_bytes()
    assert main(["eval", f"ckpt={file}", "tta=flip"]) == 0
    folder = home / "evaluation" / "best_flip"
    results = json.loads((folder / "results.json").read_text())
    assert results["tta"] == "flip" and (home / "summary.json").read_bytes() == before
    explainer = convlens.load(file, device="cpu")
    data = build_data(config_of(read_checkpoint(file)))
    (batch,) = data.test_dataloader()
    batch = data.finish(batch)
    both = [explainer.probabilities(batch["image"].flip(dims)) for dims in ((), (3,))]
    mean = sum(both) / 2
    with open(folder / "predictions.csv", newline="") as file_:
        written = list(csv.DictReader(file_))
    for row, expected in zip(written, mean, strict=True):
        given = [float(row[f"probability/{name}"]) for name in explainer.class_names]
        np.testing.assert_allclose(given, expected.numpy(), atol=1e-5)
    right = (mean.argmax(1) == batch["label"]).float().mean()
    assert results["test"]["accuracy"] == pytest.approx(float(right))
    assert not torch.allclose(*both)
    assert main(["eval", f"ckpt={file}"]) == 0
    plain = json.loads((home / "evaluation" / "best" / "results.json").read_text())
    assert plain["tta"] is None
    assert plain["test"] == pytest.approx(json.loads(before)["test"], rel=1e-5)


def test_another_test_time_augmentation_is_refused():
    from convlens.cli.eval import run as evaluate

    with pytest.raises(UserError, match="tta=rotate: expected flip"):
        evaluate(["ckpt=a.ckpt", "tta=rotate"])


# --------------------------------------------------------------------------- labels under mixing


def test_mistakes_and_validation_of_a_mixed_run_are_those_of_whole_images(tmp_path):
    """What validation counts comes from images and labels that nothing has mixed."""
    home = train(tmp_path / "run", *KINDS["all"], "training.validations=1")
    content = read_checkpoint(home / "checkpoints" / "last.ckpt")
    module, data = restore_module(content, "the checkpoint"), build_data(config_of(content))
    found = evaluate(module, data)
    last = table(home)[-1]
    for name in ("loss", "accuracy", "balanced_accuracy"):
        assert float(last[f"val/{name}"]) == pytest.approx(found[name], rel=1e-5)
    assert 0 < float(last["train/accuracy"]) < 1
