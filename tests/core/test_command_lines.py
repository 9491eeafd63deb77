"""Commands in messages are those that the user can type."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from convlens.core import system
from convlens.core.command_lines import MAKE, command_line
from support.places import ROOT


def test_a_command_is_of_convlens_or_of_make(monkeypatch):
    assert command_line("resume", run="outputs/a") == "convlens resume run=outputs/a"
    assert command_line("predict", "--help") == "convlens predict --help"
    monkeypatch.setenv(MAKE, "1")
    assert command_line("resume", run="outputs/a") == "make resume run=outputs/a"
    assert command_line("predict", "--help") == "make predict args=--help"


@pytest.mark.parametrize("home", ["my runs/1", "ü/'x'", "$HOME", r"a\b"])
def test_it_can_be_typed_as_it_stands(home):
    assert shlex.split(command_line("report", run=home)) == ["convlens", "report", f"run={home}"]


def test_it_can_be_typed_on_windows(monkeypatch):
    monkeypatch.setattr(system, "WINDOWS", True)
    assert command_line("report", run=r"C:\my runs") == r'convlens report "run=C:\my runs"'


@pytest.mark.parametrize(
    ("typed", "said"),
    [("make", "`make resume args=--help`"), ("convlens", "`convlens resume --help`")],
)
def test_the_makefile_says_that_make_was_typed(typed, said, tmp_path):
    if typed == "convlens":
        command = [sys.executable, "-m", "convlens", "resume"]
    else:
        if shutil.which("make") is None:
            pytest.skip("there is no make")
        # as if .venv were set up; -e: the BIN of the environment
        command = ["make", "-e", "-C", str(ROOT), "-o", ".venv/ready", "resume"]
        tool = tmp_path / "convlens"
        tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m convlens "$@"\n', encoding="utf-8")
        tool.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != MAKE}
    environment["BIN"] = str(tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert said in done.stderr, done.stdout + done.stderr
