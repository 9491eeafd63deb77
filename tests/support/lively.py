"""A run that is interrupted on purpose, and the exact results that it must have.

It contains everything that has state: images decoded into an empty cache, stored features, two
unfreezes, warm-up, augmentation, dropout, trained batch normalisation, Adam, and every default
explanation.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from support.tiny import TINY, TWO_UNFREEZES, draw_folder

COMMAND = [sys.executable, "-m", "convlens"]
COUNTS = {"cats": 40, "dogs": 40}

WORDS = [
    *[word for word in TINY if not word.startswith("data.pictures")],
    *[word for word in TWO_UNFREEZES if not word.startswith("data.pictures")],
    "data=image_folder",
    "model.dropout=0.2",
    "model.head.dropout=0.3",
    "optimizer=adam",
    "data.augment.rotation_degrees=20",
    "data.augment.horizontal_flip=true",
    "data.augment.brightness=0.2",
    # time limits nothing: slow and fast machines explain the same
    "looking={seconds: 1000, first_seconds: 1000, last_seconds: 1000}",
    "callbacks.filter_visuals.steps=2",
    "callbacks.filter_visuals.full_units=4",
    "callbacks.filter_visuals.units=4",
    "callbacks.filter_visuals.patch_pictures=12",
]


def pictures(folder: Path) -> Path:
    """Draw two classes of noise that differ in brightness; the run makes the split."""
    return draw_folder(folder, COUNTS)


def environment(cache: Path) -> dict[str, str]:
    """Return an environment with its own cache, so that building it is interrupted too."""
    kept = {
        name: value for name, value in os.environ.items()
        # make hands its own words on to every make that its targets start
        if name not in ("CONVLENS_RUN_DIR", "CONVLENS_DATA") and not name.startswith("MAKE")
    }  # fmt: skip
    return {**kept, "CONVLENS_CACHE": str(cache)}


def start(words: list[str], cache: Path, **options) -> subprocess.Popen:
    """Start ``convlens …`` in its own process group; its output goes to pipes as text."""
    return subprocess.Popen(
        [*COMMAND, *words], env=environment(cache), text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=heed_ctrl_c, **options,
    )  # fmt: skip


def heed_ctrl_c() -> None:
    """Undo what a shell's background job, and all that it starts, would else do: ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def kill_group(process: subprocess.Popen) -> None:
    """Send ``kill -9`` to the process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_for(process: subprocess.Popen, sign, seconds: float = 120) -> None:
    """Wait until ``sign()`` is true while the process runs."""
    deadline = time.monotonic() + seconds
    while not sign():
        if process.poll() is not None:
            raise AssertionError(f"ended too early: {process.communicate()}")
        if time.monotonic() > deadline:
            kill_group(process)
            raise AssertionError("what was waited for did not come")
        time.sleep(0.02)


def logged(home: Path, text: str):
    """Return a condition for ``wait_for``: whether the run's log contains ``text``."""
    log = home / "train.log"
    return lambda: log.exists() and text in log.read_text()


def checkpoint(home: Path, which: str = "last") -> dict:
    return torch.load(home / "checkpoints" / f"{which}.ckpt", weights_only=True)


def told(process: subprocess.Popen, seconds: float = 200) -> list[str]:
    """Wait for the end and return the lines ``convlens: …``; the output may have no traceback."""
    out, err = process.communicate(timeout=seconds)
    assert "Traceback" not in out + err, out + err
    return [line for line in err.splitlines() if line.startswith("convlens: ")]


# ----------------------------------------------------------------------------------- the same end


def differences(one: Path, other: Path) -> list[str]:
    """Return where two finished runs differ in anything that the seed determines."""
    found = []
    for which in ("best", "last"):
        a, b = checkpoint(one, which), checkpoint(other, which)
        found += _unequal(f"{which} weights", a["state_dict"], b["state_dict"])
        found += _unequal(f"{which} optimizer", a["optimizer_states"], b["optimizer_states"])
        found += _unequal(f"{which} record", a["convlens_record"], b["convlens_record"])
        found += _unequal(f"{which} epoch", a["epoch"], b["epoch"])
        calibrations = (each.get("convlens_calibration") for each in (a, b))
        found += _unequal(f"{which} calibration", *calibrations)
    found += _unequal("metrics.csv", table(one), table(other))
    found += _unequal("summary.json", results(one), results(other))
    found += _unequal("files", files(one), files(other))
    leftovers = [str(file) for file in other.rglob("*.tmp")]
    return found + [f"left behind: {name}" for name in leftovers]


def table(home: Path) -> list[dict]:
    """Read the rows of metrics.csv without the seconds of looking, which differ in every run."""
    with open(home / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.pop("explain/seconds", None)
    return rows


def results(home: Path) -> dict:
    """Read the results of the network from summary.json, without seconds."""
    summary = json.loads((home / "summary.json").read_text())
    kept = ("epochs", "best_epoch", "train", "val", "val_last", "test", "alarms", "failures",
            "left_out", "scores", "precision", "processes", "skipped")  # fmt: skip
    return {key: summary.get(key) for key in kept}


def files(home: Path) -> dict[str, bytes]:
    """Return explanations, probes and the split by content, and other files by name."""
    found = {}
    for file in sorted(path for path in home.rglob("*") if path.is_file()):
        name = str(file.relative_to(home))
        if name.startswith("tensorboard/"):
            continue  # one event file for each part of a run
        tables = ("split.csv", "diary.csv")
        exact = name.startswith(("explanations/", "probes/")) or name in tables
        found[name] = file.read_bytes() if exact else b""
    return found


def _unequal(what: str, one, other) -> list[str]:
    """Return the paths of nested values that are not the same bits."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [what]
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"{what}: keys {sorted(map(str, one.keys() ^ other.keys()))[:6]}"]
        return [line for key in one for line in _unequal(f"{what}/{key}", one[key], other[key])]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return [f"{what}: {len(one)} and {len(other)} entries"]
        pairs = enumerate(zip(one, other, strict=True))
        return [line for i, (a, b) in pairs for line in _unequal(f"{what}/{i}", a, b)]
    same = one == other or (one != one and other != other)  # NaN equals NaN here
    return [] if same else [f"{what}: {str(one)[:60]} and {str(other)[:60]}"]
