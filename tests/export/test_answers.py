"""The function that is exported: the plain network, and its Grad-CAM map for the predicted class.

The map is compared with the closed form where there is one, and with Captum for other heads.
"""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from convlens.core.errors import UserError
from convlens.explain.grad_cam import probabilities
from convlens.export.answers import Answers, copy_plain, trace_with_map
from convlens.models.backbone import build_chain
from convlens.models.classifier import Classifier
from convlens.models.normalise import Normalise
from convlens.training.compiling import compile_in_place


def convolutions(*, inplace: bool = False) -> list[nn.Module]:
    return [
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace),
    ]  # fmt: skip


POOLED = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
# the layers after the feature map, which is (8, 8, 8)
HEADS = {
    "average": [*POOLED, nn.Linear(8, 4)],
    "maximum": [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4)],
    "pool and flatten": [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 4)],
    "overlapping pools": [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)],
    "average pool": [nn.AvgPool2d(3), nn.Flatten(), nn.Linear(32, 4)],
    "padded average": [nn.AvgPool2d(3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(128, 4)],
    "hidden": [*POOLED, nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)],
    "silu": [*POOLED, nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 4)],
    "gelu": [*POOLED, nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)],
    "tanh": [nn.Flatten(), nn.Linear(512, 16), nn.Tanh(), nn.Linear(16, 4)],
    "layer norm": [*POOLED, nn.LayerNorm(8), nn.Linear(8, 4)],
    "batch norm": [nn.BatchNorm2d(8), nn.ReLU6(), *POOLED, nn.Linear(8, 4)],
    "one logit": [*POOLED, nn.Linear(8, 1)],
    "two": [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 2)],
}
LAYER = "4"


def build(head: str, *, inplace: bool = False) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(*convolutions(inplace=inplace), *HEADS[head])
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
    return network.eval()


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))


def captums_map(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return Captum's maps for the predicted class; for class 0 of one logit, of its negative."""
    logits = network(inputs).detach()
    if logits.shape[1] > 1:
        target, sign = logits.argmax(1), torch.ones(len(inputs))
    else:
        target, sign = None, torch.where(logits[:, 0] > 0, 1.0, -1.0)
    maps = LayerGradCam(network, network.get_submodule(LAYER)).attribute(
        inputs, target, relu_attributions=False
    )
    return (maps[:, 0] * sign[:, None, None]).relu().detach()


@pytest.mark.parametrize("head", HEADS)
def test_the_traced_map_is_captums(head):
    network = build(head)
    traced = trace_with_map(Answers(copy_plain(network)), LAYER, images(2))
    for count in (1, 2, 5):  # traced with two images, for any number
        shares, logits, maps = traced(images(count))
        expected = network(images(count)).detach()
        torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(shares, probabilities(expected), atol=1e-6, rtol=0)
        torch.testing.assert_close(maps, captums_map(network, images(count)), atol=1e-6, rtol=0)
        assert maps.shape == (count, 8, 8)


@pytest.mark.parametrize("head", ["average", "pool and flatten", "silu", "layer norm"])
def test_with_several_classes_each_has_captums_map(head):
    network, seen = build(head), False
    traced = trace_with_map(Answers(copy_plain(network), 2.0, several=True), LAYER, images(2))
    for count in (1, 5):
        shares, logits, maps = traced(images(count))
        expected = network(images(count)).detach() / 2
        torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(shares, 1 / (1 + (-expected).exp()), atol=1e-6, rtol=0)
        assert maps.shape == (count, 4, 8, 8)
        for k in range(4):
            theirs = LayerGradCam(network, network.get_submodule(LAYER)).attribute(
                images(count), k, relu_attributions=True
            )
            torch.testing.assert_close(maps[:, k], theirs[:, 0].detach(), atol=1e-6, rtol=0)
            seen |= bool(theirs.any())
    assert seen


def test_the_maps_are_not_all_empty():
    """Otherwise the comparisons above would compare zeros."""
    empty = [head for head in HEADS if not captums_map(build(head), images(5)).any()]
    assert empty == []


def test_an_average_head_has_a_closed_form():
    network = build("average")
    _, logits, maps = trace_with_map(Answers(copy_plain(network)), LAYER, images(2))(images(3))
    features, weights = network[:5](images(3)), network[-1].weight[logits.argmax(1)]
    expected = (weights[:, :, None, None] * features).sum(1).relu() / features[0, 0].numel()
    torch.testing.assert_close(maps, expected.detach(), atol=1e-7, rtol=0)


def test_a_following_layer_in_place_does_not_change_the_map():
    plain, inplace = build("batch norm"), build("batch norm", inplace=True)
    for layer in ("3", "4"):  # the convolution before the activation, and the activation
        one, other = (
            trace_with_map(Answers(copy_plain(each)), layer, images(2))(images(3))[2]
            for each in (plain, inplace)
        )
        assert torch.equal(one, other)


def test_the_temperature_divides_the_logits_and_leaves_the_map():
    network = copy_plain(build("average"))
    plain = trace_with_map(Answers(network), LAYER, images(2))(images(3))
    shares, logits, maps = trace_with_map(Answers(network, 2.5), LAYER, images(2))(images(3))
    torch.testing.assert_close(logits, plain[1] / 2.5)
    torch.testing.assert_close(shares, (plain[1] / 2.5).softmax(1))
    torch.testing.assert_close(maps, plain[2], atol=1e-7, rtol=1e-5)


def build_frozen() -> Classifier:
    """Build a network whose frozen part runs on Winograd's convolutions in training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = {
            "block1": nn.Sequential(nn.Conv2d(3, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            "block2": nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        }
        head = nn.Sequential(nn.Flatten(), nn.Linear(128 * 64, 3))
        classifier = Classifier(Normalise([0.4] * 3, [0.3] * 3), build_chain(blocks), head)
    classifier = classifier.to(memory_format=torch.channels_last).eval()
    classifier.backbone.requires_grad_(False)
    return classifier


def test_the_plain_copy_equals_the_own_layers(monkeypatch):
    classifier, inputs = build_frozen(), torch.rand(6, 3, 32, 32)
    calls, own = [], "convlens.models.winograd.conv3x3_winograd"
    from convlens.models.winograd import conv3x3_winograd

    monkeypatch.setattr(own, lambda *a, **k: calls.append(0) or conv3x3_winograd(*a, **k))
    with torch.no_grad():
        fast = classifier.forward_fast(inputs)
        assert calls  # otherwise this compares nothing
        calls.clear()
        shares, logits = Answers(copy_plain(classifier))(inputs)
    assert not calls
    torch.testing.assert_close(logits, fast, atol=1e-5, rtol=0)
    torch.testing.assert_close(shares, fast.softmax(1), atol=1e-5, rtol=0)


def test_the_plain_copy_is_plain_and_leaves_the_original():
    classifier = build_frozen().train()
    compile_in_place(classifier, graphs=False, deterministic=True)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    plain = copy_plain(classifier.half())
    assert classifier.training and not any(module.training for module in plain.modules())
    assert all(each._compiled_call_impl is None for each in plain.modules())
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    assert all(value.dtype == torch.float32 for value in plain.state_dict().values())
    weight = plain.backbone.block2[0].weight
    assert weight.is_contiguous() and not weight.is_contiguous(memory_format=torch.channels_last)
    assert classifier._compiled_call_impl is not None
    assert all(torch.equal(before[k].half(), v) for k, v in classifier.state_dict().items())


@pytest.mark.parametrize(
    "pooling", [nn.AvgPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(3, 2, 1, count_include_pad=False),
                nn.AvgPool2d(2, divisor_override=3)],
)  # fmt: skip
def test_average_pooling_with_unequal_windows_is_refused_in_a_line(pooling):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), pooling, nn.Flatten(), nn.LazyLinear(3))
    network.eval()(torch.rand(2, 3, 12, 12))
    with pytest.raises(UserError, match="^cam=true: .*leave cam=true out$") as refused:
        trace_with_map(Answers(copy_plain(network)), "1", torch.rand(2, 3, 12, 12))
    assert len(str(refused.value)) <= 160
