"""Looking changes nothing: the trained weights are the same bits with all callbacks and with none.

Whatever could be disturbed has a case of its own.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from convlens.cli.main import main
from support.apart import differences, ends
from support.apart import train as train_apart
from support.same import assert_same
from support.same import trained as read_trained
from support.tiny import ALL, RANDOM_ATTENTION, TINY, TINY_VIT, TWO_UNFREEZES

DROPOUT = ["model.dropout=0.3", "model.head.dropout=0.5", "data.augment.rotation_degrees=20"]
CASES = {
    "scratch_with_dropout": DROPOUT,
    "batch_norm": ["model.batch_norm=true", "data.augment.horizontal_flip=true"],
    "accumulation_and_validation_in_mid_epoch": [
        *DROPOUT, "model.batch_norm=true", "training.accumulate=4", "training.validations=2",
    ],
    "bf16": [*DROPOUT, "model.batch_norm=true", "precision=bf16"],
    # phases of one epoch instead of two
    "two_unfreezes": [
        word.replace("epochs: 2,", "epochs: 1,").replace("warmup_epochs: 1}", "warmup_epochs: 0.5}")
        for word in TWO_UNFREEZES
    ],
    "mixing_policy_and_average": [
        *DROPOUT, "model.batch_norm=true", "training.ema=0.9", "training.validations=2",
        "data.augment.policy=rand_augment", "data.augment.erasing=0.3", "data.augment.mixup=0.4",
        "data.augment.cutmix=1", "training.sampler=balanced",
    ],
    "attention": RANDOM_ATTENTION,
}  # fmt: skip
BASES = {"attention": TINY_VIT}
ATTENTION = ("LeGrad", "AttentionMaps", "AttentionScores")  # which only transformers have


def trained(home: Path, words: list[str], base: list[str]) -> dict:
    """What a run in this process leaves: weights, buffers, their average, the optimizer's state."""
    # a second run in one process would be compiled for sizes that vary: other last bits, also
    # between two runs that do not look
    torch._dynamo.reset()
    assert main(["train", f"run_dir={home}", *base, "training.epochs=2", *words]) == 0
    return read_trained(home)


def looked(home: Path, *others: str) -> None:
    """The run did look, with everything, and nothing failed."""
    summary = json.loads((home / "summary.json").read_text())
    assert not summary["failures"]
    assert set(summary["explaining"]) == {
        "GradCam", "Scores", "Mistakes", "ConfusionMatrix", "DataDiary", "ClassMeans",
        "LayerChanges", "FeatureSpace", "Shortcuts", "Slices", "ActivationGrids", "OcclusionMaps",
        "FilterVisuals", "AugmentationPreview", "LearningCurves", "Reliability",
        "Attribution (integrated_gradients)", *others,
    }  # fmt: skip
    assert list((home / "explanations" / "epoch_001").rglob("*.jpg"))


def check(tmp_path: Path, words: list[str], base: list[str] = TINY) -> None:
    seen = trained(tmp_path / "on", [*words, *ALL], base)
    looked(tmp_path / "on", *(ATTENTION if base == TINY_VIT else ()))
    assert_same(seen, trained(tmp_path / "off", [*words, "callbacks=none"], base))


@pytest.mark.parametrize("case", CASES)
def test_weights_unchanged_by_looking_with(case, tmp_path):
    check(tmp_path, CASES[case], BASES.get(case, TINY))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_weights_unchanged_by_looking_with_torch_compile(tmp_path):
    check(tmp_path, [*DROPOUT, "model.batch_norm=true", "training.compile=true"])


@pytest.mark.slow
def test_weights_unchanged_by_looking_with_two_processes_ddp(tmp_path):
    words = [*DROPOUT, "model.batch_norm=true", "training.epochs=2", "trainer=ddp_cpu"]
    train_apart(tmp_path / "on", *words, *ALL)
    looked(tmp_path / "on" / "run")
    train_apart(tmp_path / "off", *words, "callbacks=none")
    for seen, unseen in zip(ends(tmp_path / "on"), ends(tmp_path / "off"), strict=True):
        assert not differences(seen["state"], unseen["state"])
        assert_same(seen["optimizer"], unseen["optimizer"])
