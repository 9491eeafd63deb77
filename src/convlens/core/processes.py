"""Which process of a distributed run this is, whatever launched it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from convlens.core.system import count_cores

# set by a command that starts itself in several processes: number and total, such as 1/4
SHARE = "CONVLENS_SHARE"


def is_first_process() -> bool:
    """Return whether this is the process that writes files and prints."""
    if SHARE in os.environ:
        return find_share().number == 0
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


@dataclass(frozen=True)
class Share:
    """Which part of the work this process does.

    Attributes:
        number: of the process, from 0.
        total: number of processes.
    """

    number: int = 0
    total: int = 1


def find_share() -> Share:
    """Return the share of this process, whether torchrun, srun or a command of ours started it."""
    if SHARE in os.environ:
        number, _, total = os.environ[SHARE].partition("/")
        return Share(int(number), int(total))
    if "RANK" in os.environ and _number("WORLD_SIZE") > 1:
        return Share(_number("RANK"), _number("WORLD_SIZE"))
    if is_in_slurm_step():
        return Share(_number("SLURM_PROCID"), _number("SLURM_NTASKS"))
    return Share()


def share_device(number: int, total: int) -> dict[str, str]:
    """Return the variables that give one of several processes a GPU, or a part of the cores.

    Args:
        number: of the process on this machine, from 0.
        total: number of processes on this machine.
    """
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
    if devices:
        return {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]}
    threads = os.environ.get("OMP_NUM_THREADS")
    return {"OMP_NUM_THREADS": threads or str(max(1, count_cores() // total))}


def take_own_device() -> None:
    """Let each process that torchrun or srun started on a machine see one GPU only, if it has any.

    Call it before anything is on a device.
    """
    name = "LOCAL_RANK" if "LOCAL_RANK" in os.environ else "SLURM_LOCALID"
    if SHARE not in os.environ and find_share().total > 1:
        own = share_device(_number(name), find_share().total)
        os.environ.update({k: v for k, v in own.items() if k == "CUDA_VISIBLE_DEVICES"})
