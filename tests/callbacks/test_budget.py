"""The seconds that looks are granted, and that they keep to them."""

from __future__ import annotations

import pytest
import torch
from convlens.callbacks import ExplanationCallback, Ledger, Looks
from convlens.callbacks import look as look_module
from convlens.callbacks.look import Look

from convlens.cli.main import main
from support.looks import PICTURE, FakeClock, OtherWork, Small, Work, look_after_epochs, probes
from support.tiny import TINY


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


def test_without_a_budget_only_the_most_telling_pictures_are_drawn(tmp_path):
    words = [*TINY, "training.epochs=3", "looking.seconds=0", "callbacks.budget=0.0"]
    assert main(["train", f"run_dir={tmp_path}/run", *words]) == 0
    shown = {
        epoch: len(list((tmp_path / "run/explanations" / f"epoch_{epoch:03d}").rglob("*.jpg")))
        for epoch in (0, 3)
    }
    between = tmp_path / "run/explanations/epoch_002"
    assert len(list(between.rglob("*.jpg"))) < min(shown.values()) / 2
