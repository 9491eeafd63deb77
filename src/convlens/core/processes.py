"""Which process of a distributed run this is, whatever launched it."""

from __future__ import annotations

import os


def is_first_process() -> bool:
    """Return whether this is the process that writes files and prints."""
    if "RANK" in os.environ:  # torchrun: the number among all processes on all nodes
        return _number("RANK") == 0
    if is_in_slurm_step():
        return _number("SLURM_PROCID") == 0
    # Lightning's own launcher: the first process on every node has the local rank 0
    return not any(_number(name) for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK"))


def is_launched_externally() -> bool:
    """Return whether torchrun or srun started several processes, which all run the whole command.

    Lightning's own launcher starts its other processes only when training begins.
    """
    return is_in_slurm_step() or ("TORCHELASTIC_RUN_ID" in os.environ and _number("WORLD_SIZE") > 1)


def is_in_slurm_step() -> bool:
    """Return whether srun started several tasks; an interactive shell of Slurm does not count."""
    # Lightning recognises interactive shells by the same job names
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return _number("SLURM_NTASKS") > 1 and "SLURM_PROCID" in os.environ and not interactive


def _number(name: str) -> int:
    """Return an environment variable as a number, 0 if it is not set."""
    return int(os.environ.get(name) or 0)
