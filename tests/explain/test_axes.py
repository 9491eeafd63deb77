"""Which axis of a layer's output holds the channels: known, or refused; never told by its shape.

The networks come in pairs that compute the same, one with its channels first, one with its channels
last, and maps are as high and wide as there are channels: no shape gives the axis away.
"""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from captum.attr import LayerActivation, LayerGradCam
from torch import nn
from torchvision.models import swin_transformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from convlens.core.errors import UserError
from convlens.explain import (
    activations,
    attribute,
    grad_cam,
    gradient_ascent,
    search_patches,
)
from convlens.explain.activations import compute_layer_statistics
from convlens.explain.axes import AxisTracker
from convlens.explain.layers import find_feature_map, find_image_convolutions
from support.explain_networks import ConvNet, field, pictures, seeded
from support.token_networks import OwnTransformer

SIDE = 8  # of maps, and the number of channels


class ChannelsFirst(nn.Module):
    """Convolution, dense layer on every place, ReLU, convolution; all with channels first."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, SIDE, 3, padding=1)
        self.dense = nn.Conv2d(SIDE, SIDE, 1)
        self.act = nn.ReLU()
        self.last = nn.Conv2d(SIDE, SIDE, 3, padding=1)
        self.head = nn.Linear(SIDE, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.act(self.dense(x))
        return self.head(self.last(x).mean((2, 3)))


class ChannelsLast(ChannelsFirst):
    """The same function: the dense layer and its ReLU see ``(B, H, W, C)``."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(SIDE, SIDE)

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        x = x + self.act(self.dense(x))
        return self.head(self.last(x.permute(0, 3, 1, 2)).mean((2, 3)))


def pair() -> tuple[nn.Module, nn.Module]:
    first, last = seeded(ChannelsFirst), seeded(ChannelsLast)
    weights = first.state_dict()
    weights["dense.weight"] = weights["dense.weight"][:, :, 0, 0]
    last.load_state_dict(weights)
    return first, last


CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.mark.parametrize("layer", ["dense", "act"])
def test_maps_statistics_and_grad_cam_are_those_of_the_same_network_with_channels_first(layer):
    first, last = pair()
    images = pictures(3, SIDE)
    theirs = LayerActivation(first, first.get_submodule(layer)).attribute(images)
    ours = activations(last, images, [layer])
    torch.testing.assert_close(ours.layers[layer], theirs, **CLOSE)
    cam = LayerGradCam(first, first.get_submodule(layer)).attribute(
        images, 1, relu_attributions=True
    )
    found = grad_cam(last, images, torch.tensor([1, 1, 1]), [layer]).maps[layer]
    torch.testing.assert_close(found, cam, **CLOSE)
    numbers = compute_layer_statistics(last, images.split(2), [layer])[layer]
    share = (theirs <= 0).float().mean((0, 2, 3))
    torch.testing.assert_close(numbers.sparsity, share, **CLOSE)
    dead = theirs.amax((0, 2, 3)) <= 0
    assert torch.equal(numbers.dead, dead) and torch.equal(ours.dead(layer), dead)


def test_a_channel_that_died_is_found_where_channels_are_last():
    _, last = pair()
    with torch.no_grad():
        last.dense.bias.fill_(1)
        last.dense.weight[2], last.dense.bias[2] = 0, -1
    for layer in ("dense", "act"):  # before the ReLU and behind it
        found = activations(last, pictures(4, SIDE), [layer])
        assert found.layers[layer].shape == (4, SIDE, SIDE, SIDE)
        assert found.dead(layer).nonzero().flatten().tolist() == [2]


def test_filters_patches_and_receptive_fields_are_those_with_channels_first():
    first, last = pair()
    images, how = pictures(6, 24), {"size": 24, "channels": 3, "steps": 4, "step_size": 0.02}
    expected = field(first, "dense", images[:1])
    assert field(last, "dense", images[:1]) == expected == ((3, 3), (1, 1))
    theirs, ours = (
        search_patches(m, {"dense": [1, 5]}, [images], count=3)["dense"] for m in (first, last)
    )
    assert torch.equal(ours.places, theirs.places) and torch.equal(ours.pictures, theirs.pictures)
    torch.testing.assert_close(ours.activations, theirs.activations, **CLOSE)
    theirs, ours = (gradient_ascent(m, "dense", [1, 5], seed=0, **how) for m in (first, last))
    torch.testing.assert_close(ours.images, theirs.images, rtol=0, atol=1e-3)


def test_captums_layer_methods_give_maps_of_channels_last_layers_or_refuse_them():
    first, last = pair()
    images, targets = pictures(2, SIDE), torch.tensor([0, 2])
    theirs, ours = (
        attribute(m, images, targets, "layer_gradient_x_activation", layer="dense").maps
        for m in (first, last)
    )
    torch.testing.assert_close(ours, theirs, **CLOSE)
    with pytest.raises(UserError, match=r"layer 'dense' has them on another axis: choose"):
        attribute(last, images, targets, "guided_grad_cam", layer="dense")


def torchvision_swin() -> nn.Module:
    return swin_transformer.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=3)


def torchvision_convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=3)


def timm_convnext() -> nn.Module:
    return timm.models.ConvNeXt(
        num_classes=3, depths=(1, 1, 1, 1), dims=(8, 16, 16, 24), conv_mlp=False, ls_init_value=0.5
    )


def timm_swin() -> nn.Module:
    return timm.models.SwinTransformer(
        img_size=32, num_classes=3, embed_dim=16, depths=(1, 1), num_heads=(2, 2), window_size=4
    )


@pytest.mark.parametrize(
    ("build", "layer", "order", "shape"),
    [
        (torchvision_convnext, "features.1.0.block.2", (0, 3, 1, 2), (8, 8, 8)),
        (torchvision_convnext, "features.1.0.block.0", (0, 1, 2, 3), (8, 8, 8)),
        (torchvision_swin, "features.1.0", (0, 3, 1, 2), (16, 8, 8)),
        (torchvision_swin, "features.2.norm", (0, 3, 1, 2), (64, 4, 4)),
        (timm_convnext, "stages.0.blocks.0.norm", (0, 3, 1, 2), (8, 8, 8)),
        (timm_convnext, "stages.0.blocks.0.mlp.act", (0, 3, 1, 2), (32, 8, 8)),
        (timm_convnext, "stages.0.blocks.0", (0, 1, 2, 3), (8, 8, 8)),
        (timm_swin, "layers.0.blocks.0", (0, 3, 1, 2), (16, 8, 8)),
    ],
)
def test_layers_of_libraries_whose_norms_and_blocks_hold_channels_last(build, layer, order, shape):
    model, images, plain = seeded(build), pictures(2, 32), []
    hook = model.get_submodule(layer).register_forward_hook(lambda *call: plain.append(call[-1]))
    with torch.no_grad():
        model(images)
    hook.remove()
    found = activations(model, images, [layer]).layers[layer]
    assert found.shape == (2, *shape)
    torch.testing.assert_close(found, plain[0].permute(order), **CLOSE)


def test_timms_own_channels_first_features_say_the_same():
    model, images = seeded(timm_swin), pictures(2, 32)
    with torch.no_grad():
        features = model.forward_intermediates(images, intermediates_only=True)
    found = activations(model, images, ["layers.0", "layers.1"]).layers
    for ours, theirs in zip(found.values(), features, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


class Folded(nn.Module):
    """A map that an operation has made which nobody follows, seen by no convolution before."""

    def __init__(self):
        super().__init__()
        self.stem, self.lost = nn.Conv2d(3, SIDE, 1), nn.Identity()
        self.head = nn.Linear(SIDE, 3)

    def forward(self, x):
        x = self.stem(x)
        x = F.fold(F.unfold(x, 2, stride=2), x.shape[-2:], 2, stride=2)
        return self.head(self.lost(x).mean((2, 3)))


def timm_mixer() -> nn.Module:
    return timm.models.MlpMixer(
        num_classes=3, img_size=32, patch_size=8, num_blocks=2, embed_dim=16
    )


@pytest.mark.parametrize(
    ("build", "layer", "why"),
    [
        (Folded, "lost", r"\(8, 8, 8\) per image, and its channel axis is unknown"),
        (timm_swin, "layers.0.blocks.0.attn.softmax", "parts of images"),
        (timm_mixer, "blocks.0.mlp_tokens.fc1", r"tokens \(16, 8\) per image"),
    ],
)
def test_what_cannot_be_known_is_refused_by_the_layers_name(build, layer, why):
    model = seeded(build)
    images = pictures(2, SIDE if build is Folded else 32)
    for look in (
        lambda: activations(model, images, [layer]),
        lambda: grad_cam(model, images, torch.tensor([0, 1]), [layer]),
        lambda: field(model, layer, images[:1]),
        lambda: compute_layer_statistics(model, [images], [layer]),
        lambda: search_patches(model, {layer: [0]}, [images]),
    ):
        with pytest.raises(UserError, match=f"layer '{layer}' returns {why}"):
            look()


@pytest.mark.parametrize(
    ("build", "size", "expected"),
    [(timm_swin, 32, "norm"), (torchvision_swin, 32, "permute"), (ConvNet, 24, "relu2")],
)
def test_the_default_layer_is_the_last_map_of_the_network_wherever_its_channels_are(
    build, size, expected
):
    assert find_feature_map(seeded(build), pictures(1, size)) == (expected, "")


def test_following_the_axes_changes_no_bit_and_leaves_nothing_behind():
    for build in (timm_swin, timm_convnext, OwnTransformer):
        model, images = seeded(build), pictures(2, 32)
        with torch.no_grad():
            plain = model(images)
            with AxisTracker(images):
                followed = model(images)
            assert torch.equal(model(images), plain)
        torch.testing.assert_close(followed, plain, rtol=1e-5, atol=1e-6)


class ThreeInTheMiddle(nn.Module):
    """Two convolutions take three channels; only one of them takes the image's."""

    def __init__(self):
        super().__init__()
        self.squeeze = nn.Conv2d(3, 3, 1)  # listed first, called last
        self.stem = nn.Conv2d(3, 3, 5)
        self.deep = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.deep(self.squeeze(self.stem(x).relu())).mean((2, 3)))


class GreyRepeated(ThreeInTheMiddle):
    def forward(self, x):
        return super().forward((x[:, :1] - 0.5).expand(-1, 3, -1, -1))


class OneByOneFirst(ThreeInTheMiddle):
    def forward(self, x):
        return self.head(self.deep(self.squeeze(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("build", "expected"),
    [(ThreeInTheMiddle, ["stem"]), (GreyRepeated, ["stem"]), (OneByOneFirst, [])],
)
def test_only_convolutions_that_read_the_image_show_their_kernels(build, expected):
    assert find_image_convolutions(seeded(build), pictures(1, 16)) == expected


class Negative(nn.Module):
    """Layers that only give values below zero, read by a normalisation, a ReLU, a tanh."""

    def __init__(self):
        super().__init__()
        self.normed, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.bare, self.relu = nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)
        self.signed, self.tanh = nn.Conv2d(4, 4, 1), nn.Tanh()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.relu(self.bare(self.norm(self.normed(x))) * 1.0)
        return self.head(self.tanh(self.signed(x + 1)).mean((2, 3)))


class NegativeDirect(Negative):
    def forward(self, x):
        x = self.relu(self.bare(self.norm(self.normed(x))))
        return self.head(self.tanh(self.signed(x + 1)).mean((2, 3)))


def test_dead_is_said_only_where_zero_follows():
    model, images = seeded(NegativeDirect), pictures(3, 10)
    with torch.no_grad():
        for layer in (model.normed, model.bare, model.signed):
            layer.bias.fill_(-20)
        model.norm.weight.fill_(0.1)
    layers = ["normed", "norm", "bare", "relu", "signed", "tanh"]
    found = activations(model, images, layers)
    assert all(found.layers[name].max() <= 0 for name in layers)
    dead = {name: bool(found.dead(name).all()) for name in layers}
    assert dead == {
        "normed": False,  # the normalisation moves it
        "norm": False,  # read by a convolution
        "bare": True,  # a ReLU makes zero of it
        "relu": True,
        "signed": True,  # constant, as its input is
        "tanh": True,
    }
    with torch.no_grad():
        model.bare.bias.fill_(20)  # now something reaches the last convolution
    found = activations(model, images, layers)
    assert not found.dead("signed").any() and not found.dead("bare").any()
    # a multiplication stands between: what reads the convolution is no ReLU
    other = seeded(Negative)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.bare.bias.fill_(-20)
    assert not activations(other, images, ["bare"]).dead("bare").any()


@pytest.mark.parametrize(
    "act", [nn.Hardswish, nn.PReLU, nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.ReLU6, nn.LogSigmoid]
)
def test_activations_hand_the_axes_on(act):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), act(), nn.Conv2d(8, 2, 1), nn.Flatten(2))
    found = activations(nn.Sequential(model[:3]), pictures(2, SIDE), ["0.1"])
    assert found.layers["0.1"].shape == (2, 8, SIDE, SIDE)
