"""The commands on a pretended Windows: nothing that it lacks is called, and no open file is moved.

The rules are those of ``support/windows.py``. On a Windows machine the same tests run for real.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.lively import differences
from support.places import ROOT
from support.tiny import TINY, draw_folder

pytestmark = pytest.mark.slow
SCRIPT = ROOT / "tests" / "support" / "windows.py"
COUNTS = {"cats": 30, "dogs": 30}


def run(words: list[str], folder: Path) -> str:
    command = [sys.executable, str(SCRIPT), *words]
    environment = {**os.environ, "CONVLENS_CACHE": str(folder / "cache")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_command(tmp_path):
    pytest.importorskip("psutil", reason="Windows reads its memory with psutil")
    pictures = draw_folder(tmp_path / "pictures", COUNTS)
    data = ["data=image_folder", "data.dir=pictures"]
    words = [word for word in TINY if not word.startswith(("data.pictures", "data=", "callbacks"))]
    words += ["looking={seconds: 1000, first_seconds: 1000, last_seconds: 1000}",
              "callbacks.filter_visuals.steps=2", "scheduler=constant", *data]  # fmt: skip
    image = next((pictures / "cats").iterdir())
    commands = [
        ["plan", *words],
        ["train", *words, "training.epochs=1", "run_dir=one"],
        ["resume", "run=one", "training.epochs=2"],
        ["train", *words, "training.epochs=2", "run_dir=two"],  # decoded already
        ["train", *words, "training.epochs=1", "run_dir=two", "overwrite=true"],
        ["eval", "run=one"],
        ["report", "run=one"],
        ["compare", "runs=one two", "run_dir=compared"],
        ["runs", "dir=."],
        ["explain", "ckpt=one/checkpoints/best.ckpt", f"image={image}", "run_dir=explained"],
        ["predict", "ckpt=one/checkpoints/best.ckpt", "images=pictures", "run_dir=predicted"],
        ["split", "src=pictures", "dst=parts"],
        ["split", "src=pictures", "dst=linked", "link=true"],
        ["kernel", f"image={image}", "run_dir=slid"],
        ["lr-find", *words, "plot=rates.png"],
    ]
    (tmp_path / "linked").mkdir()  # an empty folder is replaced
    printed = run([word for command in commands for word in ("--", *command)][1:], tmp_path)
    assert printed.count("$ convlens") == len(commands)
    for file in ("one/report.html", "compared/compare.html", "explained/index.html",
                 "predicted/predictions.csv", "parts/train/cats", "linked/test/dogs",
                 "rates.png"):  # fmt: skip
        assert (tmp_path / file).exists(), file
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_run_has_the_same_bits_as_here(tmp_path):
    """Every number and every file: only the calls of the system are others."""
    pytest.importorskip("psutil", reason="Windows reads its memory with psutil")
    words = [*TINY, "training.epochs=2", "looking={seconds: 1000, first_seconds: 1000, "
             "last_seconds: 1000}", "callbacks.filter_visuals.steps=2"]  # fmt: skip
    run(["train", *words, "run_dir=there"], tmp_path)
    command = [sys.executable, "-m", "convlens", "train", *words, "run_dir=here"]
    environment = {**os.environ, "CONVLENS_CACHE": str(tmp_path / "another")}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert not differences(tmp_path / "here", tmp_path / "there")
