"""``precision: auto`` measures once, changes nothing, and stays with its answer."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import TINY

from convlens.config import compose
from convlens.training import ClassifierModule, precision


@pytest.fixture
def trial():
    module = ClassifierModule(compose(TINY), ["a", "b", "c"])
    return module, torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0]), torch.device("cpu")


def test_takes_the_faster_one_and_keeps_it(trial, tmp_path, monkeypatch):
    memo = tmp_path / "precision.json"
    fast, slow = {"32": 2.0, "bf16": 1.0}, {"32": 1.0, "bf16": 1.0}
    answers = iter([fast, slow])
    monkeypatch.setattr(precision, "_measured", lambda *_: next(answers))
    assert precision.fastest(precision.step_seconds(*trial, memo)) == "bf16"
    assert precision.step_seconds(*trial, memo) == fast  # not measured again
    assert list(json.loads(memo.read_text()).values()) == [fast]
    memo.write_text("{ half a file")
    assert precision.fastest(precision.step_seconds(*trial, memo)) == "32"


def test_measuring_leaves_weights_and_random_state_unchanged(trial, tmp_path):
    module = trial[0]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    seconds = precision.step_seconds(*trial, tmp_path / "memo.json")
    assert set(seconds) == {"32", "bf16"} and min(seconds.values()) > 0
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_medians_decide(trial, monkeypatch):
    """A clock under which bf16 steps take half as long as plain ones."""
    now = [0.0]

    def clock():
        return now[0]

    autocast = torch.autocast

    def timed(device, dtype, enabled):
        now[0] += 1.0 if enabled else 2.0
        return autocast(device, dtype, enabled=enabled)

    monkeypatch.setattr(precision.time, "perf_counter", clock)
    monkeypatch.setattr(precision.torch, "autocast", timed)
    assert precision._measured(*trial) == {"32": 2.0, "bf16": 1.0}
