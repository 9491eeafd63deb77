"""A run of a vision transformer keeps the promises: resumed, compiled, exported, loaded as data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from convlens.cli.main import main

OPTIONS = "{patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2, drop_path_rate: 0.3}"
WORDS = [
    "data=shapes", "data.pictures=60", "data.size=32", "model=timm", "model.weights=none",
    "model.name=vit_tiny_patch16_224", f"model.options={OPTIONS}", "finetune.phases.0.epochs=1",
    "finetune.phases.1.epochs=2", "training.batch_size=8", "precision=32", "trainer=cpu",
    "probes.count=3", "logger.tensorboard=false",
]  # fmt: skip


def train(home: Path, *words: str) -> Path:
    assert main(["train", f"run_dir={home}", *WORDS, *words]) == 0
    return home


def state(home: Path) -> dict:
    return torch.load(home / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("left_alone") / "run", "callbacks=none")


def test_a_resumed_transformer_ends_with_the_same_bits(left_alone, tmp_path):
    run = train(tmp_path / "run", "callbacks=none", "training.epochs=2")
    assert main(["resume", f"run={run}", "training.epochs=3"]) == 0
    one, other = state(left_alone), state(run)
    assert one["epoch"] == other["epoch"]
    for key, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][key])
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert config["model"]["options"] == yaml.safe_load(OPTIONS)


@pytest.mark.slow
def test_a_transformer_is_watched_and_stays_unchanged(left_alone, tmp_path):
    run = train(tmp_path / "run", "callbacks=all")
    for key, value in state(left_alone)["state_dict"].items():
        assert torch.equal(value, state(run)["state_dict"][key])


@pytest.mark.slow
def test_a_compiled_transformer_ends_near_the_plain_one(left_alone, tmp_path):
    run = train(tmp_path / "run", "callbacks=none", "training.compile=true")
    for key, value in state(left_alone)["state_dict"].items():
        torch.testing.assert_close(state(run)["state_dict"][key], value, atol=1e-3, rtol=1e-2)


@pytest.mark.slow
def test_an_exported_transformer_answers_as_the_run_does(left_alone, tmp_path):
    pytest.importorskip("onnxruntime", reason="comes with the extra `export`")
    pytest.importorskip("onnxscript", reason="comes with the extra `export`")
    best = left_alone / "checkpoints" / "best.ckpt"
    pictures = Path(__file__).parents[1] / "photographs"
    for network in (best, tmp_path / "network.onnx"):
        if network != best:
            assert main(["export", f"ckpt={best}", f"run_dir={tmp_path}"]) == 0
        home = tmp_path / network.suffix
        assert main(["predict", f"ckpt={network}", f"images={pictures}", f"run_dir={home}"]) == 0
    ours, theirs = ((tmp_path / s / "predictions.csv").read_text() for s in (".ckpt", ".onnx"))
    for a, b in zip(ours.splitlines()[1:], theirs.splitlines()[1:], strict=True):
        numbers = [[float(n) for n in line.split(",") if n[:2] == "0."] for line in (a, b)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-4) and len(numbers[0]) >= 5
