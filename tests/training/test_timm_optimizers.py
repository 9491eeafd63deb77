"""Every optimizer of timm's factory: built by name, saved as data, continued with the same bits."""

from __future__ import annotations

import io

import pytest
import timm.optim
import torch
from torch import nn

from convlens.config.compose import compose
from convlens.config.schema import OptimizerConfig
from convlens.core.errors import UserError
from convlens.training.optimizers import build_optimizer, list_timm_optimizers


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)
    )


def make(name: str, net: nn.Sequential, **values) -> torch.optim.Optimizer:
    values = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01, **values}
    groups = [
        {"name": "head", "params": list(net[4].parameters())},
        {"name": "base", "params": list(net[:2].parameters())},
    ]
    return build_optimizer(OptimizerConfig(name=name, library="timm", **values), groups)


def train(net: nn.Sequential, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for number in steps:
        for group, factor in zip(optimizer.param_groups, (1.0, 0.5), strict=True):
            group["lr"] = 0.01 * factor / (1 + number)
        images = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images), torch.arange(8) % 3)
        loss.backward()
        optimizer.step()


def through_a_file(content: dict) -> dict:
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", list_timm_optimizers())
def test_training_continues_from_a_checkpoint_with_the_same_bits(name):
    alone = network()
    start = [parameter.detach().clone() for parameter in alone.parameters()]
    train(alone, make(name, alone), range(6))
    assert any(not torch.equal(a, b) for a, b in zip(alone.parameters(), start, strict=True))
    half = network()
    optimizer = make(name, half)
    train(half, optimizer, range(3))
    content = through_a_file({"net": half.state_dict(), "optimizer": optimizer.state_dict()})
    resumed = network()
    resumed.load_state_dict(content["net"])
    again = make(name, resumed)
    again.load_state_dict(content["optimizer"])
    train(resumed, again, range(3, 6))
    for key, value in alone.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert [group["name"] for group in again.param_groups] == ["head", "base"]


@pytest.mark.parametrize("name", ["lamb", "muon", "lion"])
def test_the_steps_are_those_of_timms_factory(name):
    ours, theirs = network(), network()
    train(ours, make(name, ours), range(4))
    groups = [{"params": list(theirs[4].parameters())}, {"params": list(theirs[:2].parameters())}]
    reference = timm.optim.create_optimizer_v2(
        groups, name, lr=0.01, momentum=0.9, weight_decay=0.01
    )
    train(theirs, reference, range(4))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


def test_sgd_with_nesterov_is_torchs():
    """The optimizer that needs no other library."""
    chosen = compose(["optimizer=sgd"]).optimizer
    assert chosen.nesterov and chosen.library is None
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    optimizer = build_optimizer(chosen, [{"name": "model", "params": [ours]}])
    reference = torch.optim.SGD([theirs], chosen.lr, momentum=0.9, nesterov=True)
    for number in range(4):
        for weight, each in ((ours, optimizer), (theirs, reference)):
            weight.grad = (weight.detach() * (number + 1)).sin()
            each.step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimizer.name=lambb"], "optimizer.name=lambb: did you mean lamb"),
        (["optimizer.name=adahessian"], "optimizer.name=adahessian: did you mean"),
        (["optimizer.name=kron"], "optimizer.name=kron: did you mean"),
        (["optimizer.name=fusedlamb"], "optimizer.name=fusedlamb: did you mean"),
        (["optimizer.name=bnbadam8bit"], "optimizer.name=bnbadam8bit: did you mean"),
        (["optimizer.momentum=-1"], "optimizer.momentum=-1: expected a number of at least 0"),
    ],
)
def test_what_no_run_can_use_is_refused(words, said):
    with pytest.raises(UserError, match=said):
        chosen = compose(["optimizer=timm", *words]).optimizer
        build_optimizer(chosen, [{"name": "model", "params": [nn.Parameter(torch.ones(2, 2))]}])


def test_a_value_that_an_optimizer_does_not_take_is_refused():
    with pytest.raises(UserError, match="optimizer=lion:"):
        make("lion", network(), alpha=0.9)
