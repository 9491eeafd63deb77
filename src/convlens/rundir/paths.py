"""Where runs lie, and what a run's folder is called and holds."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from convlens.core.errors import UserError

OUTPUTS = Path("outputs")
# what a run writes: folders, in which never another run lies, and files
FOLDERS = ("tensorboard", "explanations", "checkpoints", "probes")
FILES = (
    "config.yaml", "metrics.csv", "summary.json", "train.log", "split.csv", "pictures.csv",
    "report.html",
)  # fmt: skip


def holds_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists()


def find_run_folders(parent: Path) -> list[Path]:
    """The folders below ``parent``, itself included, that hold a run."""
    found = []
    for path, folders, files in os.walk(parent):
        folders[:] = sorted(each for each in folders if each not in FOLDERS and each[0] != ".")
        if "config.yaml" in files or "summary.json" in files:
            found.append(Path(path))
    return found


def make_folder(folder: Path) -> None:
    """Make a run folder.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"run_dir={folder} cannot be made ({error.strerror}: {error.filename}); "
            f"choose another run_dir"
        ) from error


def make_fresh_folder(parent: Path) -> Path:
    """A new folder named by date and time; a second run of the same second gets a number."""
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
    """Refuse the folder that a person names for a file ``name`` where it holds one already.

    Raises:
        UserError: it does.
    """
    folder = Path(run_dir).expanduser()
    if run_dir and (folder / name).exists():
        raise UserError(f"run_dir={folder} already holds {name}: choose another run_dir")


def write_into(run_dir: str, kind: str, name: str, data: bytes) -> Path:
    """Write a file into the folder that a person names; returns its path.

    Args:
        run_dir: the folder; empty for a fresh one below ``outputs/<kind>``.

    Raises:
        UserError: it cannot be written.
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
