"""What a run reports before it trains: one line per fact, the most useful first."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytorch_lightning as L

from convlens.config.schema import Config, get_name
from convlens.data.datamodule import PictureData
from convlens.data.feed import DEPTH
from convlens.experiment.assemble import Run, describe_spoiled_base
from convlens.experiment.resume import Start
from convlens.training import ClassifierModule
from convlens.training.finetune.schedule import Phase
from convlens.training.precision import PRECISIONS

log = logging.getLogger("convlens")
UNEVEN = 1.5  # class sizes are reported if the largest exceeds the smallest by this factor
DEVICES = {"cpu": "CPU", "cuda": "GPU", "mps": "Apple GPU"}


def announce_plan(run: Run, notes: Iterable[str], start: Start | None) -> None:
    """Report the data, the network, and what is trained when.

    Args:
        run: the assembled run; its images are decoded.
        notes: lines about the data, such as skipped files.
        start: where a resumed run continues; None for a new run.
    """
    _report("data", describe_data(run.data))
    for line in notes:
        log.warning(line)
    _report("network", describe_network(run.config, run.module, start))
    if run.config.trainer.fast_dev_run:
        _report("dry run", "one batch each of training, validation and test")
    else:
        _announce_phases(run, start)
    if line := describe_spoiled_base(run.config, run.module):
        log.warning(line)
    for name, reason in run.left_out.items():  # for the log file
        log.debug("%s draws nothing: %s", name, reason)


def announce_start(
    run: Run, trainer: L.Trainer, home: Path, measured: str, compiled: str
) -> None:  # fmt: skip
    """Report precision, devices, kernels, where images are, and the folder that is written to.

    Args:
        run: the prepared run.
        trainer: about to train it.
        home: the run folder.
        measured: how ``precision: auto`` was resolved; empty if the config names a precision.
        compiled: whether the network is compiled, and why; empty if it goes without saying.
    """
    names = {lightning: name for name, lightning in PRECISIONS.items()}
    precision = names.get(str(trainer.precision), str(trainer.precision))
    kind = trainer.strategy.root_device.type
    device = DEVICES.get(kind, kind)
    if trainer.world_size > 1:
        device = f"{trainer.world_size} processes ({device})"
    if kind == "cuda" and precision == "32":
        device += ", convolutions in TF32"
    _report("precision", f"{precision} on {device}{measured and '; ' + measured}")
    if compiled:
        _report("compile", compiled)
    if not run.config.training.deterministic:
        _report("kernels", "not deterministic: repeated runs may differ")
    _report("images", describe_residence(run.data.residence, run.data.nbytes, kind))
    if not run.config.trainer.fast_dev_run:
        _report("run folder", str(home))


def _announce_phases(run: Run, start: Start | None) -> None:
    for label, line in describe_phases(run):
        _report(label, line)
    if run.module.averaging is not None:
        _report("average", f"{describe_average(run.config)}; it is evaluated, explained and saved")
    if epochs := run.config.training.early_stopping:
        _report("early stop", f"after {epochs} epochs without a lower validation loss")
    if start:
        within = ", within the next one" if start.is_within_epoch else ""
        total = run.config.training.epochs
        _report("resume", f"after {start.epochs} of {total} epochs{within}")


def describe_average(config: Config) -> str:
    """Return how the weights of a run are averaged."""
    if config.training.ema is not None:
        return f"moving average of the weights, decay {config.training.ema:g}"
    return f"mean of the weights at the ends of epoch {config.training.swa} and all later ones"


def _report(label: str, text: str) -> None:
    log.info("%-10s %s", label, text)


def describe_data(data: PictureData) -> str:
    """Return the name, the images by split and the classes, and their sizes if they are uneven."""
    counts = {split: int(numbers.sum()) for split, numbers in data.index.counts.items()}
    splits = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    text = (
        f"{data.spec.name}: {sum(counts.values()):,} images ({splits}), "
        f"{len(data.class_names):,} classes"
    )
    train = data.index.with_class["train"]
    largest, smallest = int(np.argmax(train)), int(np.argmin(train))
    if train[largest] > UNEVEN * train[smallest]:
        text += (
            f"; training images per class: {train[smallest]:,} ({data.class_names[smallest]}) "
            f"to {train[largest]:,} ({data.class_names[largest]})"
        )
    return text


def describe_residence(residence: str, nbytes: int, kind: str) -> str:
    """Return where batches are read from, the size of all images, and what is prefetched.

    Args:
        residence: ``device``, ``disk`` or ``ram``.
        nbytes: bytes of the decoded images.
        kind: kind of the device, such as ``cuda``.
    """
    device = "in memory" if kind == "cpu" else f"on the {DEVICES.get(kind, kind)}"
    where = {"disk": "in the cache on the disk", "ram": "in memory", "device": device}[residence]
    ahead = f", {DEPTH} batches prefetched" if kind == "cuda" else ""
    size = f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"
    return f"{size} {where}{ahead}"


def describe_network(config: Config, module: ClassifierModule, start: Start | None) -> str:
    """Return the name, the input, the number of parameters and the origin of the weights."""
    size, weights = config.data.size, module.model.weights
    parameters = sum(parameter.numel() for parameter in module.model.parameters())
    text = f"{get_name(config.model)}, {size}×{size} px, {parameters:,} parameters"
    if start:
        return f"{text}, weights from {start.file.name}"
    if weights is None:
        return f"{text}, random weights"
    # a note about the file has been logged when it was read
    return text if weights.note else f"{text}, weights from {weights.path.name}"


def describe_phases(run: Run) -> list[tuple[str, str]]:
    """Return a label and a line for each phase, including those that the run does not reach."""
    schedule, total = run.module.schedule, run.config.training.epochs
    augmented = schedule.augments and run.data.augmentation.active
    lines, is_uncertain = [], False
    for phase, first, last in schedule.list_spans(total):
        epochs = f"epochs {first + 1}–{last}" if last - first > 1 else f"epoch {last}"
        if first == last:
            epochs = "only if an earlier phase ends early" if is_uncertain else "not reached"
        else:
            epochs += " at the latest" if is_uncertain else ""
            epochs += f" ({phase.epochs} planned)" if last - first < phase.epochs else ""
            epochs += _describe_early_end(phase)
        is_uncertain = is_uncertain or phase.until is not None
        images = (", augmented" if phase.augment else ", not augmented") if augmented else ""
        label = f"phase {phase.number + 1}" if schedule.phased else "training"
        lines.append((label, f"{epochs}: {_describe_groups(run.module, phase)}{images}"))
    if total < schedule.epochs:
        label, line = lines[-1]
        lines[-1] = (label, f"{line}; training.epochs=null trains all {schedule.epochs} epochs")
    return lines


def _describe_early_end(phase: Phase) -> str:
    if phase.until is None:
        return ""
    epochs = "1 epoch" if phase.until.patience == 1 else f"{phase.until.patience} epochs"
    return f", or until {phase.until.metric} is no better for {epochs}"


def _describe_groups(module: ClassifierModule, phase: Phase) -> str:
    """Return the trained groups and their parameters; stages of one group count as one entry."""
    if not module.schedule.phased:
        return "all parameters"
    sizes = {name: parameter.numel() for name, parameter in module.model.named_parameters()}
    count = sum(sizes[name] for name in module.schedule.trained(phase))
    stages = Counter(name.partition("/")[0] for name in phase.train)
    names = [f"{name} ({n} stages)" if n > 1 else name for name, n in stages.items()]
    return f"{', '.join(names)} ({count:,} parameters)"
