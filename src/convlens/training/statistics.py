"""Running statistics of batch normalisation over several processes."""

from __future__ import annotations

import torch


@torch.no_grad()
def average_statistics(module: torch.nn.Module) -> None:
    """Running mean and variance of batch normalisation in training: the processes' average."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    world = torch.distributed.get_world_size()
    for part in module.modules():
        moving = isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and part.training
        if world > 1 and moving and part.track_running_stats:
            for statistic in (part.running_mean, part.running_var):
                torch.distributed.all_reduce(statistic)
                statistic /= world
