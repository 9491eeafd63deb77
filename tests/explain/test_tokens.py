"""Networks on tokens: maps are put on the grid that the image had, or refused; never guessed.

The references are timm's own ``forward_intermediates`` and Captum's Grad-CAM at an identity that
sees channels first.
"""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from captum.attr import LayerActivation, LayerGradCam, LayerGradientXActivation
from torch import nn
from torchvision.models import swin_transformer, vision_transformer

from convlens.core.errors import UserError
from convlens.explain import (
    activations,
    choose_layers,
    explaining,
    grad_cam,
    gradient_ascent,
    search_patches,
    unit_effects,
)
from convlens.explain.activations import compute_layer_statistics
from convlens.explain.axes import AxisTracker, Tokens
from convlens.explain.captum_layers import hook_layers, read_outputs
from convlens.explain.embeddings import position_similarities, principal_kernels
from convlens.explain.feature_map import find_feature_map
from support.explain_networks import field, pictures, seeded

CLOSE = {"rtol": 0, "atol": 1e-9}
TINY = {"embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}


def images_of(height: int, width: int | None = None, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    size = (count, 3, height, width or height)
    return torch.rand(*size, generator=generator, dtype=torch.float64)


def timm_vit(**options) -> nn.Module:
    settings = {"img_size": (32, 48), "patch_size": 8, "depth": 3, **options}
    return timm.models.VisionTransformer(**{**TINY, **settings})


def timm_swin() -> nn.Module:
    return timm.models.SwinTransformer(
        img_size=(32, 48), patch_size=2, window_size=4, embed_dim=8, depths=(2, 2),
        num_heads=(2, 4), num_classes=3,
    )  # fmt: skip


def timm_hiera() -> nn.Module:
    return timm.models.Hiera(
        img_size=(64, 96), embed_dim=8, num_heads=1, stages=(1, 1, 1, 1), num_classes=3,
        head_init_scale=1.0,
    )  # fmt: skip


def timm_mixer() -> nn.Module:
    return timm.models.MlpMixer(
        num_classes=3, img_size=32, patch_size=8, num_blocks=2, embed_dim=16
    )


def torchvision_vit() -> nn.Module:
    return vision_transformer.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=3)


def torchvision_swin() -> nn.Module:
    return swin_transformer.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=3)


class OwnTransformer(nn.Module):
    """A patch embedding and torch's own encoder, whose fast path calls no layer in it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, 8)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x).flatten(2).transpose(1, 2)).mean(1))


def double(build, **options) -> nn.Module:
    model = seeded(lambda: build(**options)).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in model.parameters():  # timm's heads and scales may start at zero
            if not parameter.any():
                parameter.data.normal_(0, 0.1)
    return model


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


class OneBlock(nn.Module):
    """Tokens that pass through ``way`` between a convolution and the mean of all."""

    def __init__(self, way):
        super().__init__()
        self.stem, self.out, self.way = nn.Conv2d(3, 4, 2, 2), nn.Identity(), way
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        maps = self.stem(x)
        # each way ends with the channels last, and calls ``self.out`` where it is looked at
        return self.head(self.way(maps, self.out).flatten(1, -2).mean(1))


def as_tokens(maps):
    return maps.flatten(2).transpose(1, 2)


def in_windows(maps, out):
    batch, channels, height, width = maps.shape
    parts = maps.view(batch, channels, height // 4, 4, width // 4, 4)
    windows = out(parts.permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, channels))
    parts = windows.view(batch, height // 4, width // 4, 4, 4, channels)
    return parts.permute(0, 1, 3, 2, 4, 5).reshape(batch, height * width, channels)


def in_shifted_windows(maps, out):
    return in_windows(maps.roll((-2, 1), (2, 3)), out)


def shifted_there_and_back(maps, out):
    again = in_windows(maps.roll((-2, -2), (2, 3)), nn.Identity())
    whole = again.view(len(maps), *maps.shape[2:], -1).roll((2, 2), (1, 2))
    return out(whole.flatten(1, 2))


def with_tokens_before_and_after(maps, out):
    tokens, one = as_tokens(maps), maps.new_ones(1, 1, 4).expand(len(maps), -1, -1)
    return out(torch.cat([one, one, tokens, one], 1))[:, 2:-1]


def sequence_first(maps, out):
    return out(maps.flatten(2).permute(2, 0, 1)).transpose(0, 1)


def channels_in_the_middle(maps, out):
    return out(as_tokens(maps).transpose(1, 2)).transpose(1, 2)


def every_second(maps, out):
    return as_tokens(out(maps[:, :, ::2, 1::2]).contiguous())


def batch_and_tokens_in_one(maps, out):
    return out(as_tokens(maps).reshape(-1, 4)).view(len(maps), -1, 4)


KNOWN = {
    in_windows: lambda maps: maps,
    in_shifted_windows: lambda maps: maps,
    shifted_there_and_back: lambda maps: maps,
    with_tokens_before_and_after: lambda maps: maps,
    sequence_first: lambda maps: maps,
    channels_in_the_middle: lambda maps: maps,
    every_second: lambda maps: maps[:, :, ::2, 1::2],
    batch_and_tokens_in_one: lambda maps: maps,
}


@pytest.mark.parametrize("way", KNOWN, ids=lambda way: way.__name__)
@pytest.mark.parametrize("count", [1, 2])
def test_a_map_is_put_together_from_whatever_a_layer_makes_of_it(way, count):
    model, images = double(OneBlock, way=way), images_of(16, 24, count)
    with torch.no_grad():
        expected = KNOWN[way](model.stem(images))
    for _ in range(2):  # tracked, then from the cache
        assert torch.equal(activations(model, images, ["out"]).layers["out"], expected)
    more = images_of(16, 24, 5)
    with torch.no_grad():
        expected = KNOWN[way](model.stem(more))
    assert torch.equal(activations(model, more, ["out"]).layers["out"], expected)
    # as many patches on another grid
    turned = images_of(24, 16)
    with torch.no_grad():
        expected = KNOWN[way](model.stem(turned))
    assert torch.equal(activations(model, turned, ["out"]).layers["out"], expected)


def rolled_by_hand(maps, out):
    return as_tokens(out(torch.cat([maps[:, :, 3:], maps[:, :, :3]], 2)))


def flipped(maps, out):
    return out(as_tokens(maps.flip(2)))


def shuffled(maps, out):
    tokens = as_tokens(maps)
    return out(tokens[:, torch.arange(tokens.shape[1] - 1, -1, -1)])


def half_of_them(maps, out):
    return out(as_tokens(maps)[:, 5:])


def doubled(maps, out):
    return out(torch.cat([as_tokens(maps), as_tokens(maps)], 1))


def rows_only(maps, out):
    parts = maps.unflatten(2, (2, -1))
    return out(parts[:, :, 0].flatten(2).transpose(1, 2))


def mixed_positions(maps, out):
    weights = maps.new_ones(maps.shape[2] * maps.shape[3], 7)
    return out((maps.flatten(2) @ weights).transpose(1, 2))


def attention_matrix(maps, out):
    tokens = as_tokens(maps)
    return out((tokens @ tokens.transpose(1, 2)).softmax(-1)) @ tokens


def transposed_grid_added(maps, out):
    return out(as_tokens(maps) + maps.transpose(2, 3).flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    "way",
    [rolled_by_hand, flipped, shuffled, half_of_them, doubled, rows_only, mixed_positions,
     attention_matrix, transposed_grid_added],
    ids=lambda way: way.__name__,
)  # fmt: skip
def test_what_no_rule_knows_is_refused(way):
    model, images = double(OneBlock, way=way), images_of(16)
    for look in (
        lambda: activations(model, images, ["out"]),
        lambda: grad_cam(model, images, torch.tensor([0, 1]), ["out"]),
    ):
        with pytest.raises(UserError, match="layer 'out' returns"):
            look()


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


def test_principal_kernels_are_those_of_the_covariance():
    module = seeded(lambda: nn.Conv2d(3, 20, 2))
    found = principal_kernels(module, 5)
    rows = module.weight.detach().flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    values, vectors = values.flip(0), vectors.flip(1)
    torch.testing.assert_close(
        found.shares.double(), (values / values.sum())[:5], rtol=1e-5, atol=0
    )
    cosines = (found.kernels.flatten(1).double() * vectors[:, :5].T).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(5).double(), rtol=0, atol=1e-6)
    assert (found.kernels.flatten(1).amax(1) >= -found.kernels.flatten(1).amin(1)).all()
    with pytest.raises(UserError, match="Linear has no kernels"):
        principal_kernels(nn.Linear(2, 2), 3)


@pytest.mark.parametrize(
    ("build", "name", "prefix", "grid"),
    [
        (timm_vit, "pos_embed", 1, (4, 6)),
        (lambda: timm_vit(reg_tokens=2, no_embed_class=True), "pos_embed", 0, (4, 6)),
        (torchvision_vit, "encoder.pos_embedding", 1, (4, 4)),
    ],
)
def test_position_embeddings_are_compared_patch_by_patch(build, name, prefix, grid):
    model = double(build)
    with torch.no_grad():
        model.get_parameter(name).normal_()
    height, width = grid
    found = position_similarities(model, images_of(8 * height, 8 * width))
    assert list(found) == [name] and found[name].shape == (*grid, *grid)
    rows = model.get_parameter(name)[0, prefix:].detach()
    expected = F.cosine_similarity(rows[:, None], rows[None], dim=2).view(*grid, *grid)
    torch.testing.assert_close(found[name], expected, **CLOSE)


def test_networks_without_a_learned_position_embedding_have_no_similarities():
    assert position_similarities(seeded(timm_mixer), pictures(1, 32)) == {}
    assert position_similarities(seeded(OwnTransformer), pictures(1, 32)) == {}


@pytest.mark.parametrize("name", ["ViT", "Dinov2"])
def test_layouts_of_transformers_are_those_of_their_configuration(name):
    transformers = pytest.importorskip("transformers")
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
    positions = position_similarities(model, images)
    (found,) = positions.values()
    assert found.shape == (side,) * 4 and next(iter(positions)).endswith("position_embeddings")
