"""What a run computes on: its devices, or those of this machine, and in which precision."""

from __future__ import annotations

import logging

import pytorch_lightning as L
import torch
from pytorch_lightning.accelerators import Accelerator, AcceleratorRegistry
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from convlens.config.checks import replace_values
from convlens.config.schema import Config, TrainerConfig
from convlens.core.errors import UserError
from convlens.core.processes import is_launched_externally
from convlens.data.sources.places import get_cache_dir
from convlens.experiment.assemble import Run
from convlens.experiment.module import store_config
from convlens.training import ClassifierModule
from convlens.training.precision import choose_precision, measure_step_seconds

LIGHTNING = logging.getLogger("pytorch_lightning.utilities.rank_zero")


def lightning(**options) -> L.Trainer:
    """Lightning's trainer; what it refuses is told in a line."""
    try:
        return L.Trainer(**options)
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"trainer or callbacks: {error}") from error


def adapt_devices(asked: TrainerConfig, precision: str) -> tuple[TrainerConfig, str, str]:
    """What a stored config asks of the trainer, as far as this machine can give it.

    Args:
        asked: the config group ``trainer``.
        precision: of the run, resolved: ``32``, ``bf16``, ``16`` or ``64``.

    Returns:
        The group, a precision, and what was changed in a line, or nothing. Devices that are not
        here are replaced by the one of this machine that Lightning would take; half precision
        that the processor does not have, and double precision that Apple's GPU does not have, by
        single precision and the processor.
    """
    found = asked
    missing = not _are_here(asked, asked.num_nodes)
    if missing:
        found = asked.replace(accelerator="auto", devices=1, num_nodes=1, strategy="auto")
    kind = resolve_accelerator(found.accelerator)
    if kind == "mps" and precision == "64":
        found, kind, missing = found.replace(accelerator="cpu"), "cpu", True
    used = "32" if kind == "cpu" and precision == "16" else precision
    if not missing and used == precision:
        return found, precision, ""
    nodes = f" num_nodes={asked.num_nodes}" if asked.num_nodes > 1 else ""
    return found, used, (
        f"accelerator={asked.accelerator} devices={asked.devices}{nodes} precision={precision} is "
        f"not available on this machine: going on with one device, {kind}, and precision={used}"
    )  # fmt: skip


def resolve_accelerator(accelerator: str) -> str:
    """``cuda``, ``mps``, ``cpu`` or what else Lightning knows: what a name stands for here."""
    if accelerator not in ("auto", "gpu"):
        return accelerator
    found = [kind for kind in ("mps", "cuda") if _accelerator(kind).is_available()]
    return found[0] if found else "cpu" if accelerator == "auto" else "gpu"


def _accelerator(kind: str) -> type[Accelerator]:
    return AcceleratorRegistry[kind]["accelerator"]


def check_devices(asked: TrainerConfig) -> None:
    """Refuse a new run the devices that this machine has not got.

    Raises:
        UserError: in one line, with the way out.
    """
    if not _are_here(asked, nodes=1):
        raise UserError(
            f"trainer.accelerator={asked.accelerator} trainer.devices={asked.devices}: this "
            f"machine does not have them; trainer=auto takes what it has, trainer=cpu the processor"
        )


def _are_here(asked: TrainerConfig, nodes: int) -> bool:
    kind, devices = resolve_accelerator(asked.accelerator), asked.devices
    if kind not in AcceleratorRegistry or not _accelerator(kind).is_available():
        return False
    if nodes > 1 and not is_launched_externally():
        return False  # it would wait for the other machines for ever
    if kind == "cpu" or str(devices) in ("auto", "-1"):
        return True
    listed = devices.split(",") if isinstance(devices, str) and "," in devices else devices
    most = max(int(number) + 1 for number in listed) if isinstance(listed, list) else int(listed)
    return most <= _accelerator(kind).auto_device_count()


def local_processes(asked: TrainerConfig) -> int:
    """How many processes the config group ``trainer`` starts on a machine such as this one.

    1 where Lightning finds its devices missing: a run elsewhere may be planned here.
    """
    named = asked.replace(fast_dev_run=False).plain()
    level = LIGHTNING.level
    LIGHTNING.setLevel(logging.WARNING)  # the trainer that trains logs its devices itself
    try:
        return lightning(**named, logger=False, enable_checkpointing=False).num_devices
    except UserError:
        return 1
    finally:
        LIGHTNING.setLevel(level)


def settle_precision(run: Run) -> str:
    """Resolve ``precision: auto`` in the config, once.

    Returns:
        How it was resolved, for a line; empty if the config names a precision.
    """
    if str(run.config.precision) != "auto":
        return ""
    if is_launched_externally():  # each process would measure for itself, and they have to agree
        half = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        chosen = "bf16" if half else "32"
        reason = "not measured, because several processes have to agree"
    else:
        seconds = time_steps(run.config, run.module)
        chosen = choose_precision(seconds)
        times = ", ".join(f"{format_time(s)} in {name}" for name, s in seconds.items())
        reason = f"a training step takes {times}"
    run.config = store_config(run.module, replace_values(run.config, {"precision": chosen}))
    run.phases.precision = chosen
    return reason


def format_time(seconds: float) -> str:
    """Return seconds with a unit.

    >>> format_time(0.1214), format_time(1.36)
    ('121 ms', '1.4 s')
    """
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def choose_device(config: Config) -> torch.device:
    """Where a run with this config trains."""
    kind = "cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu"
    return torch.device("cpu" if config.trainer.accelerator == "cpu" else kind)


def time_steps(
    config: Config, module: ClassifierModule, precisions: tuple[str, ...] = ("32", "bf16")
) -> dict[str, float]:
    """Seconds of a training step on this machine, by precision; on noise, nothing is decoded.

    The module is timed in the phase that it is in.
    """
    _, batch = count_batch_images(config)
    memo = get_cache_dir() / "precision.json"
    return measure_step_seconds(module, batch, choose_device(config), memo, precisions)


def count_batch_images(config: Config) -> tuple[int, int]:
    """Images of a step over all processes, and those that this machine's one device has to do.

    Processes that share the processor's cores share its time too.
    """
    nodes, local = config.trainer.num_nodes, local_processes(config.trainer)
    each = config.training.batch_size_is == "per_device"
    whole = config.training.batch_size * (nodes * local if each else 1)
    devices = nodes * (1 if choose_device(config).type == "cpu" else local)
    return whole, -(-whole // devices)
