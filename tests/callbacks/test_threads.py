"""Looks on a machine that other programs use: one thread instead of several that wait."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from convlens.callbacks import threads

from convlens.config.compose import compose
from convlens.experiment.module import build_module
from support.looks import Small
from support.tiny import TINY

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_comes_back(monkeypatch):
    monkeypatch.setattr(threads, "are_threads_waiting", lambda: True)
    module = build_module(compose(TINY), ["a", "b"])
    with pytest.raises(ValueError, match="x"), threads.avoid_waiting(module):
        assert torch.get_num_threads() == 1
        raise ValueError("x")
    assert torch.get_num_threads() == 2
    with threads.avoid_waiting(Small()):  # somebody else's module
        assert torch.get_num_threads() == 2
    monkeypatch.setattr(threads, "are_threads_waiting", lambda: False)
    with threads.avoid_waiting(module):
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("slow", "waiting"), [((), False), ((3,), True), ((0,), True)])
def test_one_operation_that_waits_is_enough(monkeypatch, slow, waiting):
    readings = []
    for operation in range(20):
        readings += [float(operation), operation + (0.008 if operation in slow else 0.0001)]
    monkeypatch.setattr(time, "perf_counter", lambda: readings.pop(0))
    assert threads.are_threads_waiting() is waiting
    torch.set_num_threads(1)
    assert not threads.are_threads_waiting()


TRAIN = """
import hashlib, sys, torch
from convlens.callbacks import threads
from convlens.cli.main import main
from support.tiny import TINY
threads.are_threads_waiting = lambda: len(sys.argv) > 2
words = ["callbacks=none"] if len(sys.argv) < 2 else [
    f"looking.{name}=2" for name in ("seconds", "first_seconds", "last_seconds")]
words += [w for w in TINY if not w.startswith("data.size")]
words += ["exp=scratch", "data=shapes", "data.size=48", "training.epochs=2", "run_dir=run"]
assert main(["train", *words]) == 0
state = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in state.values())).hexdigest()
print("digest", digest, torch.get_num_threads())
"""


@pytest.mark.slow
def test_weights_are_the_same_with_and_without_looks_in_one_thread(tmp_path):
    """Two threads train, also where an operation divides its sums among them."""
    found = set()
    for number, words in enumerate(([], ["look"], ["look", "busy"])):
        home = tmp_path / str(number)
        home.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", TRAIN, *words], cwd=home, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "2"}, check=True,
        )  # fmt: skip
        found.add(done.stdout.splitlines()[-1])
    assert len(found) == 1 and found.pop().endswith(" 2")
