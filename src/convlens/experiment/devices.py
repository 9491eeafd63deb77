"""Choose the devices and the precision of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytorch_lightning as L
import torch
from pytorch_lightning.accelerators import Accelerator, AcceleratorRegistry
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from convlens.config.checks import replace_values
from convlens.config.schema import Config, TrainerConfig
from convlens.core.errors import UserError
from convlens.core.processes import is_launched_externally
from convlens.core.progress import progress_bar
from convlens.data.order import TrainingOrder
from convlens.data.sources.places import get_cache_dir
from convlens.experiment.assemble import Run
from convlens.experiment.module import store_config
from convlens.training import ClassifierModule
from convlens.training.finetune.schedule import Phase
from convlens.training.kernels import choose_kernels
from convlens.training.precision import (
    LARGE,
    choose_precision,
    count_multiply_adds,
    has_native_bf16,
    measure_step_seconds,
)

LIGHTNING = logging.getLogger("pytorch_lightning.utilities.rank_zero")


def lightning(**options) -> L.Trainer:
    """Return a Lightning trainer; convert its errors into a UserError."""
    try:
        return L.Trainer(**options)
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"trainer or callbacks: {error}") from error


def adapt_devices(requested: TrainerConfig, precision: str) -> tuple[TrainerConfig, str, str]:
    """Adapt the devices and the precision of a stored config to this machine.

    Missing devices are replaced by the one that Lightning would choose here. A CPU without float16
    uses float32; an Apple GPU without float64 is replaced by the CPU.

    Args:
        requested: the config group ``trainer``.
        precision: precision of the run, resolved: ``32``, ``bf16``, ``16`` or ``64``.

    Returns:
        The adapted group, the precision, and one line about the changes, or ''.
    """
    adapted = requested
    is_changed = not _are_available(requested, requested.num_nodes)
    if is_changed:
        adapted = requested.replace(accelerator="auto", devices=1, num_nodes=1, strategy="auto")
    kind = resolve_accelerator(adapted.accelerator)
    if kind == "mps" and precision == "64":
        adapted, kind, is_changed = adapted.replace(accelerator="cpu"), "cpu", True
    possible = "32" if kind == "cpu" and precision == "16" else precision
    if not is_changed and possible == precision:
        return adapted, precision, ""
    nodes = f" num_nodes={requested.num_nodes}" if requested.num_nodes > 1 else ""
    line = (
        f"accelerator={requested.accelerator} devices={requested.devices}{nodes} "
        f"precision={precision} is not available on this machine: continuing on one device "
        f"({kind}) with precision={possible}"
    )
    return adapted, possible, line


def resolve_accelerator(accelerator: str) -> str:
    """Return the device kind that a name means here: ``cuda``, ``mps``, ``cpu`` or another one."""
    if accelerator not in ("auto", "gpu"):
        return accelerator
    kinds = [kind for kind in ("mps", "cuda") if _get_accelerator(kind).is_available()]
    return kinds[0] if kinds else "cpu" if accelerator == "auto" else "gpu"


def _get_accelerator(kind: str) -> type[Accelerator]:
    return AcceleratorRegistry[kind]["accelerator"]


def check_devices(requested: TrainerConfig) -> None:
    """Check that this machine has the devices of a new run.

    Raises:
        UserError: it does not.
    """
    if not _are_available(requested, nodes=1):
        raise UserError(
            f"trainer.accelerator={requested.accelerator} trainer.devices={requested.devices}: "
            f"this machine does not have them; try trainer=auto or trainer=cpu"
        )


def _are_available(requested: TrainerConfig, nodes: int) -> bool:
    kind, devices = resolve_accelerator(requested.accelerator), requested.devices
    if kind not in AcceleratorRegistry or not _get_accelerator(kind).is_available():
        return False
    if nodes > 1 and not is_launched_externally():
        return False  # it would wait for the other machines forever
    if kind == "cpu" or str(devices) in ("auto", "-1"):
        return True
    listed = devices.split(",") if isinstance(devices, str) and "," in devices else devices
    count = max(int(number) + 1 for number in listed) if isinstance(listed, list) else int(listed)
    return count <= _get_accelerator(kind).auto_device_count()


def count_local_processes(requested: TrainerConfig) -> int:
    """Return the number of processes that the config group ``trainer`` starts on each machine.

    Return 1 if this machine lacks the devices: the plan may be for a run on another machine.
    """
    named = requested.replace(fast_dev_run=False).plain()
    level = LIGHTNING.level
    LIGHTNING.setLevel(logging.WARNING)  # the trainer that trains logs its devices itself
    try:
        return lightning(**named, logger=False, enable_checkpointing=False).num_devices
    except UserError:
        return 1
    finally:
        LIGHTNING.setLevel(level)


def settle_precision(run: Run) -> str:
    """Resolve ``precision: auto`` in the config.

    Returns:
        How it was resolved, to be reported; '' if the config names a precision.
    """
    if str(run.config.precision) != "auto":
        return ""

    def count_all_steps() -> int:
        each = count_steps(run.config, int(run.data.index.counts["train"].sum()))
        return each * sum(epochs for _, epochs in list_image_phases(run))

    with progress_bar("choosing the precision"):
        chosen, reason = resolve_precision(run.config, run.module, count_all_steps)
    run.config = store_config(run.module, replace_values(run.config, {"precision": chosen}))
    run.phases.precision = chosen
    return reason


def resolve_precision(
    config: Config, module: ClassifierModule, count_all_steps: Callable[[], int]
) -> tuple[str, str]:
    """Return what ``precision: auto`` means on this machine, and why.

    Devices that would emulate bf16 train in float32. A GPU takes bf16 without a measurement if a
    step has so many multiply-adds that arithmetic decides; otherwise steps are timed.

    Args:
        config: the config.
        module: the network, in its first phase.
        count_all_steps: returns the training steps of the run on images, which limit the time for
            measuring; 0 if their number is unknown. Called only if steps are timed.
    """
    device = choose_device(config)
    if not has_native_bf16(device):
        known = device.type in ("cpu", "cuda")
        return "32", "this device has no bf16 arithmetic" if known else "bf16 is not used here"
    if is_launched_externally():  # processes that measure separately might choose differently
        chosen = "bf16" if device.type == "cuda" else "32"
        return chosen, "not measured, because all processes need the same precision"
    _, batch = count_batch_images(config)
    if device.type == "cuda" and (billions := batch * count_multiply_adds(module)) > LARGE:
        return "bf16", f"a step has {billions:,.0f} billion multiply-adds; not measured"
    seconds = time_steps(config, module, steps=count_all_steps())
    times = ", ".join(f"{format_time(s)} in {name}" for name, s in seconds.items())
    if "bf16" not in seconds:
        times += "; there was no time to measure bf16"
    return choose_precision(seconds), f"a training step takes {times}"


def format_time(seconds: float) -> str:
    """Return seconds with a unit.

    >>> format_time(0.1214), format_time(1.36)
    ('121 ms', '1.4 s')
    """
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def choose_device(config: Config) -> torch.device:
    """Return the device that a run with this config trains on."""
    kind = "cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu"
    return torch.device("cpu" if config.trainer.accelerator == "cpu" else kind)


def time_steps(
    config: Config,
    module: ClassifierModule,
    precisions: tuple[str, ...] = ("32", "bf16"),
    steps: int = 0,
) -> dict[str, float]:
    """Return the seconds of a training step on this machine, by precision.

    The steps run on noise, so no image is decoded; they train what the module's current phase
    trains, with the kernels of the run.

    Args:
        config: the config.
        module: the network.
        precisions: ``32``, ``bf16`` or both.
        steps: steps of the run, which limit the time for measuring; 0 if unknown.
    """
    choose_kernels(deterministic=config.training.deterministic)
    _, batch = count_batch_images(config)
    memo, device = get_cache_dir() / "precision.json", choose_device(config)
    return measure_step_seconds(module, batch, device, memo, precisions, steps)


def list_image_phases(run: Run) -> list[tuple[Phase, int]]:
    """Return the phases that train on images, not on stored features, and their epochs."""
    return [
        (phase, end - start)
        for phase, start, end in run.module.schedule.list_spans(run.config.training.epochs)
        if end > start and not run.phases.cut(run.module, run.data, phase)
    ]


def count_steps(config: Config, images: int | None) -> int | None:
    """Return the steps of an epoch on ``images`` training images; None if that is unknown."""
    if config.training.steps_per_epoch is not None or images is None:
        return config.training.steps_per_epoch
    batch, _ = count_batch_images(config)
    return len(TrainingOrder(images, batch, seed=0))


def share_batch(config: Config, rank: int, processes: int) -> int:
    """Return the number of images in a whole batch of one of several processes."""
    images = config.training.batch_size
    if config.training.batch_size_is == "per_device":
        return images
    return images // processes + (rank < images % processes)


def count_batch_images(config: Config) -> tuple[int, int]:
    """Return the number of images in a step, over all processes and on one device.

    Processes on the CPU count as one device, because they share its cores.
    """
    nodes, local = config.trainer.num_nodes, count_local_processes(config.trainer)
    each = config.training.batch_size_is == "per_device"
    whole = config.training.batch_size * (nodes * local if each else 1)
    devices = nodes * (1 if choose_device(config).type == "cpu" else local)
    return whole, -(-whole // devices)
