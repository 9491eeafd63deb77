"""Low-rank adapters: nothing changes at first, the formula holds, merging changes no logits."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convlens.config.compose import compose
from convlens.config.schema import LoraConfig
from convlens.core.errors import UserError
from convlens.experiment.module import build_module
from convlens.models.adapters import add_adapters, merge_adapters, merge_state

SMALL = ["data.size=16", "model.filters=[4,6,8]", "model.padding=same", "model.batch_norm=true"]
SMALL += ["model.head.hidden=[8]", "training.epochs=null"]
LORA = [*SMALL, "finetune=lora", "finetune.lora.targets=[block2.conv,block3.conv]"]
LORA += ["finetune.lora.rank=3", "finetune.lora.alpha=5"]


def build(words: list[str]):
    return build_module(compose(words), list("abcde"))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture
def adapted():
    """A network with adapters that have learned something, in float64."""
    pytest.importorskip("peft")
    module = build(LORA).double().eval()
    for name, parameter in module.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return module


def test_adapters_change_nothing_at_first(images):
    pytest.importorskip("peft")
    plain, adapted = build(SMALL[:-1]).double().eval(), build(LORA).double().eval()
    assert torch.equal(plain(images), adapted(images))


def test_logits_are_those_of_the_formula_and_of_merged_weights(adapted, images):
    """W + alpha / rank · B A, written out for each kernel position."""
    plain = build(SMALL[:-1]).double().eval()
    state = dict(adapted.model.state_dict())
    by_hand = {k: v for k, v in state.items() if "lora" not in k and "base_layer" not in k}
    for block in ("backbone.block2.conv", "backbone.block3.conv"):
        weight = state[f"{block}.base_layer.weight"].clone()
        down, up = (state[f"{block}.lora_{each}.default.weight"] for each in "AB")
        for o in range(weight.shape[0]):
            for r in range(3):
                weight[o] += 5 / 3 * up[o, r, 0, 0] * down[r]
        by_hand[f"{block}.weight"] = weight
    plain.model.load_state_dict(by_hand)
    expected = adapted(images)
    assert not torch.allclose(expected, build(LORA).double().eval()(images), atol=1e-3)
    torch.testing.assert_close(plain(images), expected, rtol=0, atol=1e-9)
    merged = merge_state(state, {"rank": 3, "alpha": 5}, "best.ckpt")
    assert merged.keys() == by_hand.keys()
    plain.model.load_state_dict(merged)
    torch.testing.assert_close(plain(images), expected, rtol=0, atol=1e-9)
    merge_adapters(adapted.model)
    assert adapted.model.state_dict().keys() == by_hand.keys()
    torch.testing.assert_close(adapted(images), expected, rtol=0, atol=1e-9)


def test_only_the_groups_of_a_phase_are_trained():
    pytest.importorskip("peft")
    module = build(LORA)

    def trained() -> set[str]:
        return {name for name, p in module.model.named_parameters() if p.requires_grad}

    names = {name for name, _ in module.model.named_parameters()}
    heads = {name for name in names if name.startswith("head.")}
    assert trained() == heads
    module.enter(module.schedule.phases[1])
    adapters = {name for name in names if ".lora_" in name}
    assert trained() == heads | adapters and len(adapters) == 4


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("[block9.conv]", "the backbone has no block9.conv; did you mean block"),
        ("[onv]", "the backbone has no onv"),
        ("[norm]", "block1.norm is a BatchNorm2d; choose dense layers or conv"),
    ],
)
def test_targets_that_are_no_layers_are_refused(targets, said):
    with pytest.raises(UserError, match=said):
        build([*LORA, f"finetune.lora.targets={targets}"])


class _Reads(nn.Module):
    """Reads the weights of a layer without calling it, as the attention of BEiT does."""

    def __init__(self, width: int):
        super().__init__()
        self.qkv, self.proj = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x):
        return self.proj(F.conv2d(x, self.qkv.weight))


def test_an_adapter_that_would_do_nothing_is_refused():
    pytest.importorskip("peft")
    model = build(SMALL[:-1]).model
    model.backbone.block2.append(_Reads(6))
    spec = LoraConfig(rank=2, alpha=2, dropout=0.0, targets=["proj", "qkv"])
    with pytest.raises(UserError, match="reads the weights of block2.*qkv without calling it"):
        add_adapters(model, spec, torch.zeros(1, 3, 16, 16))


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        UserError, match=r"finetune=lora needs peft .*: pip install 'convlens\[peft"
    ):
        build(LORA)


def test_a_checkpoint_whose_adapters_do_not_fit_is_refused(adapted):
    state = dict(adapted.model.state_dict())
    for spec in (None, {"rank": 0, "alpha": 5}, {"rank": "x", "alpha": 5}):
        with pytest.raises(UserError, match="best.ckpt: its adapters do not fit"):
            merge_state(state, spec, "best.ckpt")
    del state["backbone.block2.conv.lora_A.default.weight"]
    with pytest.raises(UserError, match="best.ckpt: its adapters do not fit"):
        merge_state(state, {"rank": 3, "alpha": 5}, "best.ckpt")
