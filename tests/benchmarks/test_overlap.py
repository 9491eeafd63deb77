"""The benchmark of overlapping copies: its stub stream changes no batch, and speeds are right."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import overlap  # noqa: E402

from convlens.data.feed import Feed  # noqa: E402


def test_the_stub_stream_changes_no_batch():
    in_turn = list(overlap.build_loader(9, Feed()))
    ahead = list(overlap.build_loader(9, Feed(overlap.SleepingStream(0))))
    assert len(ahead) == len(in_turn) == 9
    for one, other in zip(ahead, in_turn, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in other)


def test_steps_per_second(monkeypatch):
    """A second before the first batch does not count; the clock is not real."""
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    def batches():
        sleep(1)
        yield from range(5)

    fake = SimpleNamespace(sleep=sleep, perf_counter=lambda: clock[0])
    monkeypatch.setattr(overlap, "time", fake)
    assert overlap.count_per_second(batches(), 0.02, 0.03) == pytest.approx(20)
