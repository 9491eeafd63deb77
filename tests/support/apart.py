"""Run training in one or several separate processes, and read what each process ended with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from support.tiny import TINY

REPLICAS = Path(__file__).with_name("replicas.py")


def train(home, *words, base=TINY) -> str:
    """Train in separate processes and return the output; ``home`` also gets ``rank_*.pt``."""
    done = subprocess.run(
        [sys.executable, REPLICAS, home / "replicas", f"run_dir={home / 'run'}", *base, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ends(home) -> list[dict]:
    """Return the final state of each process."""
    files = sorted((home / "replicas").glob("rank_*.pt"))
    return [torch.load(file, weights_only=True) for file in files]


def differences(one: dict, other: dict) -> dict[str, float]:
    assert one.keys() == other.keys()
    return {
        name: float((one[name] - other[name]).abs().max())
        for name in one
        if one[name].is_floating_point() and not torch.equal(one[name], other[name])
    }
