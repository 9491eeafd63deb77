"""Layers read through Captum, against hooks, closed forms and finite differences without Captum."""

import inspect
import tomllib

import captum
import pytest
import torch
from captum._utils import gradient
from packaging.requirements import Requirement
from torch import nn

from convlens.core.errors import UserError
from convlens.explain import activations, choose_layers, grad_cam, gradient_ascent
from convlens.explain.captum_layers import _group_layers
from convlens.explain.layouts import Layouts
from support.explain_networks import (
    Branches,
    ConvNet,
    InPlaceNet,
    InPlaceSum,
    measured_cam,
    pictures,
    plain_outputs,
    residual,
    seeded,
)
from support.places import ROOT

PRIVATE = "_forward_layer_distributed_eval"


def test_captum_has_the_private_function_that_grad_cam_needs():
    found = getattr(gradient, PRIVATE, None)
    words = {"forward_hook_with_return", "require_layer_grads"}
    if found is None or not words <= set(inspect.signature(found).parameters):
        pytest.fail(
            f"captum {captum.__version__} has no captum._utils.gradient.{PRIVATE} with "
            f"{' and '.join(sorted(words))}: explain/captum_layers.py needs another way, or "
            "pyproject.toml an earlier captum",
            pytrace=False,
        )


def test_only_releases_of_captum_are_taken_that_the_private_function_was_tried_with():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(line) for line in project["dependencies"]]
    (found,) = (each.specifier for each in wanted if each.name == "captum")
    assert found.contains("0.9.0") and not found.contains("0.10.0")
    assert found.contains(captum.__version__)


class Awkward(nn.Module):
    """An in-place ReLU called twice, an identity beside a skip, one module under two names."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.same, self.smooth = nn.ReLU(inplace=True), nn.Identity(), nn.Softplus()
        self.again = self.conv2
        self.pool, self.head = nn.AdaptiveAvgPool2d(2), nn.Linear(16, 3)

    def forward(self, x):
        x = self.relu(self.conv1(x))
        x = self.relu(self.again(self.smooth(self.same(x)))) + x
        return self.head(self.pool(x.tanh()).flatten(1))


NETWORKS = {
    "conv": (ConvNet, 24, "*"),
    "in_place": (lambda: InPlaceNet(3), 20, "features.*"),
    "in_place_sum": (InPlaceSum, 16, ["stem", "block.0", "block", "body"]),
    "branches": (Branches, 16, "*"),
    "residual": (residual, 32, ["layer1.0.relu", "layer1.1.bn2", "layer2.0", "layer4.1.conv2"]),
    "awkward": (Awkward, 14, ["conv1", "conv2", "relu", "same", "smooth", "again", "pool"]),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    build, size, pattern = NETWORKS[request.param]
    model, images = seeded(build).double(), pictures(2, size).double()
    return model, images, choose_layers(model, pattern)


def test_activations_are_the_bits_that_a_plain_hook_clones(network):
    model, images, layers = network
    ours = activations(model, images, layers).layers
    plain = plain_outputs(model, images, layers)
    assert list(ours) == layers
    for name in layers:
        assert torch.equal(ours[name], plain[name]), name


def test_maps_of_one_layer_alone_equal_finite_differences(network):
    model, images, layers = network
    targets = torch.tensor([1, 2])
    shapes = {name: value.shape for name, value in plain_outputs(model, images, layers).items()}
    for layer in (name for name in layers if len(shapes[name]) == 4):
        ours = grad_cam(model, images, targets, [layer], relu=False).maps[layer][:, 0]
        scale = float(ours.abs().max())
        assert scale > 0
        height, width = shapes[layer][-2:]
        for place in ((0, 0), (height // 2, width // 3), (height - 1, width // 2)):
            expected = measured_cam(model, images, targets, layer, place)
            found = ours[:, *place]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * scale)


def test_maps_of_all_layers_and_targets_are_the_bits_of_each_alone():
    for build, size, layers in (
        (ConvNet, 24, ["conv1", "bn1", "relu2", "pool2"]),
        (residual, 32, ["layer1.0.relu", "layer2.0", "layer4.1.conv2"]),
    ):
        model, images = seeded(build), pictures(2, size)
        targets = torch.tensor([[0, 1, 3], [2, 0, 1]])
        together = grad_cam(model, images, targets, layers).maps
        for t in range(3):
            for layer in layers:
                alone = grad_cam(model, images, targets[:, t], [layer]).maps[layer]
                assert torch.equal(together[layer][:, t : t + 1], alone)


class Cam(nn.Module):
    """Convolution, ReLU in place, global mean, dense layer: here Grad-CAM has a closed form."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.relu(self.conv(x)).mean((2, 3)))


def test_maps_equal_class_activation_mapping_in_closed_form():
    """B. Zhou et al., CVPR 2016: the head's weights say how much of each channel is evidence."""
    model, images = seeded(Cam).double(), pictures(3, 12).double()
    targets = torch.tensor([[0, 1], [2, 0], [1, 1]])
    maps = grad_cam(model, images, targets, ["conv", "relu"], relu=False).maps
    with torch.no_grad():
        before = model.conv(images)
        weights = model.head.weight[targets]  # (B, T, C)
        count = before[0, 0].numel()
        behind = torch.einsum("btc,bchw->bthw", weights, before.relu()) / count
        open_share = (before > 0).double().mean((2, 3))  # of the ReLU, channel by channel
        ahead = torch.einsum("btc,bc,bchw->bthw", weights, open_share, before) / count
    torch.testing.assert_close(maps["relu"], behind, rtol=0, atol=1e-12)
    torch.testing.assert_close(maps["conv"], ahead, rtol=0, atol=1e-12)


class Odd(nn.Module):
    """Layers that give a pair, their own parameter, something the head does not read, nothing."""

    def __init__(self):
        super().__init__()
        self.conv, self.spare = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.pair, self.own, self.aside = Pair(), Own(), nn.Conv2d(4, 4, 1)
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 1)])
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.pair(self.conv(x))[0] * self.own()
        for block in self.blocks:
            x = block(x)
        self.aside(x)
        return self.head(x.mean((2, 3)))


class Pair(nn.Module):
    def forward(self, x):
        return x, x + 1


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, 4, 1, 1), requires_grad=False)

    def forward(self):
        return self.scale


@pytest.mark.parametrize(
    "look",
    [
        lambda model, images, layers: activations(model, images, layers),
        lambda model, images, layers: grad_cam(model, images, torch.tensor([0, 1]), layers),
        lambda model, images, layers: [
            gradient_ascent(model, layer, [0], size=8, channels=3, steps=1, step_size=0.1, seed=0)
            for layer in layers
        ],
    ],
    ids=["activations", "grad_cam", "filters"],
)
def test_what_cannot_be_read_is_refused_in_one_line_and_no_hook_stays(look):
    model, images = seeded(Odd), pictures(2, 8)
    for layer, why in (
        ("pair", "'pair' returns a tuple, not one tensor: choose a layer inside it or after it"),
        ("spare", "'spare' is never called: choose another"),
        ("blocks", "'blocks' is a ModuleList that is never called, .*: choose a layer inside it"),
        ("cnov", "no layer 'cnov' in Odd: did you mean conv"),
    ):
        for layers in ([layer], ["conv", layer]):
            with pytest.raises(UserError, match=why):
                look(model, images, layers)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_the_logits_do_not_read_is_refused_by_grad_cam():
    model, images = seeded(Odd), pictures(2, 8)
    with pytest.raises(UserError, match="'aside' does not lead to the logits: choose another"):
        grad_cam(model, images, torch.tensor([0, 1]), ["conv", "aside"])


def test_a_parameter_that_a_layer_hands_on_still_needs_no_gradient():
    """Captum would ask for the gradient of the very tensor; a copy stands in for it."""
    model, images = seeded(Odd), pictures(2, 8)
    with pytest.raises(UserError, match="its channel axis is unknown"):
        grad_cam(model, images, torch.tensor([0, 1]), ["own"])
    assert not model.own.scale.requires_grad and model.own.scale.grad is None


def test_activations_of_no_layer_are_none():
    assert activations(seeded(ConvNet), pictures(2), []).layers == {}


def test_layers_on_several_devices_are_read_one_by_one():
    """Captum gathers the layers of a pass from one device, that of the first."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    assert _group_layers(Layouts(model, ["0", "1"])) == [["0", "1"]]
    model[1].to("meta")
    assert _group_layers(Layouts(model, ["0", "1"])) == [["0"], ["1"]]
