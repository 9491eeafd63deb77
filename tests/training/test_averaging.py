"""The moving average of weights against its closed form and against torch's AveragedModel."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from convlens.training.averaging import KEY, WeightAverage


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def step(net: nn.Module, seed: int) -> None:
    """A step of training: weights and running statistics change."""
    rng = torch.Generator().manual_seed(seed)
    net.train()
    loss = net(torch.randn(8, 3, 8, 8, generator=rng)).square().mean()
    loss.backward()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter -= 0.1 * parameter.grad
                parameter.grad = None


def snapshot(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def train(net: nn.Module, average: WeightAverage, steps: range) -> None:
    for number in steps:
        average.use(average=False)
        step(net, number)
        average.update()
    average.use(average=True)


def test_the_average_is_its_closed_form():
    """Weight of each step: (1 - its decay), times the decays of all later steps."""
    net = network()
    history, average = [snapshot(net)], WeightAverage(net, 0.9)
    for number in range(30):
        average.use(average=False)
        step(net, number)
        history.append(snapshot(net))
        average.update()
    average.use(average=True)
    decays = np.array([min(0.9, (1 + t) / (10 + t)) for t in range(30)])
    shares = np.array([np.prod(decays[t:]) * (1 - decays[t - 1] if t else 1) for t in range(31)])
    assert shares.sum() == pytest.approx(1)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            each = np.stack([row[name].double().numpy() for row in history])
            expected = np.tensordot(shares, each, 1)
            np.testing.assert_allclose(value.numpy(), expected, rtol=0, atol=2e-6)
        else:
            assert torch.equal(value, history[-1][name])  # the number of batches is no average


def test_the_average_is_torchs():
    net = network()

    def blend(mine, theirs, count):
        decay = min(0.95, int(count) / (9 + int(count)))
        return mine * decay + theirs * (1 - decay)

    theirs = AveragedModel(net, avg_fn=blend, use_buffers=True)
    theirs.n_averaged.fill_(1)  # at 0, its first update would copy the weights
    average = WeightAverage(net, 0.95)
    for number in range(12):
        average.use(average=False)
        step(net, number)
        average.update()
        theirs.update_parameters(net)
    average.use(average=True)
    for name, value in theirs.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=1e-6)


def test_an_exchange_loses_no_bit_and_keeps_the_tensors():
    net, other = network(), network()
    average = WeightAverage(net, 0.9)
    addresses = [parameter.data_ptr() for parameter in net.parameters()]
    for number in range(5):
        average.use(average=False)
        step(net, number)
        step(other, number)
        average.update()
        for use in (True, False, True, True, False):
            average.use(average=use)
    assert same(snapshot(net), snapshot(other))
    assert addresses == [parameter.data_ptr() for parameter in net.parameters()]
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_frozen_weights_are_their_own_average_to_the_bit():
    net = network()
    net[0].weight.requires_grad_(False)
    before = net[0].weight.clone()
    average = WeightAverage(net, 0.99)
    train(net, average, range(40))
    assert torch.equal(net[0].weight, before)
    assert not torch.equal(net[3].weight, network()[3].weight)


@pytest.mark.parametrize("in_use", [True, False])
def test_a_checkpoint_restores_both_and_training_continues_with_the_same_bits(in_use):
    alone = network()
    whole = WeightAverage(alone, 0.9)
    train(alone, whole, range(6))
    half = network()
    average = WeightAverage(half, 0.9)
    train(half, average, range(3))
    averaged = snapshot(half)
    average.use(average=in_use)
    checkpoint = {"state_dict": {f"model.{k}": v for k, v in half.state_dict().items()}}
    average.save(checkpoint, "model.")
    content = copy.deepcopy(checkpoint)
    weights = {k.removeprefix("model."): v for k, v in content["state_dict"].items()}
    assert same(weights, averaged)  # what a checkpoint answers with is the average
    resumed = network(seed=5)
    resumed.load_state_dict(weights)
    again = WeightAverage(resumed, 0.9, content[KEY])
    assert again.in_use and again.steps == 3
    train(resumed, again, range(3, 6))
    assert same(snapshot(resumed), snapshot(alone))
    for each in (whole, again):
        each.use(average=False)
    assert same(snapshot(resumed), snapshot(alone))
