"""``optimizer.decayed=matrices``: weight decay leaves out what timm leaves out."""

from __future__ import annotations

import pytest
import timm
import torch

from convlens.config.compose import compose
from convlens.config.schema import OptimizerConfig
from convlens.experiment.module import build_module
from convlens.training.finetune.groups import Group, list_optimizer_groups

NETWORKS = {
    "vit": lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2,
        num_classes=3, reg_tokens=2, init_values=1e-5,
    ),
    "swin": lambda: timm.models.SwinTransformer(
        img_size=32, patch_size=2, window_size=4, embed_dim=16, depths=(1, 1), num_heads=(2, 4)
    ),
    "beit": lambda: timm.models.Beit(
        img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=3
    ),
}  # fmt: skip
MATRICES = OptimizerConfig(name="adamw", lr=0.1, weight_decay=0.05, decayed="matrices")
SMALL = ["data.size=16", "model.filters=[4,6]", "model.padding=same", "model.batch_norm=true"]


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_not_decayed_is_what_timm_leaves_out(name):
    network = NETWORKS[name]()
    everything = Group("model", tuple(name for name, _ in network.named_parameters()))
    ours = list_optimizer_groups([everything], network, MATRICES)
    left_out = network.no_weight_decay()
    theirs = timm.optim.param_groups_weight_decay(network, 0.05, no_weight_decay_list=left_out)
    spared = {id(p) for group in theirs if not group["weight_decay"] for p in group["params"]}
    decayed, plain = ours
    assert {id(p) for p in plain["params"]} == spared and len(spared) > len(left_out) > 0
    assert {id(p) for p in decayed["params"]} == {id(p) for p in network.parameters()} - spared
    assert "weight_decay" not in decayed and plain["weight_decay"] == 0
    assert decayed["name"] == plain["name"] == "model"


def test_by_default_everything_is_decayed():
    network = NETWORKS["vit"]()
    names = tuple(name for name, _ in network.named_parameters())
    (group,) = list_optimizer_groups(
        [Group("model", names)], network, MATRICES.replace(decayed="all")
    )
    assert [id(p) for p in group["params"]] == [id(p) for p in network.parameters()]
    assert set(group) == {"name", "params"}


@pytest.mark.parametrize(
    ("name", "options", "spared"),
    [
        (
            "vit_tiny_patch16_224",
            ["depth=1", "num_heads=2", "patch_size=8"],
            {"embed.cls_token", "embed.pos_embed"},
        ),
        (
            "swin_tiny_patch4_window7_224",
            ["depths=[1,1]", "num_heads=[2,2]", "patch_size=2", "window_size=4"],
            {f"layers.{n}.blocks.0.attn.relative_position_bias_table" for n in (0, 1)},
        ),
    ],
)
def test_a_divided_network_of_timm_still_names_what_is_left_out(name, options, spared):
    words = ["model=timm", f"model.name={name}", "model.weights=none", "data.size=32"]
    words += [f"model.options.{option}" for option in ["embed_dim=16", *options]]
    words += ["optimizer=adamw", "optimizer.decayed=matrices"]
    module = build_module(compose(words), list("abc"))
    groups = module.configure_optimizers().param_groups
    left_out = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    matrices = {name: p for name, p in module.model.named_parameters() if p.ndim > 1}
    found = {name for name, value in matrices.items() if id(value) in left_out}
    assert found == {f"backbone.{name}" for name in spared}


@pytest.mark.parametrize(
    ("optimizer", "factor"),
    [
        ("adamw", 1 - 0.1 * 0.5),
        ("sgd", 1 - 0.1 * 0.5 * 1.9),  # part of the gradient, which Nesterov's momentum 0.9 repeats
        ("timm optimizer.name=lion", 1 - 0.1 * 0.5),
    ],
)
def test_a_step_without_gradient_shrinks_matrices_alone(optimizer, factor):
    words = [*SMALL, *f"optimizer={optimizer}".split(), "optimizer.decayed=matrices"]
    words += ["optimizer.weight_decay=0.5", "scheduler=constant"]
    module = build_module(compose(words), list("abcde"))
    optimizer = module.configure_optimizers()
    for parameter in module.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
        with torch.no_grad():
            parameter.fill_(1.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    for name, parameter in module.model.named_parameters():
        expected = factor if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected), msg=name)
