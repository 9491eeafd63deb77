"""The moving average of weights against its closed form and against torch's AveragedModel."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from convlens.config.checks import replace_values
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.training.averaging import KEY, Rule, WeightAverage, choose_rule

PLAIN = compose([])  # of twelve epochs


def rule(**values) -> Rule:
    """How weights are averaged with these keys of ``training``."""
    keys = {f"training.{key}": value for key, value in values.items()}
    found = choose_rule(replace_values(PLAIN, keys).training, 12)
    assert found is not None
    return found


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
        average.update(0, False)
    average.use(average=True)


def test_the_average_is_its_closed_form():
    """Weight of each step: (1 - its decay), times the decays of all later steps."""
    net = network()
    history, average = [snapshot(net)], WeightAverage(net, rule(ema=0.9))
    for number in range(30):
        average.use(average=False)
        step(net, number)
        history.append(snapshot(net))
        average.update(0, False)
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
    average = WeightAverage(net, rule(ema=0.95))
    for number in range(12):
        average.use(average=False)
        step(net, number)
        average.update(0, False)
        theirs.update_parameters(net)
    average.use(average=True)
    for name, value in theirs.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=1e-6)


def test_an_exchange_loses_no_bit_and_keeps_the_tensors():
    net, other = network(), network()
    average = WeightAverage(net, rule(ema=0.9))
    addresses = [parameter.data_ptr() for parameter in net.parameters()]
    for number in range(5):
        average.use(average=False)
        step(net, number)
        step(other, number)
        average.update(0, False)
        for use in (True, False, True, True, False):
            average.use(average=use)
    assert same(snapshot(net), snapshot(other))
    assert addresses == [parameter.data_ptr() for parameter in net.parameters()]
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("values", [{"ema": 0.99}, {"swa": 2}])
def test_frozen_weights_are_their_own_average_to_the_bit(values):
    net = network()
    net[0].weight.requires_grad_(False)
    # -0.0 equals 0.0, but has other bits
    special = [-0.0, 0.0, 1e-45, -1e-45, 1e30, -1e30, 0.1, -0.1, 1.0]
    net[0].weight[0, 0] = torch.tensor(special).view(3, 3)
    before = net[0].weight.contiguous().view(torch.int32)
    average = WeightAverage(net, rule(**values))
    for epoch in range(8):
        for number in range(5):
            average.use(average=False)
            step(net, 5 * epoch + number)
            average.update(epoch, number == 4)
        average.use(average=True)
    assert torch.equal(net[0].weight.contiguous().view(torch.int32), before)
    assert not torch.equal(net[3].weight, network()[3].weight)


@pytest.mark.parametrize("in_use", [True, False])
def test_a_checkpoint_restores_both_and_training_continues_with_the_same_bits(in_use):
    alone = network()
    whole = WeightAverage(alone, rule(ema=0.9))
    train(alone, whole, range(6))
    half = network()
    average = WeightAverage(half, rule(ema=0.9))
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
    again = WeightAverage(resumed, rule(ema=0.9), content[KEY])
    assert again.in_use and again.steps == 3
    train(resumed, again, range(3, 6))
    assert same(snapshot(resumed), snapshot(alone))
    for each in (whole, again):
        each.use(average=False)
    assert same(snapshot(resumed), snapshot(alone))


def test_the_equal_average_is_the_mean_of_the_ends_of_epochs():
    """Three steps an epoch, averaged from the end of the second epoch on."""
    net = network()
    average, ends = WeightAverage(net, rule(swa=2)), []
    for epoch in range(5):
        for number in range(3):
            average.use(average=False)
            step(net, 3 * epoch + number)
            average.update(epoch, number == 2)
            trained = snapshot(net)
            average.use(average=True)
            if epoch < 1:  # until then the average is the network itself
                assert same(snapshot(net), trained)
        ends.append(trained)
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                wanted = torch.stack([end[name] for end in ends[1:] or ends]).mean(0)
                torch.testing.assert_close(value, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"ema": 0.9, "swa": 3}, "training.ema=0.9 training.swa=3: choose one of the two"),
        ({"swa": 12}, "training.swa=12: the run has 12 epochs, so nothing would be averaged"),
        ({"ema": 1.0}, "training.ema=1.0: expected null or a number in"),
        ({"swa": 0}, "training.swa=0: expected null or a whole number of at least 1"),
    ],
)
def test_averages_of_nothing_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        rule(**values)


def test_without_a_key_nothing_is_averaged():
    assert choose_rule(PLAIN.training, 12) is None
