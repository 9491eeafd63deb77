"""The diary of whole runs: true of the logits that trained, free of effects, safe to interrupt."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from convlens.cli.main import main
from convlens.training import ClassifierModule
from convlens.training.diary import keeper
from convlens.training.diary.diary import Diary
from support.apart import ends
from support.apart import train as train_apart
from support.lively import differences
from support.same import assert_same, trained
from support.tiny import TINY

CLASSES = ["disc", "triangle", "square", "star", "ring"]
QUIET = ["callbacks=none", "logger.tensorboard=false"]
GROUPS = "finetune.groups={head: head, base: backbone}"
STORED = [GROUPS, "finetune.phases=[{epochs: 3, train: [head], lr: 0.01, augment: false}]"]
CASES = {
    "augmented": ["data.augment.rotation_degrees=20", "model.dropout=0.2"],
    "stored_features": [*STORED, "cache_features=always", "training.epochs=null"],
    "balanced_and_accumulated": ["training.sampler=balanced", "training.accumulate=2"],
    "mixed": ["data.augment.mixup=0.4", "data.augment.cutmix=1.0"],
    "several_classes": ["exp=multi_label"],
}


def train(home: Path, *words: str) -> Path:
    assert main(["train", f"run_dir={home}", *TINY, *QUIET, "training.epochs=3", *words]) == 0
    return home


def read(home: Path) -> list[dict]:
    with open(home / "diary.csv", encoding="utf-8") as table:
        return list(csv.DictReader(table))


@pytest.mark.parametrize("case", CASES)
def test_weights_unchanged_by_the_diary_which_is_true_of_the_logged_logits(
    case, tmp_path, monkeypatch
):
    """By numpy, one presentation after the other, from what the training step computed."""
    logged: dict[str, list[tuple]] = {}
    take = Diary.take

    def note(self, logits, batch, number):
        target = batch.get("target", torch.zeros(len(logits)))
        logits = logits.detach()
        for row, z, label, mixed in zip(batch["row"], logits, batch["label"], target, strict=True):
            name = self.names[int(row)]
            logged.setdefault(name, []).append((z.double().numpy(), label.numpy(), mixed.numpy()))
        take(self, logits, batch, number)

    monkeypatch.setattr(Diary, "take", note)
    kept = train(tmp_path / "kept", *CASES[case])
    rows = read(kept)
    assert {row["file"] for row in rows} >= logged.keys()
    for row in rows:
        seen = logged.get(row["file"], [])
        assert int(row["seen"]) == len(seen)
        if not seen:
            assert row["aum"] == ""
            continue
        margins, shares = [], []
        for z, label, mixed in seen:
            if case == "several_classes":
                k = CLASSES.index(row["class"])
                assert bool(label[k]) == (row["labelled"] == "present")
                margins.append(z[k] if label[k] else -z[k])
            else:
                margins.append(z[label] - np.delete(z, label).max())
            shares.append(mixed[label] if case == "mixed" else 1.0)
        aum = np.average(margins, weights=shares)
        assert float(row["aum"]) == pytest.approx(aum, rel=1e-4, abs=1e-5)
        clear = [m > 0 for m, s in zip(margins, shares, strict=True) if s >= 0.5]
        assert int(row["right"]) == sum(clear)
        events = sum(before and not now for before, now in pairwise(clear))
        assert int(row["forgotten"]) == events
        if case == "mixed":
            assert float(row["share"]) == pytest.approx(np.mean(shares), rel=1e-4)
    aums = [float(row["aum"]) for row in rows if row["aum"]]
    assert aums == sorted(aums)  # the most suspicious first
    none = train(tmp_path / "none", *CASES[case], "diary=null")
    assert_same(trained(kept), trained(none))
    assert not (none / "diary.csv").exists()


def test_stopped_amid_an_epoch_and_resumed_it_is_the_same_to_the_byte(tmp_path, monkeypatch):
    words = CASES["augmented"]
    whole = train(tmp_path / "whole", *words)
    step, calls = ClassifierModule.training_step, []

    def fire(self, batch, number):
        calls.append(number)
        if len(calls) == 9:  # of six steps in an epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierModule, "training_step", fire)
        words = [*TINY, *QUIET, "training.epochs=3", *words]
        assert main(["train", f"run_dir={tmp_path / 'cut'}", *words]) == 128 + signal.SIGTERM
    assert (tmp_path / "cut" / "checkpoints" / "stopped.ckpt").exists()
    assert main(["resume", f"run={tmp_path / 'cut'}"]) == 0
    assert not differences(whole, tmp_path / "cut")
    assert (whole / "diary.csv").read_bytes() == (tmp_path / "cut" / "diary.csv").read_bytes()
    kept = [
        torch.load(home / "checkpoints" / "last.ckpt", weights_only=True)["convlens_diary"]
        for home in (whole, tmp_path / "cut")
    ]
    assert_same(*kept)
    assert kept[0]["epoch"] == 3


def test_rows_of_each_epoch_add_up_to_the_table(tmp_path):
    home = train(tmp_path / "run", "diary.rows=true")
    epochs = [load_file(home / "diary" / f"epoch_{n:03d}.safetensors") for n in (1, 2, 3)]
    sums: dict[int, float] = {}
    for found in epochs:
        for row, margin in zip(found["row"].tolist(), found["margin"].tolist(), strict=True):
            sums[row] = sums.get(row, 0.0) + margin
    for row in read(home):
        number = int(row["file"].rpartition("/")[2])
        assert float(row["aum"]) == pytest.approx(sums[number] / 3, rel=1e-4, abs=1e-6)


def test_a_full_disk_costs_the_table_and_not_the_training(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(keeper, "write_table", fail)
        home = train(tmp_path / "run", "scheduler=constant")
    assert not (home / "diary.csv").exists()
    warned = "diary.csv is not of the last epoch (No space left on device): free disk space"
    assert (home / "train.log").read_text().count(warned) == 1
    (line,) = json.loads((home / "summary.json").read_text())["failures"]
    assert line.endswith("diary.csv is not of the last epoch (No space left on device)")
    assert main(["resume", f"run={home}", "training.epochs=4"]) == 0
    assert [row["seen"] for row in read(home)] == ["4"] * 44  # the checkpoint had all of it


@pytest.mark.parametrize("kept", [None, {}, {"epoch": "x"}, {"epoch": 1, "margin": "x"}, [1]])
def test_a_checkpoint_without_a_usable_diary_is_resumed_and_says_so(kept, whole, tmp_path):
    home = shutil.copytree(whole, tmp_path / "run")
    file = home / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    content["convlens_diary"] = kept
    torch.save(content, file)
    assert main(["resume", f"run={home}", "training.epochs=4"]) == 0
    said = (home / "train.log").read_text()
    assert "has no diary of these images: diary.csv begins after epoch 3" in said
    assert {row["seen"] for row in read(home)} == {"1"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("whole") / "run", "scheduler=constant")


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], CASES["mixed"]], ids=["plain", "mixed"])
def test_ddp_of_two_keeps_the_diary_of_one_process(tmp_path, more):
    """Batches of 7 of 60 images: some batches do not divide evenly."""
    words = [*QUIET, "precision=64", "training.epochs=2", "training.batch_size=7", *more]
    words += ["model.batch_norm=false"]  # its statistics are those of each process
    train_apart(tmp_path / "one", *words)
    train_apart(tmp_path / "two", *words, "trainer=ddp_cpu")
    assert len(ends(tmp_path / "two")) == 2
    one, two = (
        torch.load(tmp_path / name / "run" / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("one", "two")
    )
    assert one["convlens_diary"].keys() == two["convlens_diary"].keys()
    for name, value in one["convlens_diary"].items():
        found = two["convlens_diary"][name]
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(found, value, rtol=0, atol=1e-9, msg=name)
        else:
            assert found == value
    assert one["convlens_diary"]["seen"].tolist() == [2] * 44
    for name, value in one["convlens_suspects"].items():  # of the eight validation images
        found = two["convlens_suspects"][name]
        torch.testing.assert_close(found, value, rtol=0, atol=1e-9, msg=name)
