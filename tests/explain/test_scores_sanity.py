"""Randomised layers: the right ones, and the network unchanged afterwards."""

import copy

import pytest
import torch
from torch import nn

from convlens.core.errors import UserError
from convlens.explain import grad_cam, parameter_randomisation, spearman
from support.explain_networks import ConvNet, pictures, seeded

IMAGES, TARGETS = pictures(3), torch.tensor([0, 1, 2])
TOP_DOWN = ["fc2", "fc1", "bn2", "conv2", "bn1", "conv1"]


def explainer(model: nn.Module, layer: str = "conv2"):
    return lambda: grad_cam(model, IMAGES, TARGETS, [layer], relu=False).maps[layer][:, 0]


def states(model: nn.Module, seed: int = 0) -> list[dict]:
    """The weights that each explanation saw, the trained ones first."""
    seen = []

    def explain():
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(len(seen)))

    parameter_randomisation(model, explain, seed=seed)
    return seen


def changed(state: dict, trained: dict) -> set[str]:
    return {key.split(".")[0] for key in state if not torch.equal(state[key], trained[key])}


def test_layers_are_randomised_one_after_another_from_the_top():
    trained, *cascade = states(seeded(ConvNet))
    for i, name in enumerate(TOP_DOWN):
        assert changed(cascade[i], trained) == set(TOP_DOWN[: i + 1])
        for key in (key for key in trained if key.startswith(name)):
            assert torch.equal(cascade[i][key], cascade[-1][key])  # one layer, one draw


def test_weights_are_those_of_a_fresh_layer():
    model = seeded(ConvNet)
    state = states(model)[-1]
    bound = 1 / (8 * 9) ** 0.5  # PyTorch's own: uniform up to one over the root of the fan-in
    assert 0.95 * bound < state["conv2.weight"].abs().max() <= bound
    again, other = states(model)[-1], states(model, seed=1)[-1]
    assert torch.equal(state["conv2.weight"], again["conv2.weight"])
    assert not torch.equal(state["conv2.weight"], other["conv2.weight"])


def test_similarities_are_those_of_the_maps():
    model, maps = seeded(ConvNet), []

    def explain():
        maps.append(explainer(model, "conv1")())
        return maps[-1]

    found = parameter_randomisation(model, explain, seed=0)
    assert found.layers == tuple(TOP_DOWN)
    assert found.kept == ()
    assert found.spearman.shape == (6, 3)
    for i, random in enumerate(maps[1:]):
        torch.testing.assert_close(found.spearman[i], spearman(random, maps[0]))
    assert found.spearman.mean() < 0.9


def test_a_method_that_ignores_the_network_is_found_out():
    found = parameter_randomisation(seeded(ConvNet), lambda: IMAGES[:, 0], seed=0)
    torch.testing.assert_close(found.spearman, torch.ones(6, 3))


def test_a_blank_map_is_nan():
    model = seeded(ConvNet)
    maps = iter([IMAGES[:, 0], *(IMAGES[:, 0] * torch.tensor([0, 1, 1])[:, None, None],) * 6])
    found = parameter_randomisation(model, lambda: next(maps), seed=0)
    assert found.spearman.isnan().all(0).tolist() == [True, False, False]


@pytest.mark.parametrize("fails", [False, True], ids=["to_the_end", "exception"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_network_is_unchanged_to_the_last_bit(fails, dtype):
    model = seeded(ConvNet).to(dtype).train()
    model.bn1.eval()
    model.conv1.requires_grad_(False)
    tensors = dict(model.state_dict(keep_vars=True))
    before = {name: (t.data_ptr(), t._version, t.detach().clone()) for name, t in tensors.items()}
    learning = {name: t.requires_grad for name, t in tensors.items()}
    flags = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    calls = []

    def explain():
        calls.append(None)
        if fails and len(calls) == 4:
            raise ZeroDivisionError
        return explainer(model)()

    if fails:
        with pytest.raises(ZeroDivisionError):
            parameter_randomisation(model, explain, seed=0)
    else:
        parameter_randomisation(model, explain, seed=0)
    assert len(calls) == (4 if fails else 7)
    after = model.state_dict(keep_vars=True)
    assert all(after[name] is tensor for name, tensor in tensors.items())
    for name, (address, version, value) in before.items():
        assert (after[name].data_ptr(), after[name]._version) == (address, version)
        assert torch.equal(after[name], value)
        assert after[name].requires_grad == learning[name]
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_graph_in_between_stays_valid():
    def gradients(look: bool) -> list[torch.Tensor]:
        model = seeded(ConvNet)
        loss = model(IMAGES).logsumexp(1).sum()
        if look:
            parameter_randomisation(model, explainer(model), seed=0)
        loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    assert all(map(torch.equal, gradients(True), gradients(False)))


def test_state_of_the_caller_does_not_matter():
    model = seeded(ConvNet)
    expected = parameter_randomisation(model, explainer(model), seed=0).spearman
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = parameter_randomisation(model, explainer(model), seed=0).spearman
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_shared_weights_stay_shared():
    shared = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    shared[1].weight = shared[0].weight
    state = states(shared)[-1]
    assert torch.equal(state["0.weight"], state["1.weight"])
    assert shared[1].weight is shared[0].weight


class Scaled(nn.Module):
    """A weight of its own, and no way to draw it anew."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


def test_what_cannot_be_randomised_is_said():
    model = copy.deepcopy(seeded(ConvNet))
    model.block = nn.Sequential(Scaled(), nn.Linear(3, 3))
    model.normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    found = parameter_randomisation(model, explainer(model), seed=0)
    assert found.layers == ("block.1", *TOP_DOWN)
    assert {"block.0", "normed"} <= set(found.kept)
    with pytest.raises(UserError, match="no layer of Scaled can be randomised"):
        parameter_randomisation(Scaled(), lambda: IMAGES[:, 0], seed=0)
