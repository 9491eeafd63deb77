"""The folder of a new run: where it is, that it is free, and that every process takes the same."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

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

# set by the first process for those that a distributed strategy starts from the same words
ENVIRONMENT = "CONVLENS_RUN_DIR"
_NEEDED = "run_dir=… has to be given when something else starts the processes"


@dataclass(frozen=True)
class Claim:
    """What a new run says of its folder, each under the key of that name.

    Attributes:
        run_dir: the folder; None for one below ``outputs/<experiment>``.
        overwrite: whether a folder that holds a run already is taken.
        num_nodes: machines that Lightning's own launcher starts processes on.
    """

    run_dir: str | None
    experiment: str
    overwrite: bool
    num_nodes: int

    def agreed(self) -> Path | None:
        """The folder that every process finds by itself; None where the first one may choose.

        Raises:
            UserError: several processes have nothing to agree by. It is raised in each of them,
                for one that went on would wait for the others for ever.
        """
        if self.run_dir:
            return Path(self.run_dir)
        parent, alone = OUTPUTS / self.experiment, self.num_nodes == 1
        name = os.environ.get("TORCHELASTIC_RUN_ID")
        if name is not None:
            if name != "none":  # torchrun's word for no --rdzv-id
                return parent / ("torchrun_" + re.sub(r"[^\w.-]", "_", name))
            alone = not is_launched_externally()
        elif is_in_slurm_step():
            return parent / f"slurm_{os.environ['SLURM_JOB_ID']}"
        if not alone:
            raise UserError(f"{_NEEDED}; torchrun's --rdzv-id=NAME does it too")
        return None

    def check(self) -> None:
        """Refuse a run folder early, before anything costly is done.

        Raises:
            UserError: the folder holds a run already, a file stands where it or a parent should,
                or several processes know of no common folder.
        """
        folder = self.agreed()
        if folder is None or not is_first_process():
            return
        if holds_run(folder) and not self.overwrite:
            raise UserError(
                f"run_dir={folder} already holds a run: continue it with `make resume "
                f"run={folder}`, choose another run_dir, or say overwrite=true"
            )
        for part in (folder, *folder.parents):
            if part.exists() and not part.is_dir():
                raise UserError(
                    f"run_dir={folder} cannot be made: {part} is a file; choose another run_dir"
                )

    def take(self, hold: Hold) -> Path:
        """Make the folder of a new run and return it; later processes take the first one's.

        Args:
            hold: takes the folder before anything in it is touched.

        Raises:
            UserError: the folder holds a run already, is in use, or cannot be made.
        """
        folder = self.agreed()
        if not is_first_process():
            given = folder or os.environ.get(ENVIRONMENT)
            if not given:
                raise UserError(_NEEDED)
            return Path(given)
        self.check()
        if folder:
            make_folder(folder)
        else:
            folder = make_fresh_folder(OUTPUTS / self.experiment)
        hold.take(folder)
        self.check()  # another process may have begun one since
        if holds_run(folder):
            _clear(folder)
        os.environ[ENVIRONMENT] = str(folder)
        return folder


def _clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else that may lie in the folder."""
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
