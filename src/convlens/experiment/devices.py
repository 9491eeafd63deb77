"""A run's devices, or those of this machine where it has not got them."""

from __future__ import annotations

import pytorch_lightning as L
from pytorch_lightning.accelerators import Accelerator, AcceleratorRegistry
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from convlens.config.schema import Config, TrainerConfig
from convlens.core.errors import UserError
from convlens.core.processes import started_outside
from convlens.training.precision import PRECISIONS


def lightning(**options) -> L.Trainer:
    """Lightning's trainer; what it refuses is told in a line."""
    try:
        return L.Trainer(**options)
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"trainer or callbacks: {error}") from error


def devices_here(asked: TrainerConfig, precision: str) -> tuple[TrainerConfig, str, str]:
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
    missing = not _are_here(asked.accelerator, asked.devices, asked.num_nodes)
    if missing:
        found = asked.updated(accelerator="auto", devices=1, num_nodes=1, strategy="auto")
    kind = kind_of(found.accelerator)
    if kind == "mps" and precision == "64":
        found, kind, missing = found.updated(accelerator="cpu"), "cpu", True
    used = "32" if kind == "cpu" and precision == "16" else precision
    if not missing and used == precision:
        return found, precision, ""
    wanted = f"accelerator={asked.accelerator} devices={asked.devices}"
    wanted += f" num_nodes={asked.num_nodes}" if asked.num_nodes > 1 else ""
    return found, used, (
        f"{wanted} precision={precision} is not available on this machine: going on with one "
        f"device, {kind}, and precision={used}"
    )  # fmt: skip


def kind_of(accelerator: str) -> str:
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
    accelerator, devices = asked.accelerator, asked.devices
    if not _are_here(accelerator, devices, 1):
        raise UserError(
            f"trainer.accelerator={accelerator} trainer.devices={devices}: this machine does "
            f"not have them; trainer=auto takes what it has, trainer=cpu the processor"
        )


def _are_here(accelerator: str, devices: int | str | list, nodes: int) -> bool:
    kind = kind_of(accelerator)
    if kind not in AcceleratorRegistry or not _accelerator(kind).is_available():
        return False
    if nodes > 1 and not started_outside():
        return False  # it would wait for the other machines for ever
    if kind == "cpu" or str(devices) in ("auto", "-1"):
        return True
    listed = devices.split(",") if isinstance(devices, str) and "," in devices else devices
    most = max(int(number) + 1 for number in listed) if isinstance(listed, list) else int(listed)
    return most <= _accelerator(kind).auto_device_count()


def trainer_here(config: Config, **options) -> tuple[L.Trainer, str]:
    """A trainer for using a checkpoint on this machine, and a note on what was changed for that."""
    devices, precision, note = devices_here(config.trainer, str(config.precision))
    return lightning(**devices.plain(), precision=PRECISIONS[precision], **options), note
