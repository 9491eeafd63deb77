"""Where runs lie."""

from __future__ import annotations

import datetime
import logging
import os
from pathlib import Path

from convlens.core.errors import UserError

OUTPUTS = Path("outputs")
log = logging.getLogger("convlens")
# what lies in these folders is a run's own, and never another run
INSIDE = {"tensorboard", "explanations", "checkpoints", "probes"}


def holds_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists()


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


def run_folders(parent: Path) -> list[Path]:
    """The folders below ``parent``, itself included, that hold a run."""
    found = []
    for path, folders, files in os.walk(parent):
        folders[:] = sorted(each for each in folders if each not in INSIDE and each[0] != ".")
        if "config.yaml" in files or "summary.json" in files:
            found.append(Path(path))
    return found


def newest_run(having: str = "config.yaml") -> Path:
    """The run that was started last, for ``run=last`` and ``ckpt=last``.

    Args:
        having: a file that the command needs; runs that do not have it yet are passed over, with
            a line.

    Raises:
        UserError: there is none.
    """
    runs = [home for home in run_folders(OUTPUTS) if holds_run(home)]
    if not runs:
        raise UserError(f"there is no run in {OUTPUTS}/ yet; `make train` makes one")
    runs.sort(key=lambda home: (home / "config.yaml").stat().st_mtime_ns, reverse=True)
    ready = next((home for home in runs if (home / having).exists()), None)
    if ready is None:
        raise UserError(f"no run in {OUTPUTS}/ has {having} yet; the newest is {runs[0]}")
    if ready != runs[0]:
        log.info("last is %s: the newer %s has no %s yet", ready, runs[0], having)
    return ready
