"""What is begun at once, and after how much the clock is read: on a CPU, on an accelerator."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from convlens.callbacks import GradCam, Ledger, Looks
from convlens.callbacks import look as look_module
from convlens.callbacks.evidence import find_last_feature_map
from convlens.callbacks.look import Look, OutOfTime
from convlens.callbacks.pace import Allowance, Pace

from support.looks import FakeClock, Work, look_after_epochs, look_at, probes, untrained


def test_parts_are_the_same_however_fast_the_machine_is(monkeypatch):
    clock = FakeClock(monkeypatch)
    parts = []
    for cost in (0.0, 0.001, 0.02):
        work = Work(clock, cost)
        work.attach(probes(), ("a", "b"), None, 0)
        looks = Looks([work], ledger=Ledger(floor=10.0))
        look_after_epochs(looks, clock, 2, 1.0)
        parts += work.parts
    assert parts == [[1, 8, 16, 15]] * 6


def test_work_that_is_stopped_does_not_count_as_quick(monkeypatch):
    clock, pace = FakeClock(monkeypatch), Pace()
    look = replace(look_at(untrained()), deadline=clock.now + 1.0, pace=pace)
    for seconds, known in ((0.01, None), (2.0, None), (0.4, 0.4), (0.01, 0.4), (0.9, 0.9)):
        stopped = (seconds, known) != (0.4, 0.4)
        with suppress(OutOfTime), look.timed("map"):
            clock.spend(seconds)
            if stopped:
                raise OutOfTime
        assert pace.estimate("map", 1) == (None if known is None else pytest.approx(known))


def test_an_accelerator_computes_whole_batches_at_once():
    """A batch takes little longer than an image there: its cost is known as a whole."""
    pace = Pace()
    pace.note("map", 1, 0.03)
    assert pace.count_affordable("map", 0.1, 8) == 3
    pace.note("map", 8, 0.06)
    assert pace.count_affordable("map", 0.1, 8) == 8
    assert pace.count_affordable("map", 0.05, 8) == 1
    pace.note("map", 8, 0.12)  # the device is busier: everything takes twice as long
    assert pace.estimate("map", 1) == pytest.approx(0.06)


@pytest.mark.parametrize("left", [0.05, 1.0, 100.0, float("inf")])
def test_an_accelerator_is_waited_for_a_few_times_in_an_ascent(monkeypatch, left):
    """Steps of 0.1 s, of which the first also loads what the device needs, in 1 s."""
    clock = FakeClock(monkeypatch)
    deadline, asked, steps, first = clock.now + left, 0, 0, 1.0
    allowance = Allowance(deadline, on_cpu=False)
    given = 1
    while given and steps < 30:
        for _ in range(min(given, 30 - steps)):
            clock.spend(first if steps == 0 else 0.1)
            steps += 1
        asked += 1
        given = allowance()
    assert asked <= 6
    assert steps == (30 if left > 3.9 else 1)
    assert clock.now <= max(deadline, 1000.0 + first) + 0.1


def test_on_a_cpu_each_step_of_an_ascent_is_asked_for(monkeypatch):
    clock = FakeClock(monkeypatch)
    allowance, given = Allowance(clock.now + 0.35, on_cpu=True), []
    for _ in range(4):
        clock.spend(0.1)
        given.append(allowance())
    assert given == [1, 1, 1, 0]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_maps_of_all_probes_come_from_one_pass_of_an_accelerator(monkeypatch, device):
    """On a CPU they come in pieces, of which a deadline may end each."""
    network, passes = untrained(), []
    look = look_at(network)
    count = len(look.probes)
    if device == "cuda":  # the device is asked for its type, and told nothing here
        example = property(lambda self: self.probes.images[:1].as_subclass(_OnDevice))
        monkeypatch.setattr(Look, "example", example)
    layers = find_last_feature_map(network, look.probes.images[:1])
    callback = GradCam(layers=layers)
    callback.attach(look.probes, look.class_names, None, 0)
    network.register_forward_pre_hook(lambda _, images: passes.append(len(images[0])))
    look.pace.note("pass", 1, 0.01)
    waited = []
    monkeypatch.setattr(look_module, "wait_for", lambda device: waited.append(device.type))
    passes.clear()
    assert sum(tag.startswith("grad_cam/") for tag, _ in callback.pictures(look)) == count
    assert passes == ([count] if device == "cuda" else [1, count - 1])
    # one wait for each piece, within which its maps are timed, too
    assert waited == [device] * 2 * len(passes)


class _OnDevice(torch.Tensor):
    """An image that says it is on a GPU."""

    device = SimpleNamespace(type="cuda")
