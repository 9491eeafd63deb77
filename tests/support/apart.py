"""Runs in processes of their own, one or several, and what each process ended with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from support.tiny import TINY

REPLICAS = Path(__file__).with_name("replicas.py")


def train(home, *words) -> str:
    """A run in processes of its own; returns what it printed. ``home`` gets rank_*.pt too."""
    done = subprocess.run(
        [sys.executable, REPLICAS, home / "replicas", f"run_dir={home / 'run'}", *TINY, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ends(home) -> list[dict]:
    """What each process ended with."""
    files = sorted((home / "replicas").glob("rank_*.pt"))
    return [torch.load(file, weights_only=True) for file in files]


def differences(one: dict, other: dict) -> dict[str, float]:
    assert one.keys() == other.keys()
    return {
        name: float((one[name] - other[name]).abs().max())
        for name in one
        if one[name].is_floating_point() and not torch.equal(one[name], other[name])
    }
