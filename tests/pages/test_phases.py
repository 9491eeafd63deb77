"""The page's phases are those of the schedule that trained."""

from __future__ import annotations

import numpy as np
import pytest

from convlens.config.stored import StoredConfig
from convlens.pages.phases import read_phases
from convlens.training.finetune.schedule import Phase, Plateau, Schedule

LOSS, ACCURACY = "val/loss", "val/accuracy"


def _schedule(phases: list[dict]) -> Schedule:
    made = []
    for number, phase in enumerate(phases):
        until = phase["until"] and Plateau(phase["until"]["metric"], phase["until"]["patience"])
        made.append(Phase(number, phase["epochs"], ("head",), {"head": 1e-3}, frozenset(), True,
                          0.0, until))  # fmt: skip
    return Schedule({}, tuple(made))


@pytest.mark.parametrize("seed", range(20))
def test_phases_with_and_without_plateaus_are_where_the_schedule_has_them(seed):
    rng = np.random.default_rng(seed)
    phases = []
    for _ in range(3):
        until = None
        if rng.random() < 0.7:
            metric = LOSS if rng.random() < 0.5 else ACCURACY
            until = {"metric": metric, "patience": int(rng.integers(1, 4))}
        phases.append({"epochs": int(rng.integers(1, 8)), "train": ["head"], "lr": 1e-3,
                       "until": until})  # fmt: skip
    schedule = _schedule(phases)
    record = {e: {LOSS: rng.random(), ACCURACY: rng.random()} for e in range(30)}
    done = next(e for e in range(1, 31) if schedule.is_finished(e, record))
    rows = [{"epoch": 0, LOSS: 9.0, ACCURACY: 0.0}]
    rows += [{"epoch": e + 1, **record[e]} for e in range(done)]
    found = read_phases(StoredConfig({"finetune": {"phases": phases}}), rows)
    trained = {
        epoch: stretch.number - 1
        for stretch in found
        for epoch in range(stretch.start, stretch.end)
    }
    assert trained == {e: schedule.phase_at(e, record)[0].number for e in range(done)}
    assert [s.ended_early for s in found] == [
        s.end - s.start < phase["epochs"] for s, phase in zip(found, phases, strict=True)
    ]


def test_what_is_not_trained_yet_is_planned_in_full():
    phases = [
        {"epochs": 4, "train": ["head"], "lr": {"head": 0.01}, "augment": False,
         "until": {"metric": LOSS, "patience": 2}},
        {"epochs": 3, "train": ["head", "base"], "lr": 0.001, "warmup_epochs": 1.0},
    ]  # fmt: skip
    first, second = read_phases(
        StoredConfig({"finetune": {"phases": phases}}), [{"epoch": 0, LOSS: 1.0}]
    )
    assert (first.start, first.end, second.start, second.end) == (0, 4, 4, 7)
    assert first.rates == {"head": 0.01} and second.rates == {"head": 0.001, "base": 0.001}
    assert (first.augment, second.augment) == (False, True)
    assert (first.warmup_epochs, second.warmup_epochs) == (0.0, 1.0)
    assert first.until == "val/loss has not improved for 2 epochs"
    assert not first.ended_early and not second.until


def test_a_run_without_phases_has_none():
    assert read_phases(StoredConfig({"finetune": {"phases": None}}), [{"epoch": 0}]) == []


def test_a_run_that_was_to_end_within_a_phase():
    phases = [{"epochs": 4, "train": ["head"], "lr": 1.0}, {"epochs": 3, "train": ["a"], "lr": 1.0}]
    config = {"finetune": {"phases": phases}}
    for epochs, ends in ((2, [2, 7]), (4, [4, 7]), (5, [4, 5]), (7, [4, 7]), (None, [4, 7])):
        found = read_phases(
            StoredConfig({**config, "training": {"epochs": epochs}}), [{"epoch": 0}]
        )
        assert [(s.end, s.ended_early) for s in found] == [(end, False) for end in ends]
