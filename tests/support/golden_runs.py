"""The runs of the golden record: their command lines, and how they are run.

All train on ``shapes`` without limits for explanations, so that slow and fast machines explain
the same. None uses the fast kernels of frozen layers.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMAND = [sys.executable, str(Path(__file__).with_name("plain_kernels.py"))]
PATIENCE = 600  # seconds for one run

LIMITLESS = [
    "callbacks.budget=1e6", "looking={seconds: 1e6, first_seconds: 1e6, last_seconds: 1e6}",
    "probes.count=3", "callbacks.scores.pictures=16", "callbacks.class_means.pictures=16",
    # younger than the numbers
    "callbacks.layer_changes=null", "callbacks.feature_space=null", "callbacks.slices=null",
]  # fmt: skip
"""No look is left out for want of time, and each is small."""
FILTERS = [
    "callbacks.filter_visuals.units=2", "callbacks.filter_visuals.full_units=3",
    "callbacks.filter_visuals.steps=3", "callbacks.filter_visuals.patch_pictures=8",
]  # fmt: skip

SHAPES = ["data=shapes", "precision=32", "trainer=cpu", *LIMITLESS, *FILTERS]
SMALL = [*SHAPES, "data.pictures=100", "data.size=24", "model.filters=[6,8]",
         "model.head.hidden=[12]", "model.dropout=0.2", "model.head.dropout=0.3",
         "training.batch_size=16", "data.augment.rotation_degrees=20",
         "data.augment.brightness=0.2"]  # fmt: skip
UNFREEZING = [
    "training.epochs=null",
    "finetune.groups={head: head, last: backbone.block2, base: backbone}",
    "finetune.phases=[{epochs: 1, train: [head], lr: {head: 0.01}, augment: false},"
    "{epochs: 1, train: [head, last], lr: {head: 0.01, last: 0.005}, warmup_epochs: 1},"
    "{epochs: 1, train: [head, last, base], lr: 0.003, warmup_epochs: 0.5}]",
]
RUNS = {
    "default": [*SHAPES, "data.pictures=320", "training.epochs=3", "training.batch_size=16"],
    "features_vgg16": [
        "exp=finetune_vgg16", *SHAPES, "model.weights=none", "model.head.hidden=[16]",
        "training.ema=null",
        "data.pictures=60", "data.size=48", "training.batch_size=8", "training.eval_batch_size=8",
        "callbacks.activation_grids.limit=4",
        "finetune.phases=[{epochs: 2, train: [head], lr: {head: 1e-3}, augment: false},"
        "{epochs: 1, train: [head, last_block], lr: {head: 1e-4, last_block: 1e-5},"
        "augment: true, warmup_epochs: 1.0}]",
    ],
    "by_stage_timm": [
        "exp=finetune_timm", *SHAPES, "model.name=resnet10t", "model.weights=none",
        "data.pictures=60", "data.size=48", "training.batch_size=8", "callbacks=all", "scores=all",
        "callbacks.activation_grids.limit=4", "callbacks.scores.steps=4",
        "finetune.phases=[{epochs: 1, train: [head], lr: {head: 1e-3}, augment: false},"
        "{epochs: 1, train: [head, base/layer4], lr: {head: 1e-4, base/layer4: 1e-4}},"
        "{epochs: 1, train: [head, base], lr: {head: 1e-4, base: 1e-4}, warmup_epochs: 1.0}]",
    ],
    "two_processes": [*SMALL, *UNFREEZING, "trainer=ddp_cpu"],
    "killed": [*SMALL, "training.epochs=4"],
    "clever_hans": [
        "exp=clever_hans", *SHAPES, "data.pictures=320", "data.size=48", "training.epochs=3",
        "training.batch_size=16",
    ],
}  # fmt: skip
"""Name of a run -> the words behind ``convlens train``."""

# ----------------------------------------------------------------------------------------- running


def environment(folder: Path) -> dict[str, str]:
    """Return an environment with one thread (a fixed order of sums) and its own cache."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CONVLENS_")}
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**kept, **single, "CONVLENS_CACHE": str(folder / "cache")}


def start(words: list[str], folder: Path) -> subprocess.Popen:
    """Start ``convlens WORDS`` in ``folder``, in its own process group."""
    return subprocess.Popen(
        [*COMMAND, *words], cwd=folder, env=environment(folder), text=True,
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(words: list[str], folder: Path) -> str:
    """Run ``convlens WORDS`` to its end and return its standard error.

    Raises:
        SystemExit: the command failed.
    """
    process = start(words, folder)
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except BaseException:
        kill(process)
        raise
    if process.returncode:
        raise SystemExit(f"convlens {' '.join(words)}\nfailed:\n{out[-2000:]}\n{err[-4000:]}")
    return err


def kill(process: subprocess.Popen) -> None:
    """Send ``kill -9`` to a process and its children."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def trained(words: list[str], folder: Path) -> None:
    """Train in ``folder/run`` without interruption."""
    said = finished(["train", "run_dir=run", *words], folder)
    if "exp=finetune_vgg16" in words and re.search(r"kernel off, 0 passes", said):
        raise SystemExit(
            "our own kernel for frozen layers is there, but was not met in plain_kernels.py: is "
            "it called by another name?"
        )


def killed_and_resumed(words: list[str], folder: Path) -> None:
    """Train, kill the run as soon as it has a checkpoint, and resume it."""
    process = start(["train", "run_dir=run", *words], folder)
    deadline = time.monotonic() + PATIENCE
    while not (folder / "run" / "checkpoints" / "last.ckpt").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            kill(process)
            raise SystemExit("the run that was to be killed came to no checkpoint")
        time.sleep(0.005)
    kill(process)
    if (folder / "run" / "summary.json").exists():
        raise SystemExit("the run that was to be killed came to its end before")
    finished(["resume", "run=run"], folder)
