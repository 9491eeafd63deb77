"""Looking changes nothing, and works whatever state the caller is in."""

import copy

import pytest
import torch
from torch import nn

from convlens.core.evaluation import evaluation_mode
from convlens.explain import (
    activations,
    choose_layers,
    explaining,
    grad_cam,
    gradient_ascent,
    record,
    unit_effects,
)
from support.explain_networks import ConvNet, field, pictures, seeded

IMAGES, TARGETS = pictures(2), torch.tensor([[0, 1], [2, 3]])
LOOKS = {
    "activations": lambda m: activations(m, IMAGES, ["conv1", "fc1"]).layers["fc1"],
    "grad_cam": lambda m: grad_cam(m, IMAGES, TARGETS, ["conv1", "relu2"]).maps["relu2"],
    "gradient_ascent": lambda m: (
        gradient_ascent(
            m, "conv2", [0, 3], size=24, channels=3, steps=3, step_size=0.05, seed=0, jitter=2
        ).images
    ),
    "unit_effects": lambda m: unit_effects(m, IMAGES, ["conv1", "fc1"])["fc1"],
    "receptive_field": lambda m: torch.tensor(field(m, "conv2", IMAGES[:1])),
    "choose_layers": lambda m: torch.tensor(
        len(choose_layers(m, "auto", "grad_cam", example=IMAGES))
    ),
}


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.fixture
def training_net() -> nn.Module:
    """In mid-training: gradients accumulated, one batch norm frozen, one layer frozen."""
    model = seeded(ConvNet).train()
    model.bn1.eval()
    model.conv1.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        model(IMAGES).sum().backward()
    return model


@pytest.mark.parametrize("look", LOOKS)
def test_everything_about_the_network_is_unchanged(look, training_net):
    model = training_net
    weights = copy.deepcopy(model.state_dict())
    gradients = {n: copy.deepcopy(p.grad) for n, p in model.named_parameters()}
    flags = [module.training for module in model.modules()]
    learning = [parameter.requires_grad for parameter in model.parameters()]
    generator, grad_mode = torch.get_rng_state(), torch.is_grad_enabled()

    LOOKS[look](model)

    assert all(torch.equal(weights[n], value) for n, value in model.state_dict().items())
    for name, parameter in model.named_parameters():
        before = gradients[name]
        assert (parameter.grad is None) if before is None else torch.equal(parameter.grad, before)
    assert [module.training for module in model.modules()] == flags
    assert [parameter.requires_grad for parameter in model.parameters()] == learning
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.is_grad_enabled() == grad_mode
    assert hooks(model) == 0


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("state", ["inference_mode", "no_grad", "autocast"])
def test_results_unchanged_by_the_state_of_the_caller(look, state):
    model = seeded(ConvNet)
    expected = LOOKS[look](model)
    context = {
        "inference_mode": torch.inference_mode,
        "no_grad": torch.no_grad,
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    }[state]
    with context():
        result = LOOKS[look](model)
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


def test_pictures_and_targets_born_in_inference_mode():
    model = seeded(ConvNet)
    with torch.inference_mode():
        images, targets = IMAGES.clone(), TARGETS.clone()
        maps = grad_cam(model, images, targets, ["conv2"]).maps["conv2"]
    expected = grad_cam(model, IMAGES, TARGETS, ["conv2"]).maps["conv2"]
    torch.testing.assert_close(maps, expected)


def test_results_unchanged_when_all_parameters_are_frozen():
    model = seeded(ConvNet)
    expected = LOOKS["grad_cam"](model)
    torch.testing.assert_close(LOOKS["grad_cam"](model.requires_grad_(False)), expected)


def test_half_precision_weights_are_explained_in_fp32_and_unchanged():
    model = seeded(ConvNet).bfloat16()
    tensors = [*model.parameters(), *model.buffers()]
    before = [(tensor.data_ptr(), tensor.clone()) for tensor in tensors]
    maps = LOOKS["grad_cam"](model)
    expected = LOOKS["grad_cam"](copy.deepcopy(model).float())
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, expected, rtol=1e-6, atol=1e-6)
    for tensor, (address, value) in zip(tensors, before, strict=True):
        assert tensor.data_ptr() == address
        assert torch.equal(tensor, value)


def test_an_explanation_between_forward_and_backward_leaves_gradients_unchanged():
    def gradients(look: bool):
        model = seeded(ConvNet)
        loss = model(IMAGES).logsumexp(1).sum()
        if look:
            LOOKS["grad_cam"](model)
        loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    for with_look, without in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(with_look, without)


def test_hooks_never_outlive_the_with_also_on_exception():
    model = seeded(ConvNet)
    with pytest.raises(ZeroDivisionError), record(model, ["conv1", "relu1"]) as taps:
        taps.run(IMAGES)
        assert hooks(model) == 2
        raise ZeroDivisionError
    assert hooks(model) == 0
    with pytest.raises(RuntimeError):
        activations(model, pictures(1, 50), ["conv1"])
    assert hooks(model) == 0


def test_modes_come_back_one_by_one_also_on_exception(training_net):
    with pytest.raises(ZeroDivisionError), evaluation_mode(training_net):
        assert not any(module.training for module in training_net.modules())
        raise ZeroDivisionError
    assert training_net.bn2.training and not training_net.bn1.training
    with pytest.raises(ZeroDivisionError), explaining(training_net):
        assert not any(parameter.requires_grad for parameter in training_net.parameters())
        raise ZeroDivisionError
    assert training_net.conv2.weight.requires_grad and not training_net.conv1.weight.requires_grad


def test_a_warm_compiled_network_gives_unchanged_results():
    model = seeded(ConvNet)
    expected = LOOKS["grad_cam"](model)
    model.compile(backend="eager")
    with torch.no_grad():
        for _ in range(2):
            model(IMAGES)
    torch.testing.assert_close(LOOKS["grad_cam"](model), expected)
