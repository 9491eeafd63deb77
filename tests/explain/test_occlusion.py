"""Occlusion and superpixel ablation against Captum, and what they leave behind."""

import copy

import pytest
import timm
import torch
from captum.attr import FeatureAblation
from captum.attr import Occlusion as CaptumOcclusion
from torch import nn

from convlens.core.errors import UserError
from convlens.explain.occlusion import (
    check_occlusion,
    compute_logits,
    occlusion,
    superpixel_ablation,
    window_pixels,
)
from convlens.explain.superpixels import superpixels
from support.explain_networks import ConvNet, InPlaceNet, pictures, seeded


def one_channel() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(36, 4),
    )  # fmt: skip


def timm_residual() -> nn.Module:
    return timm.create_model("test_resnet", pretrained=False, num_classes=4)


CASES = {
    "conv": (ConvNet, 3, 24),
    "in_place": (lambda: InPlaceNet(4), 3, 20),
    "timm": (timm_residual, 3, 32),
    "one_channel": (one_channel, 1, 17),
}
WINDOWS = {"overlap": (9, 4), "cut": (8, 7), "tiles": (8, 8), "rows": ((6, 11), (5, 6))}


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def case(name):
    build, channels, size = CASES[name]
    images = pictures(3, size)[:, :channels]
    return seeded(build), images, torch.tensor([0, 3, 1])


def captum_occlusion(model, images, targets, window, stride, **more):
    window = window if isinstance(window, tuple) else (window, window)
    stride = stride if isinstance(stride, tuple) else (stride, stride)
    channels = images.shape[1]
    maps = CaptumOcclusion(model).attribute(
        images, target=targets, sliding_window_shapes=(channels, *window),
        strides=(channels, *stride), **more,
    )  # fmt: skip
    return maps.mean(1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("how", WINDOWS)
def test_occlusion_equals_captum(name, how):
    model, images, targets = case(name)
    window, stride = WINDOWS[how]
    ours = occlusion(model, images, targets, window=window, stride=stride, batch=7)
    theirs = captum_occlusion(model, images, targets, window, stride)
    assert ours.maps.shape == (3, *images.shape[-2:]) and not ours.maps.requires_grad
    assert theirs.abs().max() > 1e-3
    close(ours.maps, theirs)
    close(ours.logits, model(images).detach())


def test_occlusion_on_oblong_pictures_and_other_baselines_equals_captum():
    model, targets = seeded(one_channel), torch.tensor([2, 0])
    images = torch.rand(2, 1, 15, 22, generator=torch.Generator().manual_seed(0))
    fill = torch.rand(1, 1, 15, 22, generator=torch.Generator().manual_seed(1))
    mean = images.mean((-2, -1), keepdim=True)
    for ours, theirs in ((0.4, 0.4), (fill, fill), ("mean", mean.expand_as(images))):
        found = occlusion(model, images, targets, window=6, stride=5, baseline=ours)
        close(found.maps, captum_occlusion(model, images, targets, 6, 5, baselines=theirs))


def test_one_logit_equals_captum_for_both_classes():
    model, images = seeded(InPlaceNet), pictures(2, 20)
    theirs = captum_occlusion(model, images, 0, 6, 3)
    ours = occlusion(model, images, torch.tensor([[0, 1], [1, 0]]), window=6, stride=3)
    assert ours.logits.shape == (2, 1)
    close(ours.maps[0], torch.stack([-theirs[0], theirs[0]]))
    close(ours.maps[1], torch.stack([theirs[1], -theirs[1]]))


def test_several_targets_and_the_predicted_class_share_one_run():
    model, images, targets = case("conv")
    passes = []
    handle = model.register_forward_hook(lambda m, i, output: passes.append(len(output)))
    both = occlusion(model, images, torch.stack([targets, -torch.ones(3).long()], 1),
                     window=8, stride=8)  # fmt: skip
    handle.remove()
    assert sum(passes) == 3 + 3 * 9
    predicted = model(images).argmax(1)
    assert torch.equal(both.targets, torch.stack([targets, predicted], 1))
    close(both.maps[:, 0], occlusion(model, images, targets, window=8, stride=8).maps)
    close(both.maps[:, 1], occlusion(model, images, predicted, window=8, stride=8).maps)


@pytest.mark.parametrize("batch", [5, None])
def test_batched_equals_one_by_one(batch):
    model, images, targets = case("timm")
    whole = occlusion(model, images, targets, window=16, stride=8, batch=batch).maps
    segments = superpixels(images, 4)
    patches = superpixel_ablation(model, images, targets, segments, batch=batch).maps
    for i in range(3):
        one = images[i : i + 1], targets[i : i + 1]
        close(whole[i : i + 1], occlusion(model, *one, window=16, stride=8).maps)
        close(patches[i : i + 1], superpixel_ablation(model, *one, segments[i]).maps)


@pytest.mark.parametrize("name", CASES)
def test_superpixel_ablation_equals_captum(name):
    model, images, targets = case(name)
    segments = superpixels(images, 9)
    ours = superpixel_ablation(model, images, targets, segments, baseline=0.3, batch=5).maps
    theirs = FeatureAblation(model).attribute(
        images, baselines=0.3, target=targets, feature_mask=segments[:, None]
    )
    assert theirs.abs().max() > 1e-3
    close(ours, theirs.mean(1))


def test_superpixels_of_a_plain_picture_are_the_grid():
    labels = superpixels(torch.full((1, 3, 12, 18), 0.7), 6)[0]
    row, column = torch.arange(12) // 6, torch.arange(18) // 6
    assert torch.equal(labels, row[:, None] * 3 + column)


def test_superpixels_keep_to_edges_and_are_connected_and_deterministic():
    images = pictures(2, 40) * 0.1
    images[0, :, :, 23:] += 0.8  # an edge that is none of the grid's
    labels = superpixels(images, 16)
    assert torch.equal(labels, superpixels(images, 16))
    left, right = set(labels[0, :, :23].unique().tolist()), set(labels[0, :, 23:].unique().tolist())
    assert not left & right
    for picture in labels:
        assert torch.equal(picture.unique(), torch.arange(int(picture.max()) + 1))
        assert 10 <= int(picture.max()) + 1 <= 16
        for label in picture.unique():
            assert pieces(picture == label) == 1


def pieces(mask) -> int:
    """Connected pieces, by flooding."""
    left, count = {tuple(place) for place in mask.nonzero().tolist()}, 0
    while left:
        edge, count = [left.pop()], count + 1
        while edge:
            y, x = edge.pop()
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= near
            edge += near
    return count


def test_network_and_random_state_are_unchanged():
    model = seeded(ConvNet).train()
    model.bn1.eval()
    model.conv1.requires_grad_(False)
    images, targets = pictures(2), torch.tensor([0, 1])
    model(images).sum().backward()
    weights = copy.deepcopy(model.state_dict())
    gradients = {n: copy.deepcopy(p.grad) for n, p in model.named_parameters()}
    state = torch.get_rng_state()
    with torch.inference_mode():
        occlusion(model, images, targets, window=8, stride=8)
        superpixel_ablation(model, images, targets, superpixels(images, 4))
    assert all(torch.equal(weights[n], value) for n, value in model.state_dict().items())
    for name, parameter in model.named_parameters():
        before = gradients[name]
        assert (parameter.grad is None) if before is None else torch.equal(parameter.grad, before)
        assert parameter.requires_grad == (not name.startswith("conv1"))
    assert model.training and not model.bn1.training and model.bn2.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(compute_logits(model, images), compute_logits(copy.deepcopy(model), images))


def test_mistakes_are_answered_in_one_line():
    model, images, targets = case("conv")
    with pytest.raises(UserError, match="30 pixels does not fit an image of 24 pixels"):
        occlusion(model, images, targets, window=30, stride=4)
    with pytest.raises(UserError, match="stride 9 must be between 1 and"):
        occlusion(model, images, targets, window=8, stride=9)
    with pytest.raises(UserError, match="'grey' is neither"):
        occlusion(model, images, targets, window=8, stride=8, baseline="grey")
    with pytest.raises(UserError, match="classes 0 to 3"):
        occlusion(model, images, torch.tensor([0, 1, 4]), window=8, stride=8)
    with pytest.raises(ValueError, match="segments"):
        superpixel_ablation(model, images, targets, torch.zeros(2, 24, 24).long())


def test_windows_as_shares_or_pixels():
    for size in ((150, 150), (224, 224), (28, 28), (299, 180)):
        window, stride = window_pixels(0.25, size), window_pixels(0.125, size)
        assert check_occlusion(size, window=window, stride=stride) in (49, 56, 64)
    assert window_pixels(40, (32, 64)) == (32, 40)
    for wrong in (0, 1.5, -0.2):
        with pytest.raises(UserError, match="expected a fraction of the image"):
            window_pixels(wrong, (32, 32))
