"""On a GPU: one seed gives one result, looking changes nothing, a killed run resumes exactly."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from convlens.cli.main import main
from support.tiny import TWO_UNFREEZES

ON_GPU = [
    "data.pictures=100", "data.size=32", "model.filters=[8,16]", "model.padding=same",
    "model.head.hidden=[16]", "model.batch_norm=true", "model.dropout=0.2",
    "model.head.dropout=0.3", "training.batch_size=8", "trainer=gpu", "probes.count=3",
    "data.augment.rotation_degrees=20", "data.augment.horizontal_flip=true",
    "data.augment.brightness=0.2",
]  # fmt: skip
"""A short run of ``shapes`` with everything that draws random numbers."""
FULL = ["training.epochs=3", "scheduler=cosine", "scheduler.warmup_epochs=0.5"]


def read_weights(home: Path, which: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(home / "checkpoints" / f"{which}.ckpt", weights_only=True)["state_dict"]


def assert_same(one: Path, other: Path) -> None:
    """Assert that two runs kept the same weights and wrote the same metrics, but for seconds."""
    for which in ("last", "best"):
        first, second = read_weights(one, which), read_weights(other, which)
        assert first.keys() == second.keys()
        assert not [name for name in first if not torch.equal(first[name], second[name])]
    rows = [
        [line.split(",")[:-1] for line in (home / "metrics.csv").read_text().splitlines()]
        for home in (one, other)
    ]
    assert rows[0] == rows[1]


def train(home: Path, *words: str) -> Path:
    assert main(["train", f"run_dir={home}", *ON_GPU, *words]) == 0
    return home


def kill_in_epoch(home: Path, epoch: int, *words: str) -> None:
    """Start a run in its own process, and ``kill -9`` it during ``epoch`` (from 1)."""
    command = [sys.executable, "-m", "convlens", "train", f"run_dir={home}", *ON_GPU, *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = home / "train.log"
    try:
        for _ in range(2400):
            if log.exists() and f"epoch {epoch - 1}/" in log.read_text():
                break
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.05)
        time.sleep(0.2)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (home / "summary.json").exists()


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_runs_repeat_and_looking_changes_nothing(tmp_path, precision):
    words = [*FULL, f"precision={precision}"]
    once = train(tmp_path / "once", *words)
    assert (once / "explanations" / "epoch_003").is_dir()
    assert_same(once, train(tmp_path / "again", *words))
    blind = train(tmp_path / "blind", *words, "callbacks=none")
    for which in ("last", "best"):
        one, other = read_weights(once, which), read_weights(blind, which)
        assert not [name for name in one if not torch.equal(one[name], other[name])]
    moved = train(tmp_path / "other", *words, "callbacks=none", "seed=1")
    one, other = read_weights(blind), read_weights(moved)
    assert [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize(
    "words",
    [
        [*FULL, "training.steps_per_epoch=150", "precision=bf16"],
        [*TWO_UNFREEZES, "training.steps_per_epoch=80", "precision=32", "optimizer=adam"],
        [*FULL, "training.steps_per_epoch=150", "precision=bf16", "training.compile=true"],
    ],
    ids=["plain", "unfreezing", "compiled"],
)
def test_a_killed_run_resumes_to_the_same_end(tmp_path, words):
    words = [*words, "callbacks=none"]
    alone = train(tmp_path / "alone", *words)
    kill_in_epoch(tmp_path / "killed", 3, *words)
    assert main(["resume", f"run={tmp_path / 'killed'}"]) == 0
    assert_same(alone, tmp_path / "killed")


@pytest.mark.parametrize("kind", ["true", "graphs"])
def test_compiled_runs_repeat_and_looking_changes_nothing(tmp_path, kind):
    """The last batch of an epoch is smaller; the run ends near one that is not compiled."""
    words = [*FULL, "precision=bf16", f"training.compile={kind}"]
    once = train(tmp_path / "once", *words)
    assert_same(once, train(tmp_path / "again", *words))
    one, other = read_weights(once), read_weights(train(tmp_path / "b", *words, "callbacks=none"))
    assert not [name for name in one if not torch.equal(one[name], other[name])]
    train(tmp_path / "plain", *FULL, "precision=bf16", "training.compile=false", "callbacks=none")
    losses = [
        json.loads((tmp_path / name / "summary.json").read_text())["train"]["loss"]
        for name in ("once", "plain")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_compiled_finetuning_trains_its_frozen_phase_without_compiling(tmp_path):
    words = [*TWO_UNFREEZES, "precision=32", "training.compile=true"]
    assert_same(train(tmp_path / "one", *words), train(tmp_path / "two", *words))


def test_kernels_that_are_not_deterministic_train(tmp_path, capsys):
    home = train(tmp_path / "run", *FULL, "training.deterministic=false", "precision=32")
    assert "repeated runs may differ" in capsys.readouterr().out
    kernels = json.loads((home / "summary.json").read_text())["kernels"]
    assert kernels["deterministic"] is False and kernels["tf32"] == "convolutions"


@pytest.mark.parametrize("name", ["vgg16", "inception_v3", "resnet50", "efficientnet_b0"])
def test_known_networks_repeat(tmp_path, name):
    words = ["model.weights=none", "precision=bf16", "data.size=96", "training.batch_size=16"]
    words += ["callbacks=none", "cache_features=never", "data.pictures=100"]
    experiment = f"finetune_{name}" if name in ("vgg16", "inception_v3") else "finetune_timm"
    own = [] if experiment != "finetune_timm" else [f"model.name={name}"]
    words = [f"exp={experiment}", "data=shapes", "trainer=gpu", *words, *own]
    words += ["finetune=none", "training.epochs=2", "data.augment.rotation_degrees=20"]
    for run in ("one", "two"):
        assert main(["train", f"run_dir={tmp_path / run}", *words]) == 0
    assert_same(tmp_path / "one", tmp_path / "two")


def test_a_finetuning_with_stored_features_runs(tmp_path, capsys):
    words = ["exp=finetune_vgg16", "data=shapes", "model.weights=none", "trainer=gpu"]
    words += ["data.pictures=100", "data.size=64", "training.batch_size=8"]
    words += [
        "finetune.phases=[{epochs: 2, train: [head], lr: 1e-3, augment: false},"
        "{epochs: 1, train: [head, last_block], lr: 1e-4, augment: true}]"
    ]
    assert main(["train", f"run_dir={tmp_path / 'run'}", *words]) == 0
    assert "failed" not in capsys.readouterr().out
    assert (tmp_path / "run" / "summary.json").exists()
