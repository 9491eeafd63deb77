"""A command starts without the libraries of its work, so that a mistake is answered at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def loaded_modules(code: str, libraries: tuple[str, ...], tmp_path: Path) -> list[str]:
    """Return which of the libraries a process has imported that ran ``code``."""
    code += f"\nimport sys; print('loaded:', *(m for m in {libraries} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("words", [["--help"], ["help"], ["--version"], ["completion", "bash"]])
def test_the_overview_needs_nothing_but_python(words, tmp_path):
    code = f"from convlens.cli.main import main; main({words})"
    assert loaded_modules(code, (*HEAVY, "hydra", "pydantic", "rich", "numpy"), tmp_path) == []


def test_a_run_imports_only_what_it_uses(tmp_path):
    """No explanation is asked for, no network of timm, and a dry run writes no page."""
    words = [
        "train", "exp=scratch", "data=shapes", "callbacks=none", "trainer.fast_dev_run=true",
        "data.pictures=60", "data.size=32", "precision=32",
    ]  # fmt: skip
    code = f"from convlens.cli.main import main; assert main({words}) == 0"
    unused = ("captum", "timm", "huggingface_hub", "scipy", "pandas", "sklearn", "IPython")
    assert loaded_modules(code, unused, tmp_path) == []
