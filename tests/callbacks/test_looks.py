"""What every look keeps to: no harm, failures said once, memory halved, the budget."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from convlens.callbacks import ExplanationCallback, GradCam, Ledger, Looks
from convlens.callbacks import look as look_module
from convlens.callbacks.evidence import find_last_feature_map
from convlens.callbacks.look import Look, OutOfTime
from convlens.callbacks.pace import Allowance, Pace

from convlens.cli.main import main
from support.looks import FakeClock, Small, look_at, probes, train_small, untrained
from support.tiny import TINY

PICTURE = np.zeros((64, 64, 3), np.uint8)


def fit(callback, folder, epochs: int = 3) -> Small:
    if callback is None:
        return train_small([], epochs)
    callback.attach(probes(), ("a", "b"), folder, seed=0)
    return train_small([callback], epochs)


class Rude(ExplanationCallback):
    """Does all that a look must not do."""

    def pictures(self, look: Look):
        look.network.train()
        torch.rand(100)
        torch.manual_seed(99)
        np.random.default_rng()
        yield "rude", PICTURE


def test_weights_unchanged_by_a_look_that_draws_and_switches_modes(tmp_path):
    one, other = fit(None, None), fit(Rude(), tmp_path)
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


class Clock(ExplanationCallback):
    def pictures(self, look: Look):
        assert not look.final or look.deadline == float("inf")
        yield f"seen/{look.clock}", PICTURE


def test_looks_before_training_and_after_every_epoch(tmp_path):
    fit(Clock(), tmp_path)
    seen = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.jpg"))
    assert seen == [f"epoch_{i:03d}/seen/{i}.jpg" for i in range(4)]


def test_every_n_epochs_still_shows_first_and_last(tmp_path):
    fit(Clock(every_n_epochs=2), tmp_path, epochs=5)
    seen = sorted(int(file.stem) for file in tmp_path.rglob("*.jpg"))
    assert seen == [0, 2, 4, 5]


class Broken(ExplanationCallback):
    def pictures(self, look: Look):
        yield "fine", PICTURE
        raise ValueError("two\nlines")


def test_a_look_that_fails_is_said_once_and_training_goes_on(tmp_path, said):
    module = fit(Broken(), tmp_path)
    assert said == ["Broken failed at epoch 0: ValueError: two; training continues"]
    assert module.trainer.current_epoch == 3
    assert Looks.of(module.trainer).ledger.failures["Broken"].startswith("Broken failed at epoch 0")


class Hungry(ExplanationCallback):
    """Fits only two pictures at a time."""

    tried: list[int]

    def pictures(self, look: Look):
        self.tried = []

        def compute(batch):
            self.tried.append(batch)
            if batch > 2:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
            return batch

        assert self.fit_batch(compute) == 2
        yield "fed", PICTURE


def test_memory_halves_the_batch_and_stays_there(tmp_path):
    callback = Hungry(batch=8)
    fit(callback, tmp_path, epochs=1)
    assert callback.batch == 2
    assert callback.tried == [2]
    assert len(list(tmp_path.rglob("fed.jpg"))) == 2


def test_other_errors_are_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="shape"):
        Hungry().fit_batch(lambda batch: (_ for _ in ()).throw(RuntimeError("wrong shape")))


def test_ledger_grants_each_epoch_a_fraction_and_keeps_nothing_for_later(monkeypatch):
    clock, ledger = FakeClock(monkeypatch), Ledger(share=0.05, floor=1.0)
    for epoch, seconds in enumerate((100.0, 10.0)):
        ledger.begin_epoch()
        clock.spend(seconds)
        ledger.end_epoch(epoch)
        assert ledger.seconds_left("epoch") == max(1.0, 0.05 * seconds)
    ledger.charge("GradCam", 0.75, "epoch")
    ledger.charge("GradCam", 50.0, "start")
    ledger.charge("GradCam", 7.0, None)
    assert ledger.seconds_left("epoch") == 0.25
    assert ledger.total == 57.75
    assert ledger.epochs == {1: [100.0, 0.0], 2: [10.0, 0.75]}
    assert ledger.share_of_epochs == pytest.approx(0.75 / 110.75)
    again = Ledger(share=0.05, floor=1.0)
    again.restore(ledger.state())
    assert (again.total, again.epochs, again.around) == (
        ledger.total, ledger.epochs, ledger.around,
    )  # fmt: skip


def test_looks_before_training_and_at_the_end_share_a_tenth_of_the_training(monkeypatch):
    clock = FakeClock(monkeypatch)
    ledger = Ledger(floor=1.0, at_start=5.0, at_end=None, floor_around=20.0)
    ledger.charge("GradCam", 4.0, "start")
    assert ledger.seconds_left("start") == 1.0
    assert ledger.seconds_left("end") == 16.0  # of the floor of 20
    ledger.begin_epoch()
    clock.spend(1000.0)
    ledger.end_epoch(0)
    assert ledger.seconds_left("end") == 96.0  # of a tenth of 1000
    ledger.charge("GradCam", 90.0, "end")
    assert ledger.seconds_left("end") == 6.0
    assert ledger.seconds_left("test") == 2.0  # whatever the end has used
    ledger.at_end = 120.0  # set by the user, for the end alone
    assert ledger.seconds_left("end") == 30.0


class Work(ExplanationCallback):
    """Units that take ``cost`` seconds each, on a clock of the test.

    A part of several units is not slower for each of them, as on a real device.
    """

    def __init__(self, clock: FakeClock, cost: float, units: int = 40):
        super().__init__(batch=16)
        self.clock, self.cost, self.units = clock, cost, units
        self.parts: list[list[int]] = []

    def pictures(self, look: Look):
        look.pace.note("pass", 1, 0.01)  # measured before, at no cost here
        parts = []
        for part in look.pieces(self.name, self.units, batch=self.batch, passes=5.0):
            self.clock.spend(self.cost * (part.stop - part.start))
            parts.append(part.stop - part.start)
            yield f"picture/{part.start}", PICTURE
        self.parts.append(parts)


class OtherWork(Work):
    """The same, as another kind of work."""


def look_after_epochs(looks: Looks, clock: FakeClock, epochs: int, seconds: float) -> list[float]:
    """Let them look after epochs of some seconds; return what each look took."""
    trainer = SimpleNamespace(is_global_zero=True, loggers=[], callbacks=[], datamodule=None)
    module, taken = Small(), []
    for epoch in range(epochs):
        looks.ledger.begin_epoch()
        clock.spend(seconds)
        looks.ledger.end_epoch(epoch)
        began = clock.now
        looks.look(trainer, module, looks.order, epoch + 1)
        taken.append(clock.now - began)
    return taken


@pytest.mark.parametrize(("seconds", "allowed"), [(0.2, 1.0), (100.0, 5.0)])
@pytest.mark.parametrize("cost", [0.02, 0.3, 0.9])
def test_all_explanations_together_keep_to_one_deadline(monkeypatch, seconds, allowed, cost):
    """Nothing is begun that does not fit; only a unit of unknown cost may reach beyond the end."""
    clock = FakeClock(monkeypatch)
    first, second = Work(clock, cost), OtherWork(clock, cost)
    for each in (first, second):
        each.attach(probes(), ("a", "b"), None, 0)
    looks = Looks([first, second], ledger=Ledger(share=0.05, floor=1.0))
    taken = look_after_epochs(looks, clock, 4, seconds)
    assert taken[0] <= allowed + cost  # a first unit of either kind was timed
    assert all(each <= allowed * 1.001 for each in taken[1:])
    assert (
        taken[-1] > allowed - 2 * cost or sum(map(sum, (first.parts[-1], second.parts[-1]))) == 80
    )
    assert first.parts[-1], "the first in the list always gets its turn"


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


class Unsteady(Work):
    """Units that suddenly take longer, from the start of one look on."""

    def pictures(self, look: Look):
        self.cost *= {2: 2.0, 3: 1.5}.get(look.clock, 1.0)
        yield from super().pictures(look)


@pytest.mark.parametrize("cost", [0.01, 0.05])
def test_a_machine_that_becomes_half_as_fast_within_a_look_overruns_by_a_tenth_at_most(
    monkeypatch, cost
):
    clock = FakeClock(monkeypatch)
    work = Unsteady(clock, cost, units=400)
    work.attach(probes(), ("a", "b"), None, 0)
    looks = Looks([work], ledger=Ledger(share=0.0, floor=2.0))
    assert all(each <= 1.1 * 2.0 for each in look_after_epochs(looks, clock, 5, 1.0))


class Disturbed(Work):
    """Units that take long once, in the second look."""

    def pictures(self, look: Look):
        usual, self.cost = self.cost, self.cost * (40 if look.clock == 2 else 1)
        yield from super().pictures(look)
        self.cost = usual


def test_a_disturbed_look_is_not_the_last_one(monkeypatch):
    clock = FakeClock(monkeypatch)
    work = Disturbed(clock, 0.1, units=8)
    work.attach(probes(), ("a", "b"), None, 0)
    looks = Looks([work], ledger=Ledger(share=0.0, floor=1.0))
    look_after_epochs(looks, clock, 30, 1.0)
    assert sum(work.parts[0]) == 8 and sum(work.parts[1]) < 8
    assert sum(work.parts[-1]) == 8


class Guessed(Work):
    """Its cost is guessed from a pass, which ``passes`` seconds are spent on, one after another."""

    def pictures(self, look: Look):
        for part in look.pieces(self.name, self.units, batch=self.batch, passes=5.0):
            self.parts.append([part.stop - part.start])
            yield "picture", PICTURE


def test_a_pass_that_was_disturbed_is_measured_again(monkeypatch):
    """Nothing whose cost is guessed from it would ever be begun otherwise."""
    clock, seconds = FakeClock(monkeypatch), [0.5, 0.5, 0.01]
    real = look_module.compute_logits

    def slow(*arguments):
        clock.spend(seconds.pop(0))
        return real(*arguments)

    monkeypatch.setattr(look_module, "compute_logits", slow)
    work = Guessed(clock, 0.0, units=1)
    work.attach(probes(), ("a", "b"), None, 0)
    looks = Looks([work], ledger=Ledger(share=0.0, floor=1.0))
    look_after_epochs(looks, clock, 1, 1.0)
    assert work.parts == []
    look_after_epochs(looks, clock, 1, 1.0)
    assert work.parts == []
    look_after_epochs(looks, clock, 1, 1.0)
    assert work.parts == [[1]] and not seconds


class Endless(ExplanationCallback):
    """Calls the network as often as it can, as a library may; a call takes ``cost`` seconds."""

    def __init__(self, clock: FakeClock, cost: float):
        super().__init__()
        self.clock, self.cost, self.calls = clock, cost, 0

    def pictures(self, look: Look):
        while self.calls < 10_000:
            look.network(look.example)
            self.clock.spend(self.cost)
            self.calls += 1
        yield "never", PICTURE


def test_no_call_of_the_network_begins_after_the_deadline(monkeypatch, said):
    clock = FakeClock(monkeypatch)
    first, late = Endless(clock, 0.3), Work(clock, 0.01)
    for each in (first, late):
        each.attach(probes(), ("a", "b"), None, 0)
    looks = Looks([first, late], ledger=Ledger(share=0.0, floor=1.0))
    (taken,) = look_after_epochs(looks, clock, 1, 1.0)
    assert first.calls == 4 and taken == pytest.approx(1.2)
    assert late.parts == []
    line = "Endless: no time left after epoch 1; raise Looks(ledger=Ledger(floor=…))"
    assert looks.ledger.left_out["Endless"] == line and said[0] == line
    assert not looks.ledger.failures
    module = Small()
    module(torch.rand(1, 3, 12, 12))  # nothing guards it outside looks


class SlowCalls(ExplanationCallback):
    """Calls the network with two images at a time; a call takes ``cost`` seconds."""

    def __init__(self, clock: FakeClock, cost: float):
        super().__init__()
        self.clock, self.cost = clock, cost

    def pictures(self, look: Look):
        hook = look.network.register_forward_pre_hook(lambda *_: self.clock.spend(self.cost))
        try:
            for _ in range(2):
                look.network(look.probes.images[:2])
        finally:
            hook.remove()
        yield "never", PICTURE


@pytest.mark.parametrize(
    ("cost", "late", "taken"), [(0.8, 0.4, 1.6), (3.0, 1.5, 3.0), (0.2, 0, 0.4)]
)
def test_a_call_that_runs_past_the_deadline_is_the_pass_that_is_recorded(
    monkeypatch, cost, late, taken
):  # fmt: skip
    clock = FakeClock(monkeypatch)
    work = SlowCalls(clock, cost)
    work.attach(probes(), ("a", "b"), None, 0)
    looks = Looks([work], ledger=Ledger(share=0.0, floor=1.0))
    look_after_epochs(looks, clock, 1, 1.0)
    (look,) = looks.ledger.looks
    assert (look["pass"], look["spent"]) == pytest.approx((late, taken))


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


def test_each_look_is_recorded_with_what_it_was_allowed_and_took(monkeypatch):
    clock = FakeClock(monkeypatch)
    work, other = Work(clock, 0.25, units=3), OtherWork(clock, 2.0, units=1)
    for each in (work, other):
        each.attach(probes(), ("a", "b"), None, 0)
    looks = Looks([work, other], ledger=Ledger(share=0.05, floor=1.0))
    look_after_epochs(looks, clock, 2, 200.0)
    first, second = looks.ledger.looks
    assert (first["moment"], first["clock"], first["allowed"]) == ("epoch", 1, 10.0)
    assert first["spent"] == pytest.approx(2.75) and second["clock"] == 2
    assert first["by_callback"] == pytest.approx({"Work": 0.75, "OtherWork": 2.0})
    assert second["by_callback"] == pytest.approx({"Work": 0.75, "OtherWork": 2.0})
    again = Ledger()
    again.restore(looks.ledger.state())
    assert again.looks == looks.ledger.looks


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


def test_what_no_time_is_left_for_is_one_line_with_a_key(monkeypatch, said):
    clock = FakeClock(monkeypatch)
    work, late = Work(clock, 0.5), OtherWork(clock, 0.5)
    for each in (work, late):
        each.attach(probes(), ("a", "b"), None, 0)
    looks = Looks([work, late], ledger=Ledger(floor=0.5))
    look_after_epochs(looks, clock, 3, 1.0)
    lines = [line for line in said if "OtherWork" in line]
    assert len(lines) == 1 and "raise Looks(ledger=Ledger(floor=…))" in lines[0]
    left_out = looks.ledger.left_out["OtherWork"]
    assert "no time left after epoch" in left_out or "out of time" in lines[0]


def test_the_look_after_the_test_names_the_setting_that_grants_it_time(monkeypatch):
    clock = FakeClock(monkeypatch)
    work = Work(clock, 0.5)
    work.attach(probes(), ("a", "b"), None, 0)
    trainer = SimpleNamespace(is_global_zero=True, loggers=[], callbacks=[], datamodule=None)
    for floor, line in ((0.0, "no time left after the test; raise Looks(ledger=Ledger(floor=…))"),
                        (0.5, "")):  # fmt: skip
        looks = Looks([work], ledger=Ledger(floor=floor, floor_around=0.0, at_end=100.0))
        looks.look(trainer, Small(), [work], 3, final=True, stage="test")
        assert looks.ledger.left_out.get("Work", "").endswith(line)
        assert bool(line) == bool(looks.ledger.left_out)


def test_without_a_budget_only_the_most_telling_pictures_are_drawn(tmp_path):
    words = [*TINY, "training.epochs=3", "looking.seconds=0", "callbacks.budget=0.0"]
    assert main(["train", f"run_dir={tmp_path}/run", *words]) == 0
    shown = {
        epoch: len(list((tmp_path / "run/explanations" / f"epoch_{epoch:03d}").rglob("*.jpg")))
        for epoch in (0, 3)
    }
    between = tmp_path / "run/explanations/epoch_002"
    assert len(list(between.rglob("*.jpg"))) < min(shown.values()) / 2


def test_a_look_above_two_seconds_names_its_moment_its_kind_and_its_pieces(monkeypatch, capsys):
    clock = FakeClock(monkeypatch)
    trainer = SimpleNamespace(is_global_zero=True, loggers=[], callbacks=[], datamodule=None)
    moments = {
        "before training": (0, {}), "after epoch 3": (3, {}), "at the end": (3, {"final": True}),
        "after the test": (3, {"final": True, "stage": "test"}),
    }  # fmt: skip
    for cost, shown in ((0.04, False), (0.4, True)):  # of 40 units: 1.6 and 16 seconds
        for name, (epochs, how) in moments.items():
            looks = Looks([Work(clock, cost)], ledger=Ledger(floor=100.0))
            looks.order[0].attach(probes(), ("a", "b"), None, 0)
            looks.ledger.end_epoch(0)
            looks.look(trainer, Small(), looks.order, epochs, **how)
            line = f"looking {name}: work 9/40\n"  # after parts of 1 and 8
            assert capsys.readouterr().err == (line if shown else "")
