"""``precision: auto`` measures once, changes nothing, and stays with its answer."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
import torch
from torch import nn

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.experiment import devices
from convlens.experiment.assemble import assemble
from convlens.experiment.devices import resolve_precision, settle_precision
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
    assert precision._measure(*trial, ("32", "bf16"), 10_000) == {"32": 4.0, "bf16": 2.0}


@pytest.fixture
def watched(monkeypatch):
    """A clock that only steps move: ``seconds[precision]`` per image; notes each step."""
    now, seconds, steps = [0.0], {"32": 0.1, "bf16": 0.1}, []

    def step(self, images, labels, name):
        began = now[0]
        now[0] += seconds[name] * len(images)
        steps.append((name, len(images), began, now[0]))
        return now[0] - began, 0.0

    monkeypatch.setattr(precision._Trial, "step", step)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: now[0])
    return seconds, steps


@pytest.mark.parametrize("each", [0.0005, 0.05, 0.2, 0.5, 1.4, 20.0])
@pytest.mark.parametrize("run", [0, 1, 1000])
def test_no_step_begins_that_would_end_too_late(trial, watched, each, run):
    """At most 3 s or 2 % of the run, apart from the first step, which nothing is known about."""
    seconds, steps = watched
    seconds |= {"32": each, "bf16": each}
    found = precision._measure(trial[0], 64, trial[2], ("32", "bf16"), run)
    assert found["32"] == pytest.approx(64 * each)
    allowed = max(3.0, 0.02 * run * 64 * each)
    assert all(end <= allowed + 1e-9 for *_, end in steps[1:])
    assert steps[0][1] == 2
    if "bf16" not in found:
        assert found[precision.STOPPED] == pytest.approx(allowed)
        assert steps[-1][-1] + 4 * each > allowed  # the time was used
    if run == 1000:  # there was time for everything
        assert [name for name, *_ in steps].count("bf16") == 1 + precision.ROUNDS


def test_what_a_first_bf16_step_shows_ends_the_measurement(trial, watched):
    """It takes a hundred times as long; nothing more is begun."""
    seconds, steps = watched
    seconds |= {"32": 0.05, "bf16": 5.0}
    found = precision._measure(trial[0], 4, trial[2], ("32", "bf16"), 0)
    assert [name for name, *_ in steps].count("bf16") == 1 and "bf16" not in found
    assert precision.choose_precision(found) == "32"


def test_a_precision_asked_alone_is_always_measured(trial, watched):
    seconds, _ = watched
    seconds |= {"32": 10.0, "bf16": 30.0}
    assert precision._measure(*trial, ("bf16",), 0) == {"bf16": 120.0}


def test_lack_of_time_is_remembered_until_a_longer_run(trial, watched, tmp_path):
    seconds, steps = watched
    seconds |= {"32": 0.7, "bf16": 0.1}
    memo = tmp_path / "memo.json"
    first = precision.measure_step_seconds(*trial, memo, steps=10)
    assert first == {"32": pytest.approx(2.8)}
    count = len(steps)
    assert precision.measure_step_seconds(*trial, memo, steps=10) == first
    assert precision.measure_step_seconds(*trial, memo, ("32",)) == first and len(steps) == count
    assert precision.measure_step_seconds(*trial, memo, steps=1000) == {
        "32": pytest.approx(2.8), "bf16": pytest.approx(0.4)
    }  # fmt: skip


def test_lack_of_time_is_reported(monkeypatch, trial):
    monkeypatch.setattr(devices, "has_native_bf16", lambda device: True)
    monkeypatch.setattr(devices, "time_steps", lambda *_, **__: {"32": 2.0})
    chosen, reason = resolve_precision(compose(TINY), trial[0], lambda: 100)
    assert chosen == "32" and reason.endswith("there was no time to measure bf16")


def test_emulated_bf16_is_known_and_not_measured(monkeypatch, trial):
    monkeypatch.setattr(devices, "has_native_bf16", lambda device: False)
    monkeypatch.setattr(devices, "time_steps", None)
    assert resolve_precision(compose(TINY), trial[0], lambda: 100)[0] == "32"


@pytest.mark.parametrize(("kind", "chosen"), [("cuda", "bf16"), ("cpu", "32")])
def test_processes_of_torchrun_agree_without_measuring(monkeypatch, trial, kind, chosen):
    monkeypatch.setattr(devices, "choose_device", lambda config: torch.device(kind))
    monkeypatch.setattr(devices, "has_native_bf16", lambda device: True)
    monkeypatch.setattr(devices, "is_launched_externally", lambda: True)
    monkeypatch.setattr(devices, "time_steps", None)
    monkeypatch.setattr(devices, "count_multiply_adds", None)
    assert resolve_precision(compose(TINY), trial[0], lambda: 100)[0] == chosen


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the flags of an x86 processor")
def test_native_bf16_is_what_the_processor_says():
    flags = Path("/proc/cpuinfo").read_text().split()
    assert precision.has_native_bf16(torch.device("cpu")) == ("avx512_bf16" in flags)
    assert not precision.has_native_bf16(torch.device("mps"))


@pytest.mark.parametrize(("billions", "chosen"), [(20.0, "bf16"), (0.001, "32")])
def test_a_gpu_takes_bf16_from_a_size_on(monkeypatch, trial, billions, chosen):
    """Of a network with much arithmetic nothing is timed; noise may not decide."""
    monkeypatch.setattr(devices, "choose_device", lambda config: torch.device("cuda"))
    monkeypatch.setattr(devices, "has_native_bf16", lambda device: True)
    monkeypatch.setattr(devices, "count_multiply_adds", lambda module: billions)
    timed = []
    monkeypatch.setattr(
        devices, "time_steps", lambda *_, steps: timed.append(steps) or {"32": 1.0, "bf16": 1.0}
    )
    assert resolve_precision(compose(TINY), trial[0], lambda: 30)[0] == chosen
    assert timed == ([] if chosen == "bf16" else [30])


def test_multiply_adds_are_those_of_the_layers(trial):
    """By hand, in billions: two convolutions on 16 and 8 pixels, and the layers of the head."""
    module = trial[0]
    layers = [m for m in module.model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    sides = iter([16, 8])
    count = sum(
        layer.weight.numel() * (next(sides) ** 2 if isinstance(layer, nn.Conv2d) else 1)
        for layer in layers
    )
    assert precision.count_multiply_adds(module) == pytest.approx(count / 1e9)


@pytest.mark.parametrize("batch", [2, 7, 128, 100_000])
def test_a_step_on_few_images_is_scaled_to_the_batch(trial, monkeypatch, batch):
    """The passes grow with the batch, the move of the weights does not: in closed form."""
    sizes = []

    def step(self, images, labels, precision):
        sizes.append(len(images))
        return 0.01 * len(images), 0.125

    monkeypatch.setattr(precision._Trial, "step", step)
    found = precision._measure(trial[0], batch, trial[2], ("32",), 0)
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
    sample = precision._Trial(module, trial[2]).sample(100_000, lambda *_: True)
    images = sample.images
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
    monkeypatch.setattr(precision, "FAIR", 0.0)
    monkeypatch.setattr(devices, "has_native_bf16", lambda device: True)
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


@pytest.mark.parametrize(
    ("words", "epochs"), [([], 4), (["cache_features=never"], 6)], ids=["stored", "end to end"]
)
def test_only_steps_on_images_allow_more_time(at, monkeypatch, words, epochs):
    """Of three phases of two epochs, the first trains on stored features: its steps are short."""
    asked = []
    monkeypatch.setattr(devices, "has_native_bf16", lambda device: True)
    monkeypatch.setattr(
        devices, "time_steps", lambda *_, steps: asked.append(steps) or {"32": 1.0, "bf16": 1.0}
    )
    run = assemble(compose([*TINY, *TWO_UNFREEZES, "precision=auto", *words]))
    settle_precision(run)
    batches = len(run.data.train_dataloader())
    assert [phase.epochs for phase in run.module.schedule.phases] == [2, 2, 2]
    assert asked == [epochs * batches]
