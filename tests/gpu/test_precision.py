"""``precision: auto`` on a GPU: native bf16 is known, and large networks take it unmeasured."""

from __future__ import annotations

import torch

from convlens.config.compose import compose
from convlens.experiment import devices
from convlens.experiment.module import build_module
from convlens.training.precision import has_native_bf16

GPU = torch.device("cuda")


def test_native_bf16_is_that_of_the_compute_capability():
    assert has_native_bf16(GPU) == (torch.cuda.get_device_capability() >= (8, 0))


def test_a_large_network_takes_bf16_without_timing_a_step(monkeypatch):
    monkeypatch.setattr(devices, "time_steps", None)
    words = ["exp=finetune_vgg16", "data=shapes", "data.size=150", "training.batch_size=32"]
    config = compose([*words, "model.weights=none", "trainer=gpu"])
    module = build_module(config, list("abcde"))
    chosen, reason = devices.resolve_precision(config, module, lambda: 1000)
    assert chosen == ("bf16" if has_native_bf16(GPU) else "32")
    assert ("billion multiply-adds" in reason) == (chosen == "bf16")
