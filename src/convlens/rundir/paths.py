"""The paths of runs: find run folders, name new ones, and list the files that a run writes."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from convlens.core.errors import UserError

OUTPUTS = Path("outputs")
# folders and files that a run writes; in a run, these folders contain no other run
FOLDERS = ("tensorboard", "trackers", "explanations", "checkpoints", "probes", "diary", "audit")
FILES = (
    "config.yaml", "metrics.csv", "summary.json", "train.log", "split.csv", "pictures.csv",
    "data.json", "report.html", "diary.csv", "planted.csv", "planted_shortcuts.csv",
    "conflicts.csv", "corrected.csv", "suspects.csv", "mislabelled.csv",
    "review.html", "review_validation.html", "review_test.html", "review_all.html",
)  # fmt: skip


def holds_run(folder: Path) -> bool:
    """Return whether a folder contains a run."""
    return (folder / "config.yaml").exists()


def find_run_folders(parent: Path) -> list[Path]:
    """Return all run folders in ``parent`` and below it, ``parent`` itself included."""
    runs = []
    for path, folders, files in os.walk(parent):
        own: tuple[str, ...] = ()
        if "config.yaml" in files or "summary.json" in files:
            runs.append(Path(path))
            own = FOLDERS
        folders[:] = sorted(each for each in folders if each not in own and each[0] != ".")
    return runs


def make_folder(folder: Path) -> None:
    """Create a run folder and its parents, if they do not exist.

    Raises:
        UserError: the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"run_dir={folder} cannot be created ({error.strerror}: {error.filename}); "
            f"choose another run_dir"
        ) from error


def make_fresh_folder(parent: Path) -> Path:
    """Create a folder named after date and time; a second one in the same second gets a number."""
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    make_folder(parent)
    number = 1
    while True:
        folder = parent / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def check_free(run_dir: str, name: str) -> None:
    """Check that the folder given by ``run_dir`` does not contain a file ``name`` yet.

    Args:
        run_dir: the folder; empty if the user gave none.
        name: name of the file that is to be written there.

    Raises:
        UserError: the folder contains such a file.
    """
    folder = Path(run_dir).expanduser()
    if run_dir and (folder / name).exists():
        raise UserError(f"run_dir={folder} already contains {name}: choose another run_dir")


def write_into(run_dir: str, kind: str, name: str, data: bytes) -> Path:
    """Write a file into the folder given by ``run_dir``, and return its path.

    Args:
        run_dir: the folder; empty for a new one below ``outputs/<kind>``.
        kind: name of the command that writes the file.
        name: name of the file.
        data: content of the file.

    Raises:
        UserError: the file cannot be written.
    """
    folder = Path(run_dir).expanduser() if run_dir else make_fresh_folder(OUTPUTS / kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    except OSError as error:
        raise UserError(
            f"run_dir={folder}: {name} cannot be written ({error.strerror}); choose another run_dir"
        ) from None
    return folder / name
