"""Every surface in little; ``make fuzz`` feeds the same ones ten thousand cases."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from support.fuzz_all import SURFACES


def fed(surface, folder, examples: int, monkeypatch) -> dict[str, int]:
    """The surface's outcomes for drawn inputs, always the same ones; a find raises."""
    monkeypatch.chdir(folder)
    case, outcomes = surface.start(folder), {"accepted": 0, "refused": 0}

    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None,
        phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(surface.inputs)
    def feed(value) -> None:
        outcomes[case(value)] += 1

    feed()
    return outcomes


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name.replace(" ", "_"))
def test_hostile_input_is_taken_or_refused_in_a_line(surface, tmp_path, monkeypatch):
    outcomes = fed(surface, tmp_path, surface.examples, monkeypatch)
    assert sum(outcomes.values()) >= surface.examples // 2
    assert outcomes["accepted"] > 0  # inputs that reach what lies behind the first check


@pytest.mark.slow
@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name.replace(" ", "_"))
def test_hostile_input_three_hundred_times(surface, tmp_path, monkeypatch):
    assert sum(fed(surface, tmp_path, 300, monkeypatch).values()) >= 150
