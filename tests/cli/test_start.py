"""A command starts without the libraries of its work, so that a mistake is answered at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from convlens.cli.main import COMMANDS

HEAVY = ("torch", "pytorch_lightning", "captum", "timm")


def loaded_modules(code: str, libraries: tuple[str, ...], tmp_path: Path) -> list[str]:
    """Return which of the libraries a process has imported that ran ``code``."""
    code += f"\nimport sys; print('loaded:', *(m for m in {libraries} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


def test_no_command_starts_with_torch(tmp_path):
    """One process imports all commands but ``kernel``, which is nothing but work with torch."""
    commands = sorted(set(COMMANDS) - {"kernel"})
    modules = [f"convlens.cli.{name.replace('-', '_')}" for name in commands]
    code = "".join(
        f"import sys, {each}; assert sys.modules.keys().isdisjoint({HEAVY}), '{each}'\n"
        for each in modules
    )
    assert loaded_modules(code, HEAVY, tmp_path) == []


def test_the_overview_needs_nothing_but_python(tmp_path):
    overview = [["--help"], ["help"], ["--version"], ["completion", "bash"]]
    code = f"from convlens.cli.main import main; assert not any(map(main, {overview}))"
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
