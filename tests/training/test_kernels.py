"""A run states its kernels; nothing that the environment set before remains."""

from __future__ import annotations

import json

import pytest
import torch

from convlens.cli.main import main
from convlens.training.kernels import choose_kernels, describe_kernels
from support.tiny import TINY


@pytest.fixture(autouse=True)
def deterministic_again():
    yield
    choose_kernels(deterministic=True)


@pytest.mark.parametrize("deterministic", [True, False])
def test_every_setting_is_set(deterministic):
    torch.use_deterministic_algorithms(not deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = deterministic
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = True
    choose_kernels(deterministic=deterministic)
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert torch.backends.cudnn.benchmark != deterministic
    assert torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert describe_kernels(torch.device("cuda")) == {
        "deterministic": deterministic, "tf32": "convolutions"
    }  # fmt: skip
    assert describe_kernels(torch.device("cpu")) == {"deterministic": deterministic}


@pytest.mark.parametrize("value", [True, False])
def test_a_run_uses_and_records_them(value, at, capsys):
    words = [*TINY, "callbacks=none", "training.epochs=1", "run_dir=run"]
    assert main(["train", *words, f"training.deterministic={str(value).lower()}"]) == 0
    assert torch.are_deterministic_algorithms_enabled() == value
    kernels = json.loads((at / "run" / "summary.json").read_text())["kernels"]
    assert kernels == {"compile": False, "deterministic": value}
    assert ("repeated runs may differ" in capsys.readouterr().out) != value
