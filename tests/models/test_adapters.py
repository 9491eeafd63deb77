"""Low-rank adapters: nothing changes at first, the formula holds, merging changes no logits."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.experiment.module import build_module
from convlens.models.adapters import merge_adapters, merge_state

SMALL = ["data.size=16", "model.filters=[4,6,8]", "model.padding=same", "model.batch_norm=true"]
SMALL += ["model.head.hidden=[8]", "training.epochs=null"]
LORA = [*SMALL, "finetune=lora", "finetune.lora.targets=[block2.conv,block3.conv]"]
LORA += ["finetune.lora.rank=3", "finetune.lora.alpha=5"]
SPEC = {"rank": 3, "alpha": 5, "dropout": 0.0, "targets": ["block2.conv", "block3.conv"]}


def build(words: list[str]):
    return build_module(compose(words), list("abcde"))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture
def adapted():
    """A network with adapters that have learned something, in float64."""
    pytest.importorskip("peft", reason="needs the extra peft")
    module = build(LORA).double().eval()
    for name, parameter in module.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return module


def test_adapters_change_nothing_at_first(images):
    pytest.importorskip("peft", reason="needs the extra peft")
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
    merged = merge_state(state, SPEC, "best.ckpt")
    assert merged.keys() == by_hand.keys()
    plain.model.load_state_dict(merged)
    torch.testing.assert_close(plain(images), expected, rtol=0, atol=1e-9)
    merge_adapters(adapted.model)
    assert adapted.model.state_dict().keys() == by_hand.keys()
    torch.testing.assert_close(adapted(images), expected, rtol=0, atol=1e-9)


def test_only_the_groups_of_a_phase_are_trained():
    pytest.importorskip("peft", reason="needs the extra peft")
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


VIT = ["exp=scratch_vit", "model=timm", "model.weights=none", "data.size=16", "finetune=lora"]
VIT += [f"model.options.{word}" for word in ("patch_size=8", "embed_dim=16", "depth=2")]
VIT += ["model.options.num_heads=2", "training.epochs=null"]


def test_dense_layers_of_attention_get_adapters(images):
    """The layers' outputs against the formula, by hooks, in a network that is otherwise itself."""
    pytest.importorskip("peft", reason="needs the extra peft")
    module = build([*VIT, "model.name=vit_tiny_patch16_224"]).double().eval()
    adapted = [path for path, each in module.model.named_modules() if hasattr(each, "lora_A")]
    wanted = {f"backbone.blocks.{n}.attn.{name}" for n in (0, 1) for name in ("qkv", "proj")}
    assert set(adapted) == wanted
    for name, parameter in module.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    seen = []
    for path in adapted:
        layer = module.model.get_submodule(path)
        layer.register_forward_hook(lambda layer, inputs, out: seen.append((layer, *inputs, out)))
    with torch.no_grad():
        expected = module(images)
        for layer, values, out in seen:
            down, up = (each["default"].weight for each in (layer.lora_A, layer.lora_B))
            by_hand = layer.base_layer(values) + 16 / 8 * (values @ down.T) @ up.T
            torch.testing.assert_close(out, by_hand, rtol=0, atol=1e-12)
        merge_adapters(module.model)
        torch.testing.assert_close(module(images), expected, rtol=0, atol=1e-9)
    assert len(seen) == len(adapted)


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "eva02_tiny_patch14_224"])
def test_an_adapter_that_would_do_nothing_is_refused(name):
    """These networks read the weights of ``qkv`` without calling it."""
    pytest.importorskip("peft", reason="needs the extra peft")
    words = [*VIT, f"model.name={name}"]
    if name.startswith("eva"):  # its projections are separate layers, and are called
        words += ["model.options.qkv_fused=true"]
    with pytest.raises(UserError, match="reads the weights of .*blocks.0.attn.qkv without"):
        build(words)


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        UserError, match=r"finetune=lora needs peft .*: pip install 'convlens\[peft"
    ):
        build(LORA)


def test_a_checkpoint_whose_adapters_do_not_fit_is_refused(adapted):
    state = dict(adapted.model.state_dict())
    for spec in (None, {"rank": 3}, {**SPEC, "rank": 0}, {**SPEC, "alpha": "x"}):
        with pytest.raises(UserError, match="best.ckpt: its adapters do not fit"):
            merge_state(state, spec, "best.ckpt")
    del state["backbone.block2.conv.lora_A.default.weight"]
    with pytest.raises(UserError, match="best.ckpt: its adapters do not fit"):
        merge_state(state, SPEC, "best.ckpt")
