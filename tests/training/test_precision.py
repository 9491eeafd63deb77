"""``precision: auto`` measures once, changes nothing, and stays with its answer."""

from __future__ import annotations

import json

import pytest
import torch

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.experiment.assemble import assemble
from convlens.experiment.devices import settle_precision
from convlens.experiment.module import build_module
from convlens.training import precision
from support.tiny import TINY, TWO_UNFREEZES


@pytest.fixture
def trial():
    """A network, images of a step, where."""
    return build_module(compose(TINY), ["a", "b", "c"]), 4, torch.device("cpu")


def test_takes_the_faster_one_and_keeps_it(trial, tmp_path, monkeypatch):
    memo = tmp_path / "precision.json"
    fast, slow = {"32": 2.0, "bf16": 1.0}, {"32": 1.0, "bf16": 1.0}
    answers = iter([fast, slow])
    monkeypatch.setattr(precision, "_measure", lambda *_: next(answers))
    assert precision.choose_precision(precision.measure_step_seconds(*trial, memo)) == "bf16"
    assert precision.measure_step_seconds(*trial, memo) == fast  # not measured again
    assert list(json.loads(memo.read_text()).values()) == [fast]
    memo.write_text("{ half a file")
    assert precision.choose_precision(precision.measure_step_seconds(*trial, memo)) == "32"


def test_measuring_leaves_weights_and_random_state_unchanged(trial, tmp_path):
    module = trial[0]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    seconds = precision.measure_step_seconds(*trial, tmp_path / "memo.json")
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

    def timed(device, dtype, enabled=True):
        now[0] += 1.0 if enabled else 2.0
        return autocast(device, dtype, enabled=enabled)

    monkeypatch.setattr(precision.time, "perf_counter", clock)
    monkeypatch.setattr(precision.torch, "autocast", timed)
    # two images are enough: twice their time for four of them
    assert precision._measure(*trial, ("32", "bf16")) == {"32": 4.0, "bf16": 2.0}


def test_bf16_that_is_emulated_is_not_waited_for(trial, monkeypatch):
    """A clock under which it takes thirty times as long: one forward pass shows it."""
    now, halves = [0.0], []
    autocast = torch.autocast

    def timed(device, dtype, enabled=True):
        halves.append(enabled)
        now[0] += 30.0 if enabled else 1.0
        return autocast(device, dtype, enabled=enabled)

    monkeypatch.setattr(precision.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(precision.torch, "autocast", timed)
    found = precision._measure(*trial, ("32", "bf16"))
    assert sum(halves) == 1 and precision.choose_precision(found) == "32"


@pytest.mark.parametrize("batch", [2, 7, 128, 100_000])
def test_a_step_on_few_images_is_scaled_to_the_batch(trial, monkeypatch, batch):
    """The passes grow with the batch, the move of the weights does not: in closed form."""
    sizes = []

    def step(self, images, labels, precision):
        sizes.append(len(images))
        return 0.01 * len(images), 0.125

    monkeypatch.setattr(precision._Trial, "step", step)
    found = precision._measure(trial[0], batch, trial[2], ("32",))
    assert found["32"] == pytest.approx(0.01 * batch + 0.125)
    assert max(sizes) <= min(batch, 50)


def test_what_a_step_keeps_bounds_the_sample(trial, monkeypatch):
    """On a machine so fast that time does not: the largest sample's maps fit the room."""
    module = trial[0]
    kept = []
    hooks = precision._KeptBytes

    class Noted(hooks):
        def __exit__(self, *error):
            super().__exit__(*error)
            kept.append(self.total)

    monkeypatch.setattr(precision, "_KeptBytes", Noted)
    monkeypatch.setattr(precision, "FAIR", 1e9)
    monkeypatch.setattr(precision, "ROOM", 2e6)
    images, *_ = precision._Trial(module, trial[2]).sample(100_000)
    # by hand, for an image of 16 × 16: itself, then maps of 4 × 16 × 16 and 6 × 8 × 8 floats
    least = 4 * len(images) * (3 * 256 + 4 * 256 + 6 * 64)
    assert least <= kept[-1] <= 1.1 * 2e6
    assert kept[-1] > 1e6


@pytest.mark.parametrize("command", ["plan", "train"])
def test_no_command_takes_a_step_on_the_whole_batch_first(at, monkeypatch, command):
    """15.6 GB and ten minutes, for a ResNet50 and 128 images."""
    from convlens.models import Classifier

    sizes, original = [], Classifier.forward_fast

    def noted(self, images):
        sizes.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Classifier, "forward_fast", noted)
    monkeypatch.setattr(precision, "FAIR", 0.0, raising=False)
    monkeypatch.setenv("CONVLENS_CACHE", str(at / "cache"))
    words = [*TINY, "precision=auto", "training.batch_size=512", "callbacks=none"]
    run = assemble(compose(words))
    if command == "plan":
        assert main(["plan", *words]) == 0
    else:
        settle_precision(run)
    assert sizes and max(sizes) == 2


def test_what_is_frozen_makes_another_answer(trial, tmp_path):
    """The head alone, and everything, of one network: two times, not one for both."""
    module = build_module(compose([*TINY, *TWO_UNFREEZES]), ["a", "b", "c"])
    memo = tmp_path / "memo.json"
    for phase in module.schedule.phases:
        module.enter(phase)
        precision.measure_step_seconds(module, 4, trial[2], memo, ("32",))
    assert len(json.loads(memo.read_text())) == 3
