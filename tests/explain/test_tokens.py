"""Networks on tokens: maps are put on the grid that the image had, or refused; never guessed.

The references are timm's own ``forward_intermediates`` and Captum's Grad-CAM at an identity that
sees channels first.
"""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from captum.attr import LayerActivation, LayerGradCam, LayerGradientXActivation
from torch import nn

from convlens.explain import (
    activations,
    choose_layers,
    explaining,
    grad_cam,
    gradient_ascent,
    insertion_deletion,
    search_patches,
    unit_effects,
)
from convlens.explain.activations import compute_layer_statistics
from convlens.explain.axes import AxisTracker, Tokens
from convlens.explain.captum_layers import hook_layers, read_outputs
from convlens.explain.embeddings import find_positions, position_similarities
from convlens.explain.feature_map import find_feature_map
from convlens.explain.sanity import parameter_randomisation
from support.explain_networks import field, seeded
from support.token_networks import (
    TINY,
    OwnTransformer,
    double,
    images_of,
    timm_hiera,
    timm_mixer,
    timm_swin,
    timm_vit,
    torchvision_swin,
    torchvision_vit,
)

CLOSE = {"rtol": 0, "atol": 1e-9}
FAMILIES = {
    "vit": (timm_vit, (32, 48)),
    "registers": (lambda: timm_vit(reg_tokens=4, no_embed_class=True), (32, 48)),
    "distilled": (
        lambda: timm.models.VisionTransformerDistilled(img_size=32, patch_size=8, **TINY),
        (32, 32),
    ),
    "rotary": (
        lambda: timm.models.Eva(
            img_size=32, patch_size=8, use_rot_pos_emb=True, num_reg_tokens=2, **TINY
        ),
        (32, 32),
    ),
    "xcit": (lambda: timm.models.Xcit(img_size=32, patch_size=8, **TINY), (32, 32)),
    "cait": (lambda: timm.models.Cait(img_size=32, patch_size=8, **TINY), (32, 32)),
    "swin": (timm_swin, (32, 48)),
    "hiera": (timm_hiera, (64, 96)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_of_blocks_are_those_of_timm_bit_for_bit(family):
    build, size = FAMILIES[family]
    model, images = double(build), images_of(*size)
    with explaining(model), torch.no_grad():  # in the same state, so with the same rounding
        theirs = model.forward_intermediates(images, intermediates_only=True)
    blocks = [info["module"] for info in model.feature_info]
    assert len(blocks) == len(theirs) > 1
    activations(model, images, blocks)  # the tracked pass is rounded in another way
    ours = activations(model, images, blocks).layers
    for block, expected in zip(blocks, theirs, strict=True):
        assert torch.equal(ours[block], expected), block


class ChannelsFirst(nn.Module):
    """A block whose patches pass through ``tap`` as maps ``(B, C, h, w)``."""

    def __init__(self, block: nn.Module, prefix: int, grid: tuple[int, int]):
        super().__init__()
        self.block, self.prefix, self.grid, self.tap = block, prefix, grid, nn.Identity()

    def forward(self, x):
        x = self.block(x)
        maps = self.tap(x[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid))
        return torch.cat([x[:, : self.prefix], maps.flatten(2).transpose(1, 2)], 1)


@pytest.mark.parametrize("pool", ["token", "avg", "map"])
def test_grad_cam_of_blocks_is_captums_on_maps_with_channels_first(pool):
    model = double(timm_vit, global_pool=pool, class_token=pool == "token", reg_tokens=2)
    images, blocks = images_of(32, 48), ["blocks.0", "blocks.1", "blocks.2"]
    found = grad_cam(model, images, torch.tensor([0, 2]), blocks, relu=False).maps
    for number, block in enumerate(blocks):
        other = copy.deepcopy(model)
        wrapped = ChannelsFirst(other.blocks[number], model.num_prefix_tokens, (4, 6))
        other.blocks[number] = wrapped
        theirs = LayerGradCam(other, wrapped.tap).attribute(images, torch.tensor([0, 2]))
        torch.testing.assert_close(found[block][:, 0], theirs.detach()[:, 0], **CLOSE)
    # the class token alone is read from the last block: there Grad-CAM is blank
    assert (found["blocks.2"].abs().max() == 0) == (pool == "token")
    assert found["blocks.1"].abs().max() > 1e-6


@pytest.mark.parametrize(
    ("build", "size", "expected"),
    [
        (timm_vit, (32, 48), "blocks.1"),
        (lambda: timm_vit(depth=2), (32, 48), "blocks.0"),
        (lambda: timm_vit(global_pool="avg", fc_norm=False), (32, 48), "norm"),
        (lambda: timm_vit(global_pool="avg"), (32, 48), "blocks.2"),
        (lambda: timm_vit(global_pool="map", class_token=False), (32, 48), "blocks.2"),
        (FAMILIES["distilled"][0], (32, 32), "blocks.0"),
        (FAMILIES["cait"][0], (32, 32), "blocks.1"),
        (FAMILIES["xcit"][0], (32, 32), "cls_attn_blocks.0"),
        (timm_swin, (32, 48), "norm"),
        (timm_mixer, (32, 32), "norm"),
        (torchvision_vit, (32, 32), "encoder.layers.encoder_layer_1"),
        (torchvision_swin, (32, 32), "permute"),
        (OwnTransformer, (32, 32), "encoder.layers.1.norm2"),
    ],
)
def test_the_default_layer_is_the_last_whose_patches_the_prediction_still_needs(
    build, size, expected
):
    model, images = double(build), images_of(*size)
    assert find_feature_map(model, images) == (expected, "")
    maps = grad_cam(model, images, torch.tensor([1, 1]), [expected], relu=False).maps[expected]
    assert (maps.flatten(1).abs().amax(1) > 0).all()


def test_what_auto_chooses_on_a_transformer():
    model, images = double(timm_vit, depth=2), images_of(32, 48)
    chosen = {
        kind: choose_layers(model, "auto", kind, example=images)
        for kind in ("grad_cam", "activations", "filters")
    }
    assert chosen == {
        "grad_cam": ["blocks.0"],
        "activations": ["patch_embed.proj", "blocks.0", "blocks.1"],
        "filters": ["patch_embed.proj", "blocks.0.mlp.fc1", "blocks.1.mlp.fc1", "head"],
    }


def test_tokens_without_a_place_are_told_from_patches():
    model = double(timm_vit, depth=1, reg_tokens=3)
    images, seen = images_of(32, 48), []
    with hook_layers(model, ["blocks.0"]) as layouts, torch.no_grad():
        output = read_outputs(layouts, images)["blocks.0"]
        maps = layouts.channels_first("blocks.0", output)
        placeless = layouts.prefix("blocks.0", output)
        assert layouts.layout("blocks.0").tokens == Tokens(4, 4, 6)
    assert torch.equal(placeless, output[:, :4].transpose(1, 2))
    assert torch.equal(maps.flatten(2), output[:, 4:].transpose(1, 2))
    # inside the pass, of any axis: queries (B, heads, tokens, width)
    with torch.no_grad(), AxisTracker(images) as tracker:
        module = model.blocks[0].attn.attn_drop
        model.blocks[0].attn.fused_attn = False
        handle = module.register_forward_hook(
            lambda _, args, out: seen.append([tracker.tokens(out, axis) for axis in range(4)])
        )
        model(images)
        handle.remove()
    assert seen == [[None, None, Tokens(4, 4, 6), Tokens(4, 4, 6)]]


def test_effects_and_statistics_of_units_count_the_class_token_too():
    model, images = double(timm_vit), images_of(32, 48)
    layers = ["blocks.1.mlp.fc1", "blocks.2.mlp.fc1"]
    found = unit_effects(model, images, layers, targets=torch.tensor([0, 1]))
    for layer in layers:
        theirs = LayerGradientXActivation(model, model.get_submodule(layer))
        products = theirs.attribute(images, torch.tensor([0, 1]))
        torch.testing.assert_close(found[layer], products.sum(1).detach(), **CLOSE)
    act = "blocks.1.mlp.act"
    raw = LayerActivation(model, model.get_submodule(act)).attribute(images)
    numbers = compute_layer_statistics(model, [images], [act])[act]
    torch.testing.assert_close(numbers.sparsity, (raw <= 0).double().mean((0, 1)).float())
    with torch.no_grad():  # a unit that only answers the class token is not dead
        model.blocks[1].mlp.fc1.register_forward_hook(
            lambda _, args, out: out * torch.cat([out.new_ones(1), out.new_zeros(24)])[:, None]
        )
    assert not activations(model, images, [act]).dead(act).any()


def test_units_of_an_mlp_are_shown_by_ascent_on_the_mean_over_patches_and_by_patches():
    model, layer = seeded(timm_vit), "blocks.0.mlp.fc1"
    size, how = (32, 48), {"steps": 3, "step_size": 0.05, "channels": 3, "seed": 0}
    found = gradient_ascent(model, layer, [1, 5], size=size, **how)
    assert found.images.shape == (2, 3, *size) and not found.stuck.any()
    raw = LayerActivation(model, model.get_submodule(layer)).attribute(found.images)
    expected = torch.stack([raw[0, 1:, 1].mean(), raw[1, 1:, 5].mean()])
    torch.testing.assert_close(found.activations, expected, rtol=1e-4, atol=1e-5)
    images = images_of(32, 48, 3).float()
    raw = LayerActivation(model, model.get_submodule(layer)).attribute(images)
    best = search_patches(model, {layer: [5]}, [images], count=3)[layer]
    expected = raw[:, 1:, 5].amax(1).sort(descending=True).values
    torch.testing.assert_close(best.activations[0], expected, rtol=1e-4, atol=1e-5)
    assert field(model, layer, images[:1])[0] is None  # attention sees the whole image
    assert field(model, "patch_embed", images[:1]) == ((8, 8), (8, 8))


@pytest.mark.parametrize("name", ["ViT", "Dinov2"])
def test_layouts_of_transformers_are_those_of_their_configuration(name):
    transformers = pytest.importorskip("transformers", reason="comes with the extra `proofs`")
    config = getattr(transformers, f"{name}Config")(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, mlp_ratio=2, num_labels=3,
    )  # fmt: skip
    model = double(getattr(transformers, f"{name}ForImageClassification"), config=config)
    images, layers = images_of(32), choose_layers(model, "auto", example=images_of(32))
    blocks = [layer for layer in layers if "layer" in layer]
    assert len(blocks) == config.num_hidden_layers
    side = config.image_size // config.patch_size
    with hook_layers(model, blocks) as layouts, torch.no_grad():
        outputs = read_outputs(layouts, images)
    theirs = model(images, output_hidden_states=True).hidden_states
    for block, output, states in zip(blocks, outputs.values(), theirs[1:], strict=True):
        assert layouts.layout(block).tokens == Tokens(1, side, side)
        expected = states[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        assert torch.equal(layouts.channels_first(block, output), expected)
    positions = position_similarities(model, find_positions(model, images))
    (found,) = positions.values()
    assert found.shape == (side,) * 4 and next(iter(positions)).endswith("position_embeddings")


def test_scores_of_maps_take_those_of_tokens():
    model, images = double(timm_vit), images_of(32, 48)
    targets, layer = torch.tensor([0, 2]), "blocks.1"
    found = grad_cam(model, images, targets, [layer])
    maps = found.upsample((32, 48))[layer][:, 0]
    curves = insertion_deletion(model, images, maps, targets, steps=4)
    with torch.no_grad():
        whole = model(images).softmax(1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(curves.insertion[:, -1], whole, **CLOSE)

    def explain() -> torch.Tensor:
        return grad_cam(model, images, targets, [layer], relu=False).maps[layer][:, 0]

    test = parameter_randomisation(model, explain, seed=0)
    # class token and position embedding belong to the network itself, which cannot redraw them
    assert "VisionTransformer" in test.kept and "" not in test.kept
    assert test.spearman[-1].abs().max() < 0.9
