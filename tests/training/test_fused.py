"""A GPU's optimizer is fused; its checkpoints are resumed on a CPU, and the other way round."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch

from convlens.config.compose import compose
from convlens.config.schema import OptimizerConfig
from convlens.experiment.module import build_module
from convlens.training import ClassifierModule
from convlens.training.optimizers import build_optimizer
from support.tiny import TINY

KEYS = {"adam": {}, "adamw": {"weight_decay": 0.1}, "sgd": {"momentum": 0.9}, "rmsprop": {}}
PLAIN = {
    "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}  # fmt: skip


def make(name: str, fused: bool) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 50))
    chosen = OptimizerConfig(name=name, lr=0.1, **KEYS[name])
    return weight, build_optimizer(chosen, [{"name": "model", "params": [weight]}], fused=fused)


def step(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer, count: int) -> None:
    for number in range(count):
        weight.grad = (weight.detach() * (number + 1)).sin()
        optimizer.step()


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("fused", [True, False])
def test_a_checkpoint_of_the_other_implementation_is_continued_by_ones_own(name, fused):
    weight, optimizer = make(name, fused=not fused)
    step(weight, optimizer, 3)
    saved, start = deepcopy(optimizer.state_dict()), weight.detach().clone()

    mine, own = make(name, fused=fused)
    settings = [{k: v for k, v in group.items() if k != "params"} for group in own.param_groups]
    own.load_state_dict(deepcopy(saved))
    loaded = [{k: v for k, v in group.items() if k != "params"} for group in own.param_groups]
    assert loaded == settings
    # torch's own optimizer, which is told the implementation after it has loaded
    plain = torch.nn.Parameter(start.clone())
    has_one = fused and name != "rmsprop"
    reference = PLAIN[name]([plain], lr=0.1, **KEYS[name], **({"fused": True} if has_one else {}))
    reference.load_state_dict(deepcopy(saved))
    for group in reference.param_groups:
        group |= {key: value for key, value in reference.defaults.items() if key == "fused"}
    with torch.no_grad():
        mine.copy_(start)
    step(mine, own, 3)
    step(plain, reference, 3)
    assert torch.equal(mine, plain)
    assert not torch.equal(mine, start)
    assert saved["param_groups"][0].get("fused") == (None if fused or name == "rmsprop" else True)


def test_groups_that_do_not_fit_are_still_refused():
    _, optimizer = make("adam", fused=False)
    state = optimizer.state_dict()
    state["param_groups"] *= 2
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize(
    ("device", "scaler", "clip", "fused"),
    [
        ("cpu", None, None, False),
        ("cuda", None, None, True),
        ("cuda", None, 1.0, True),
        ("cuda", object(), None, True),
        ("cuda", object(), 1.0, False),  # Lightning could not clip scaled gradients
    ],
)
def test_which_run_has_a_fused_optimizer(device, scaler, clip, fused, monkeypatch):
    module = build_module(compose(TINY), list("abcde"))
    monkeypatch.setattr(ClassifierModule, "device", torch.device(device))
    module._trainer = SimpleNamespace(
        precision_plugin=SimpleNamespace(scaler=scaler), gradient_clip_val=clip
    )
    (group,) = module.configure_optimizers().param_groups
    assert bool(group["fused"]) == fused


def test_a_users_own_optimizer_is_left_alone(monkeypatch):
    words = ["optimizer._target_=torch.optim.NAdam", "optimizer.lr=0.1"]
    module = build_module(compose([*TINY, *words]), list("abcde"))
    monkeypatch.setattr(ClassifierModule, "device", torch.device("cuda"))
    (group,) = module.configure_optimizers().param_groups
    assert "fused" not in group
