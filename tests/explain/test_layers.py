"""Which layers are worth showing, and patterns that choose among them."""

import pytest
import torch
from torch import nn
from torchvision.models import vgg16

from convlens.core.errors import UserError
from convlens.explain import choose_layers, explainable_layers
from convlens.explain.activations import compute_layer_statistics
from convlens.explain.layers import find_activations
from support.explain_networks import (
    Branches,
    ConvNet,
    InPlaceNet,
    InPlaceSum,
    pictures,
    residual,
    seeded,
)


def test_explainable_layers_in_model_order():
    names = ["conv1", "bn1", "relu1", "pool1", "conv2", "bn2", "relu2", "pool2"]
    assert explainable_layers(ConvNet()) == [*names, "fc1", "relu3", "fc2"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("conv1", ["conv1"]),
        ("conv*", ["conv1", "conv2"]),
        (["relu2", "conv*", "conv1"], ["conv1", "conv2", "relu2"]),
        ("*2", ["conv2", "bn2", "relu2", "pool2", "fc2"]),
    ],
)
def test_patterns(patterns, expected):
    assert choose_layers(ConvNet(), patterns) == expected


def test_patterns_that_name_blocks_and_kinds():
    assert choose_layers(InPlaceNet(), "features", "grad_cam") == ["features"]
    assert choose_layers(ConvNet(), "*2", "filters") == ["conv2", "fc2"]
    assert choose_layers(InPlaceNet(), "features.*", "filters") == ["features.0", "features.2"]


def test_a_pattern_that_matches_nothing_names_the_nearest():
    with pytest.raises(UserError, match=r"ConvNet matches 'conv3': did you mean conv\d or conv\d"):
        choose_layers(ConvNet(), ["conv1", "conv3"])
    with pytest.raises(UserError, match="there are: conv1, conv2, fc1, fc2"):
        choose_layers(ConvNet(), "zzz*", "filters")
    with pytest.raises(ValueError, match="kind"):
        choose_layers(ConvNet(), "auto", "maps")


def test_auto_takes_whole_convolution_stages():
    stages = ["conv1", "bn1", "relu1", "pool1", "conv2", "bn2", "relu2", "pool2"]
    example = pictures(1)
    assert choose_layers(ConvNet(), example=example) == stages
    filters = ["conv1", "conv2", "fc1", "fc2"]
    assert choose_layers(ConvNet(), "auto", "filters", example=example) == filters
    few = choose_layers(InPlaceNet(), "auto", "filters", example=example, limit=2)
    assert few == ["features.0", "head"]
    with pytest.raises(ValueError, match="example"):
        choose_layers(ConvNet())


def test_auto_keeps_to_the_limit_and_to_both_ends_of_a_deep_network():
    with torch.device("meta"):
        model = vgg16().features
    model.to_empty(device="cpu")
    chosen = choose_layers(model, example=pictures(1, 64), limit=12)
    assert 6 <= len(chosen) <= 12
    assert chosen[:2] == ["0", "1"]
    assert chosen[-3:] == ["28", "29", "30"]


@pytest.mark.parametrize(
    ("limit", "chosen"),
    [
        (1, ["29"]), (2, ["1", "29"]), (4, ["1", "11", "20", "29"]),
        (8, ["0", "1", "14", "15", "16", "28", "29", "30"]),  # three whole stages
    ],
)  # fmt: skip
def test_auto_shows_the_depth_with_few_layers_too(limit, chosen):
    with torch.device("meta"):
        model = vgg16().features
    model.to_empty(device="cpu")
    assert choose_layers(model, example=pictures(1, 64), limit=limit) == chosen


def test_a_stage_is_represented_by_its_activation_and_one_layer_is_the_last():
    example = pictures(1)
    assert choose_layers(ConvNet(), example=example, limit=4) == ["relu1", "relu2"]
    assert choose_layers(ConvNet(), example=example, limit=1) == ["relu2"]
    assert len(choose_layers(ConvNet(), example=example, limit=8)) == 8


def test_auto_with_an_example_leaves_out_what_has_no_map():
    model = seeded(Branches)
    model.spare = nn.Conv2d(3, 3, 1)
    chosen = choose_layers(model, example=pictures(1))
    assert chosen == ["stem", "mixed.left", "mixed.right"]
    assert "spare" not in choose_layers(model, "auto", "filters", example=pictures(1))


@pytest.mark.parametrize(
    ("build", "size", "expected"),
    [
        (ConvNet, 24, "relu2"),
        (InPlaceNet, 24, "features.3"),
        (residual, 64, "layer4.1.relu"),
        (Branches, 24, "mixed"),
        (InPlaceSum, 24, "body"),
    ],
)
def test_auto_for_grad_cam_is_what_the_last_convolution_became(build, size, expected):
    model = seeded(build)
    assert choose_layers(model, "auto", "grad_cam", example=pictures(1, size)) == [expected]


def test_auto_of_a_dense_network_is_empty():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
    example = torch.rand(1, 3, 2, 2)
    assert choose_layers(model, "auto", "grad_cam", example=example) == []
    assert choose_layers(model, "auto", "activations", example=example) == []
    assert choose_layers(model, "auto", "filters", example=example) == ["1", "3"]


def test_activations_are_those_of_stages_and_of_mlps_on_tokens_and_windows():
    timm = pytest.importorskip("timm")
    image = torch.rand(1, 3, 16, 16)
    plain = timm.models.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=3
    )
    windows = timm.models.SwinTransformer(
        img_size=16, patch_size=2, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2)
    )
    assert find_activations(plain, image) == ["blocks.0.mlp.act", "blocks.1.mlp.act"]
    places = [f"layers.{stage}.blocks.0.mlp.act" for stage in (0, 1)]
    assert find_activations(windows, image) == places
    for network, layer in ((plain.eval(), "blocks.1.mlp.act"), (windows.eval(), places[0])):
        found = compute_layer_statistics(network, [image], [layer])[layer].dead
        hidden = network.get_submodule(layer.replace("act", "fc1")).out_features
        assert len(found) == hidden
    assert find_activations(ConvNet(), pictures(1)) == ["relu1", "relu2"]
