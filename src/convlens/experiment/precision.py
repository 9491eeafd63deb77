"""Which precision a run trains in, and what a step of it takes on this machine."""

from __future__ import annotations

import logging

import torch

from convlens.config.checks import with_values
from convlens.config.schema import Config
from convlens.core.processes import started_outside
from convlens.data.sources.places import cache_dir
from convlens.experiment.assemble import Run
from convlens.experiment.trainer import local_processes
from convlens.training import ClassifierModule
from convlens.training.precision import fastest, step_seconds

log = logging.getLogger("convlens")


def settle_precision(run: Run) -> None:
    """Resolve ``precision: auto`` in the config, once."""
    if str(run.config.precision) != "auto":
        return
    if started_outside():
        # each process would measure for itself, and they have to agree
        half = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        found = "bf16" if half else "32"
    else:
        found = fastest(measured_steps(run.config, run.module))
    run.config = run.module.settle(with_values(run.config, {"precision": found}))
    log.info("precision: auto is %s on this machine", found)


def device_of(config: Config) -> torch.device:
    """Where a run with this config trains."""
    kind = "cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu"
    return torch.device("cpu" if config.trainer.accelerator == "cpu" else kind)


def measured_steps(
    config: Config, module: ClassifierModule, precisions: tuple[str, ...] = ("32", "bf16")
) -> dict[str, float]:
    """Seconds of a training step on this machine, by precision; on noise, nothing is decoded.

    The module is timed in the phase that it is in.
    """
    _, batch = batches_of(config)
    memo = cache_dir() / "precision.json"
    return step_seconds(module, batch, device_of(config), memo, precisions)


def batches_of(config: Config) -> tuple[int, int]:
    """Images of a step over all processes, and those that this machine's one device has to do.

    Processes that share the processor's cores share its time too.
    """
    asked = config.training.batch_size
    nodes = config.trainer.num_nodes
    local = local_processes(config.trainer)
    whole = asked * nodes * local if config.training.batch_size_is == "per_device" else asked
    devices = nodes * (1 if device_of(config).type == "cpu" else local)
    return whole, -(-whole // devices)
