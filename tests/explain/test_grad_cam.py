"""Grad-CAM against Captum and against its definition."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from captum.attr import LayerAttribution, LayerGradCam
from torch import nn

from convlens.core.errors import UserError
from convlens.explain import attribute, grad_cam, probabilities
from convlens.explain.shrink import shrink_maps
from support.explain_networks import ConvNet, InPlaceNet, pictures, residual, seeded

CASES = {
    "conv": (ConvNet, 24, ["conv1", "bn1", "relu1", "pool1", "conv2", "relu2"]),
    "in_place": (lambda: InPlaceNet(3), 20, ["features.0", "features.2", "features.3"]),
    "residual": (residual, 64, ["layer1.0.conv1", "layer3.1.bn2", "layer4.1.conv2", "layer4"]),
}


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_maps_equal_captum_at_every_layer_and_target(case):
    build, size, layers = CASES[case]
    model, images = seeded(build), pictures(3, size)
    targets = torch.tensor([[0, 2], [1, 1], [2, 0]])
    ours = grad_cam(model, images, targets, layers)
    assert list(ours.maps) == layers
    for name in layers:
        captum = LayerGradCam(model, model.get_submodule(name))
        for t in range(2):
            theirs = captum.attribute(images, targets[:, t], relu_attributions=True).detach()
            assert theirs.max() > 0
            close(ours.maps[name][:, t : t + 1], theirs)
            upsampled = LayerAttribution.interpolate(theirs, (size, size), "bilinear")
            close(ours.upsample((size, size))[name][:, t : t + 1], upsampled)


def test_signed_maps_equal_captum():
    model, images, targets = seeded(ConvNet), pictures(), torch.tensor([0, 1, 2])
    ours = grad_cam(model, images, targets, ["conv2"], relu=False)
    theirs = LayerGradCam(model, model.conv2).attribute(images, targets).detach()
    assert theirs.min() < 0
    close(ours.maps["conv2"], theirs)


def test_one_logit_network_equals_captum_for_both_classes():
    model, images = seeded(InPlaceNet), pictures(2, 20)
    ours = grad_cam(model, images, torch.tensor([[0, 1], [0, 1]]), ["features.2"])
    captum = LayerGradCam(model, model.features[2])
    positive = captum.attribute(images, relu_attributions=True).detach()
    negative = (-captum.attribute(images)).relu().detach()
    close(ours.maps["features.2"], torch.cat([negative, positive], 1))
    assert ours.logits.shape == (2, 1)
    assert ours.probabilities.shape == (2, 2)


def test_maps_equal_the_definition_computed_by_hand():
    model, images = seeded(lambda: InPlaceNet(3)), pictures(2, 20)
    maps = grad_cam(model, images, torch.tensor([2, 1]), ["features.2"]).maps["features.2"]
    for i, target in enumerate((2, 1)):
        with torch.no_grad():
            inner = model.features[1](model.features[0](images[i : i + 1]))
            inner = model.features[2](inner)
        inner.requires_grad_()
        pooled = F.adaptive_avg_pool2d(inner.relu(), 2).flatten(1)
        (gradient,) = torch.autograd.grad(model.head(pooled)[0, target], inner)
        cam = torch.zeros(inner.shape[-2:])
        for channel in range(inner.shape[1]):
            cam += gradient[0, channel].mean() * inner[0, channel].detach()
        close(maps[i, 0], cam.relu())


def test_result_is_detached_and_batches_do_not_matter():
    model, images, targets = seeded(ConvNet), pictures(5), torch.tensor([0, 1, 2, 3, 0])
    whole = grad_cam(model, images, targets, ["conv2", "relu2"])
    parts = grad_cam(model, images, targets, ["conv2", "relu2"], batch=2)
    for name, maps in whole.maps.items():
        assert not maps.requires_grad and not whole.logits.requires_grad
        close(parts.maps[name], maps)
    close(parts.logits, whole.logits)


def test_a_map_without_evidence_is_zero_and_marked_empty():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(1, 2))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()
        model[4].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    result = grad_cam(model, torch.rand(2, 1, 6, 6), torch.tensor([[0, 1], [0, 1]]), ["1"])
    assert (result.maps["1"][:, 0].amax((1, 2)) > 0).all()
    assert result.maps["1"][:, 1].count_nonzero() == 0
    assert result.upsample((12, 12))["1"].isfinite().all()


def test_mistakes_are_answered_in_one_line():
    model, images, targets = seeded(ConvNet), pictures(1), torch.tensor([0])
    with pytest.raises(UserError, match=r"'conv9'.*did you mean conv"):
        grad_cam(model, images, targets, ["conv9"])
    with pytest.raises(UserError, match="needs maps"):
        grad_cam(model, images, targets, ["fc1"])
    with pytest.raises(UserError, match="classes 0 to 3"):
        grad_cam(model, images, torch.tensor([4]), ["conv1"])
    with pytest.raises(UserError, match="classes 0 to 1"):
        grad_cam(seeded(InPlaceNet), images, torch.tensor([2]), ["features.0"])
    model.spare = nn.Conv2d(3, 3, 3)
    with pytest.raises(UserError, match="never called"):
        grad_cam(model, images, targets, ["spare"])


def test_probabilities():
    logits = torch.tensor([[2.0], [-1.0]])
    close(probabilities(logits)[:, 1:], logits.sigmoid())
    close(probabilities(logits).sum(1), torch.ones(2))
    with pytest.raises(ValueError, match=r"\(2,\)"):  # one image's two classes, or two images?
        probabilities(logits.flatten())
    three = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    close(probabilities(three), three.softmax(1))


@pytest.mark.parametrize("channels", [1, 3])
def test_maps_equal_the_definition_by_finite_differences(channels):
    """dy/dA measured: every value of the layer is moved a little both ways, one by one."""
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(channels, 3, 3),
            nn.Tanh(),
            nn.Conv2d(3, 2, 3, stride=2),
            nn.Softplus(),
            nn.Flatten(),
            nn.Linear(2 * 3 * 3, 3),
        )
    ).double()
    images = pictures(2, 9)[:, :channels].double()
    targets, step = torch.tensor([2, 0]), 1e-5
    for layer in range(4):
        with torch.no_grad():
            inner = model[: layer + 1](images)
            gradient = torch.zeros_like(inner)
            for place in np.ndindex(*inner.shape[1:]):
                move = torch.zeros_like(inner)
                move[(slice(None), *place)] = step
                rise = model[layer + 1 :](inner + move) - model[layer + 1 :](inner - move)
                gradient[(slice(None), *place)] = rise[range(2), targets] / (2 * step)
            expected = (gradient.mean((-2, -1), keepdim=True) * inner).sum(1, keepdim=True)
        ours = grad_cam(model, images, targets, [str(layer)], relu=False).maps[str(layer)]
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("classes", [1, 3])
def test_a_rank_is_the_class_that_is_so_probable(classes):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.append(nn.Linear(4, classes))
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        order = probabilities(network(images)).argsort(dim=1, descending=True)
    ranks = torch.arange(-1, -1 - order.shape[1], -1).expand(5, -1)
    by_rank, by_class = (grad_cam(network, images, each, ["1"]) for each in (ranks, order))
    assert torch.equal(by_rank.targets, order)
    assert torch.equal(by_rank.maps["1"], by_class.maps["1"])
    with pytest.raises(UserError, match="no rank"):
        grad_cam(network, images, ranks - 1, ["1"])


def test_ranks_of_equal_and_of_broken_answers_are_different_classes():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for value in (0.0, torch.nan):
        nn.init.constant_(network[0].weight, value)
        nn.init.constant_(network[0].bias, 0.0)
        ranks = torch.tensor([[-1, -2, -3, -4]] * 2)
        found = grad_cam(network, torch.rand(2, 3, 4, 4), ranks, ["0"])
        assert found.targets.sort(dim=1).values.tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize("size", [(28, 28), (20, 30), (14, 7), (15, 9)])
def test_shrunk_cells_are_means(size):
    maps = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    small = shrink_maps(maps, 14)
    assert small.shape == (2, 3, min(size[0], 14), min(size[1], 14))
    rows, columns = small.shape[-2:]
    for row in range(rows):
        top, bottom = row * size[0] // rows, -(-(row + 1) * size[0] // rows)
        for column in range(columns):
            left, right = column * size[1] // columns, -(-(column + 1) * size[1] // columns)
            mean = maps[..., top:bottom, left:right].mean((-2, -1))
            torch.testing.assert_close(small[..., row, column], mean)


class Flattened(nn.Module):
    """A map that is normalised, then flattened to tokens, as in EfficientFormer and LeViT."""

    def __init__(self, norm: nn.Module, mean: bool = False):
        super().__init__()
        self.conv, self.norm, self.mean = nn.Conv2d(3, 8, 3, padding=1), norm, mean
        self.dense, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.norm(self.conv(x))
        if self.mean:
            return self.head(x.mean((2, 3)) ** 2)
        return self.head(self.dense(x.flatten(2).transpose(1, 2)).tanh().mean(1))


NORMS = {
    "batch": lambda: Flattened(nn.BatchNorm2d(8)),
    "batch and activation": lambda: Flattened(timm.layers.BatchNormAct2d(8)),
    "batch, then activation": lambda: Flattened(nn.Sequential(nn.BatchNorm2d(8), nn.GELU())),
    "instance": lambda: Flattened(nn.InstanceNorm2d(8, affine=True)),
    "instance, mean": lambda: Flattened(nn.InstanceNorm2d(8, affine=True), mean=True),
    "group": lambda: Flattened(nn.GroupNorm(2, 8)),
}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", NORMS)
def test_gradients_through_norms_are_measured_slopes(name, count):
    """For one image, torch's backward pass of batch normalisation is wrong on a CPU."""
    model = seeded(NORMS[name]).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    images, step = pictures(count, 6).double(), 1e-6
    targets = torch.arange(count)
    slopes = torch.zeros_like(images)
    with torch.no_grad():
        for place in range(images[0].numel()):
            moved = torch.zeros_like(images[0]).flatten()
            moved[place] = step
            moved = moved.view_as(images[0])
            rise = model(images + moved) - model(images - moved)
            slopes.flatten(1)[:, place] = rise[range(count), targets] / (2 * step)
    found = attribute(model, images, targets, "saliency", abs=False).maps
    torch.testing.assert_close(found, slopes.sum(1), rtol=0, atol=1e-7)
