"""What is recorded and said of each look: what it was allowed, took and left out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from convlens.callbacks import ExplanationCallback, Ledger, Looks
from convlens.callbacks.look import Look

from support.looks import PICTURE, FakeClock, OtherWork, Small, Work, look_after_epochs, probes


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
