"""``finetune=lora``: a run with adapters, stopped, resumed, evaluated, explained, exported."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import convlens
from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.experiment.module import build_module
from convlens.experiment.networks import restore_module
from convlens.training.survival.checkpoint import read_checkpoint
from convlens.training.survival.interruption import Interruption
from support.same import assert_maps_of_the_checkpoint, assert_same, trained
from support.tiny import TINY

pytest.importorskip("peft", reason="needs the extra peft")

WORDS = [
    *TINY, "model.batch_norm=true", "model.dropout=0.2", "data.augment.rotation_degrees=20",
    "finetune=lora", "finetune.lora.targets=[block2.conv]", "finetune.lora.rank=2",
    "finetune.lora.dropout=0.2", "finetune.phases.0.epochs=1", "finetune.phases.1.epochs=2",
    "finetune.phases.1.lr={head: 0.01, adapters: 0.1}", "training.epochs=null",
    "callbacks.filter_visuals=null", "callbacks.occlusion_maps=null",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("lora") / "run"
    assert main(["train", f"run_dir={home}", *WORDS]) == 0
    return home


def test_the_base_stays_as_it_was_and_the_adapters_learn(home):
    weights = trained(home)["weights"]
    first = torch.load(home / "checkpoints" / "last.ckpt", weights_only=True)
    assert first["hyper_parameters"]["config"]["finetune"]["lora"]["rank"] == 2
    moved = {n for n, v in weights.items() if "lora_B" in n and bool(v.any())}
    assert moved == {"model.backbone.block2.conv.lora_B.default.weight"}
    fresh = build_module(compose(WORDS), list("abcde")).state_dict()
    for name, value in weights.items():
        if "lora" not in name and ".head." not in name and "normalise" not in name:
            assert torch.equal(value, fresh[name]), name
    assert (home / "train.log").read_text().count("features of") >= 2  # in the first phase


def test_looking_changes_nothing_and_a_stopped_run_ends_with_the_same_bits(
    home, tmp_path, monkeypatch
):
    real = Interruption.on_train_batch_start

    def stop(callback, trainer, module, batch, number) -> None:
        real(callback, trainer, module, batch, number)
        if (trainer.current_epoch, number) == (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)

    other = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "on_train_batch_start", stop)
        assert main(["train", f"run_dir={other}", *WORDS, "callbacks=none"]) == 143
    assert main(["resume", f"run={other}"]) == 0
    for which in ("last", "best"):
        assert_same(trained(home, which), trained(other, which))


def test_maps_of_the_run_are_those_of_the_merged_network(home):
    """The looks explain the network with its adapters, ``explain`` the one that merged them."""
    explainer = assert_maps_of_the_checkpoint(home, epoch=3)
    assert not any("lora" in name for name in explainer.network.state_dict())


def test_every_command_reads_the_checkpoint(home, tmp_path, capsys):
    file = home / "checkpoints" / "best.ckpt"
    assert main(["eval", f"ckpt={file}"]) == 0
    words = ["format=safetensors", f"run_dir={tmp_path / 'file'}"]
    assert main(["export", f"ckpt={file}", *words]) == 0
    # the weights of the run, base and head, start another one without adapters
    plain = [word for word in WORDS if not word.startswith(("finetune", "training.epochs"))]
    words = [f"model.weights={file}", "training.epochs=1", "callbacks=none"]
    assert main(["train", f"run_dir={tmp_path / 'next'}", *plain, *words]) == 0
    assert "weights of an earlier run, base and head" in capsys.readouterr().out


def test_logits_of_the_exported_network_are_those_of_the_one_with_adapters(home):
    file = home / "checkpoints" / "last.ckpt"
    adapted = restore_module(read_checkpoint(file), "the checkpoint").eval()
    explainer = convlens.load(file, device="cpu")
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, found = adapted(images), explainer.network(images)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-6)


def test_plan_counts_what_is_trained(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["plan", *WORDS]) == 0
    said = capsys.readouterr().out
    # A: 2 × (4 · 9), B: 6 × 2
    assert "adapters" in said and " 84 " in said
