"""A command starts without the libraries of its work, so that a mistake is answered at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from convlens.cli.main import COMMANDS

HEAVY = ("torch", "pytorch_lightning", "captum", "timm")


# `kernel` is nothing but its work: it slides the kernel with torch
@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"kernel"}))
def test_a_command_starts_without_torch(command):
    module = f"convlens.cli.{command.replace('-', '_')}"
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
