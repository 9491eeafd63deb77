"""Choose the folder of a new run: it must be free, and the same one for every process."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from convlens.core.command_lines import command_line
from convlens.core.errors import UserError
from convlens.core.processes import is_first_process, is_in_slurm_step, is_launched_externally
from convlens.rundir.lock import Hold
from convlens.rundir.paths import (
    FILES,
    FOLDERS,
    OUTPUTS,
    holds_run,
    make_folder,
    make_fresh_folder,
)

# set by the first process, for the processes that Lightning's launcher starts with the same command
ENVIRONMENT = "CONVLENS_RUN_DIR"
_RUN_DIR_NEEDED = "set run_dir=…: the processes of this run cannot agree on a new folder"


@dataclass(frozen=True)
class Claim:
    """The keys of a config that decide the folder of a new run.

    Attributes:
        run_dir: the folder; None for a new one below ``outputs/<experiment>``.
        experiment: name of the recipe.
        overwrite: whether to replace a run that the folder already contains.
        num_nodes: number of machines.
    """

    run_dir: str | None
    experiment: str
    overwrite: bool
    num_nodes: int

    def find_common_folder(self) -> Path | None:
        """Return the folder that each process can derive alone; None if the first one may choose.

        Raises:
            UserError: several processes have no common name to derive it from. Every process raises
                this error, because a process that continued would wait forever for the others.
        """
        if self.run_dir:
            return Path(self.run_dir)
        parent, alone = OUTPUTS / self.experiment, self.num_nodes == 1
        name = os.environ.get("TORCHELASTIC_RUN_ID")
        if name is not None:
            if name != "none":  # torchrun's default for --rdzv-id
                return parent / ("torchrun_" + re.sub(r"[^\w.-]", "_", name))
            alone = not is_launched_externally()
        elif is_in_slurm_step():
            return parent / f"slurm_{os.environ['SLURM_JOB_ID']}"
        if not alone:
            raise UserError(f"{_RUN_DIR_NEEDED}; or start torchrun with --rdzv-id=NAME")
        return None

    def check(self) -> None:
        """Check early, before any expensive work, that the run folder can be used.

        Raises:
            UserError: the folder already contains a run, its path or a parent is a file, or several
                processes cannot agree on a folder.
        """
        folder = self.find_common_folder()
        if folder is None or not is_first_process():
            return
        if holds_run(folder) and not self.overwrite:
            raise UserError(
                f"run_dir={folder} already contains a run: continue it with "
                f"`{command_line('resume', run=folder)}`, choose another run_dir, or set "
                f"overwrite=true"
            )
        for part in (folder, *folder.parents):
            if part.exists() and not part.is_dir():
                raise UserError(
                    f"run_dir={folder} cannot be created: {part} is a file; choose another run_dir"
                )

    def take(self, hold: Hold) -> Path:
        """Create the folder of a new run and return it; other processes use the first one's folder.

        Args:
            hold: the lock of the folder, taken before anything in the folder changes.

        Raises:
            UserError: the folder already contains a run, is in use, or cannot be created.
        """
        folder = self.find_common_folder()
        if not is_first_process():
            common = folder or os.environ.get(ENVIRONMENT)
            if not common:
                raise UserError(_RUN_DIR_NEEDED)
            return Path(common)
        self.check()
        if folder:
            make_folder(folder)
        else:
            folder = make_fresh_folder(OUTPUTS / self.experiment)
        hold.take(folder)
        self.check()  # another process may have started a run there in the meantime
        if holds_run(folder):
            _remove_run(folder)
        os.environ[ENVIRONMENT] = str(folder)
        return folder


def _remove_run(folder: Path) -> None:
    """Remove the files that a run writes, and no other file in the folder."""
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
