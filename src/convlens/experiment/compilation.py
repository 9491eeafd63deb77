"""``training.compile: auto``: decide whether a run is long enough to earn the compile time back."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from convlens.config.checks import replace_values
from convlens.config.schema import Config
from convlens.core.errors import UserError
from convlens.core.processes import is_launched_externally
from convlens.core.progress import progress_bar
from convlens.experiment.assemble import Run
from convlens.experiment.devices import (
    choose_device,
    count_steps,
    list_image_phases,
    time_steps,
)
from convlens.experiment.module import store_config
from convlens.training import ClassifierModule
from convlens.training.compiling import GRAPHS, count_compiled_layers

# On an H200, compiled steps of VGG16 took 29 % less time, and compiling six layers took 14 s.
SAVES = 0.15  # fraction of a step's time that compiling saves at least
START, EACH = 10.0, 0.5  # seconds to compile anything at all, and each layer with weights


FIXED = {False: "off", True: "on", GRAPHS: "on, with CUDA graphs"}


def settle_compile(run: Run) -> str:
    """Resolve ``training.compile: auto`` in the config.

    Returns:
        Whether the network is compiled, and why, to be reported; '' where it goes without saying.
    """
    asked = run.config.training.compile
    if asked != "auto":
        return FIXED[asked] if asked else ""
    with progress_bar("deciding whether to compile"):
        chosen, line = resolve_compile(run.config, run.module, lambda: _estimate_steps(run))
    run.config = store_config(run.module, replace_values(run.config, {"training.compile": chosen}))
    return line if choose_device(run.config).type == "cuda" else ""


def describe_compile(
    config: Config, module: ClassifierModule, seconds: float | None, phases: int
) -> str:
    """Return what a run would report; arguments as in ``decide_compile``, None if unknown."""
    asked = config.training.compile
    if asked != "auto":
        return FIXED[asked]
    if seconds is None and not find_obstacle(config):
        return "decided when training starts"
    return resolve_compile(config, module, lambda: (seconds or 0.0, phases))[1]


def resolve_compile(
    config: Config, module: ClassifierModule, estimate: Callable[[], tuple[float, int]]
) -> tuple[bool, str]:
    """Return what ``training.compile: auto`` means for a run, and why.

    Args:
        config: the config.
        module: the network.
        estimate: returns the seconds of all training steps on images, and the number of phases
            with such steps; called only if the length of the run decides.
    """
    if reason := find_obstacle(config):
        return False, f"off; {reason}"
    return decide_compile(module, *estimate())


def find_obstacle(config: Config) -> str:
    """Return why ``auto`` means not to compile, whatever the length of the run; '' if nothing."""
    if choose_device(config).type != "cuda":
        return "auto compiles on NVIDIA GPUs only"
    if config.trainer.fast_dev_run:
        return "a dry run is too short"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if is_launched_externally():
        return "auto does not time steps in several processes; set training.compile=true"
    return ""


def decide_compile(module: ClassifierModule, seconds: float, phases: int) -> tuple[bool, str]:
    """Return whether compiling pays for itself, and the estimate behind it.

    Args:
        module: the network.
        seconds: of all training steps on images, without compiling.
        phases: phases with such steps; each trains other layers and is compiled anew.
    """
    cost = phases * (START + EACH * count_compiled_layers(module.model))
    is_worth = SAVES * seconds > cost
    line = (
        f"{'on' if is_worth else 'off'}; the steps take about {seconds:.0f} s, compiling about "
        f"{cost:.0f} s, and compiled steps take at least {SAVES:.0%} less"
    )
    return is_worth, line if phases else "off; no phase trains on images"


def check_graphs(config: Config) -> None:
    """Check that a new run can use CUDA graphs, if it is to use them.

    Raises:
        UserError: it cannot.
    """
    if config.training.compile != GRAPHS:
        return
    if choose_device(config).type != "cuda":
        raise UserError("training.compile=graphs needs an NVIDIA GPU; try training.compile=true")
    if config.training.accumulate > 1:
        # a graph writes the gradients of each batch to the same place
        raise UserError(
            "training.compile=graphs needs training.accumulate=1; try training.compile=true"
        )


def _estimate_steps(run: Run) -> tuple[float, int]:
    """Return the seconds of all training steps on images, and the number of phases with them."""
    config, module = run.config, run.module
    steps = count_steps(config, int(run.data.index.counts["train"].sum()))
    precision = str(config.precision)
    timed = (precision if precision in ("32", "bf16") else "32",)
    seconds, phases = 0.0, list_image_phases(run)
    for phase, epochs in phases:
        module.enter(phase)
        seconds += epochs * steps * time_steps(config, module, timed)[timed[0]]
    module.enter(module.schedule.phases[0])
    return seconds, len(phases)
