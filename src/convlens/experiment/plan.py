"""What a run would be, found out before it is trained: data, layers, phases, costs, pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from convlens.callbacks import ExplanationCallback
from convlens.config.checks import stored_config, with_values
from convlens.config.compose import changed
from convlens.config.schema import Config
from convlens.data.augment import Augmentation
from convlens.data.order import TrainingOrder
from convlens.data.sources.registry import pending_download
from convlens.data.sources.source import Download, Index
from convlens.experiment import precision
from convlens.experiment.assemble import (
    assemble,
    download_of_weights,
    explanations_of,
    settle,
    warnings_of,
)
from convlens.experiment.restore import understood
from convlens.models import layer_table
from convlens.models.layers import LayerRow
from convlens.training import ClassifierModule
from convlens.training.finetune.features import feature_seconds
from convlens.training.finetune.phases import cut_of
from convlens.training.finetune.schedule import Phase
from convlens.training.precision import fastest
from convlens.training.survival.checkpoint import read_checkpoint

FEW = 4  # images of the pass that features are timed by
TIMED = ("32", "bf16")  # precisions


@dataclass(frozen=True)
class PlannedGroup:
    """A parameter group in a phase: its learning rate, its parameters, whether it is warmed up."""

    name: str
    rate: float
    parameters: int
    fresh: bool


@dataclass(frozen=True)
class PlannedPhase:
    """A phase of the schedule, as it goes where none ends early.

    Attributes:
        phase: what the config says of it.
        start, end: it trains the epochs ``start + 1`` to ``end``; none where they are equal.
        groups: in training.
        trained: parameters in training; ``parameters``: all there are.
        augmented: whether training images are augmented.
        cut: links of the backbone before the features that are stored; 0 for end to end.
        stored: the layer whose features are stored; empty for end to end.
    """

    phase: Phase
    start: int
    end: int
    groups: tuple[PlannedGroup, ...]
    trained: int
    parameters: int
    augmented: bool
    cut: int
    stored: str


@dataclass(frozen=True)
class Cost:
    """What the epochs of a phase would take on this machine, training alone.

    Attributes:
        phase: its number, from 0.
        epochs: how many.
        step: seconds of a training step end to end; None on stored features.
        features: seconds that the features take, once; None where they are not needed, and where
            the number of images is not known.
    """

    phase: int
    epochs: int
    step: float | None
    features: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a config describes, as far as it is known before training.

    Attributes:
        config: resolved.
        weights: what would be downloaded first, or None; ``download``: the same of the images.
        index: the images; None where they are not on this machine yet.
        layers: of the network.
        batch: images of a step over all processes.
        steps: of an epoch; None where the number of images is not known.
        augmented: whether training images are augmented in any phase.
        precision: that the run would take.
        phases: of the schedule.
        costs: one for each phase that has epochs; none in a precision that is not timed.
        warnings: what a person should know of the schedule.
        logged: tags of pictures, and how many stand behind each at every look.
    """

    config: Config
    weights: str | None
    download: Download | None
    index: Index | None
    layers: list[LayerRow]
    batch: int
    steps: int | None
    augmented: bool
    precision: str
    phases: list[PlannedPhase]
    costs: list[Cost]
    warnings: list[str]
    logged: list[tuple[str, int]]


def plan(config: Config) -> Plan:
    """Build what ``config`` describes without training it; what is missing is not downloaded.

    Raises:
        UserError: one line for whatever in the config does not fit the data or itself.
    """
    weights, download = download_of_weights(config), pending_download(config.data)
    if download:
        built = _without_data(config, list(download.class_names))
    else:
        built = _with_data(config, pretrained=not weights)
    config = built.module.config  # settled
    channels, size = config.data.channels, config.data.size
    layers = layer_table(built.module.model, channels=channels, size=size)
    batch, _ = precision.batches_of(config)
    steps = config.training.steps_per_epoch
    if steps is None and built.index is not None:
        steps = len(TrainingOrder(int(built.index.counts["train"].sum()), batch, seed=0))
    taken = str(config.precision)
    if taken == "auto":  # measured as the run itself would measure it
        taken = fastest(precision.measured_steps(config, built.module))
    phases = _phases(built, config.training.epochs)
    costs = _costs(built, config, taken, phases) if taken in TIMED else []
    return Plan(
        config, weights, download, built.index, layers, batch, steps,
        any(each.augmented for each in phases if each.start < each.end), taken, phases, costs,
        warnings_of(config, built.module), _logged(built, config),
    )  # fmt: skip


def plan_network(file: Path, words: list[str]) -> tuple[list[LayerRow], Config, int]:
    """Of a checkpoint: its network's layers, its config and its completed epochs.

    Args:
        words: ``key=value``, which change its config.

    Raises:
        UserError: no checkpoint of ours, or one that describes no network.
    """
    checkpoint = read_checkpoint(file)
    told = checkpoint["hyper_parameters"]
    config = changed(stored_config(told["config"], str(file), words), words)
    with understood(str(file)):
        module = ClassifierModule(config, list(told["class_names"]), pretrained=False)
        channels, size = config.data.channels, config.data.size
        layers = layer_table(module.model, channels=channels, size=size)
    return layers, config, checkpoint["epoch"] + 1


@dataclass(frozen=True)
class _Built:
    """The network with its schedule, the callbacks that look, the images.

    Attributes:
        augmented: whether ``data.augment`` changes training images.
        cut: links of the backbone before the stored features of a phase; 0 for end to end.
    """

    module: ClassifierModule
    explanations: list[ExplanationCallback]
    index: Index | None
    augmented: bool
    cut: Callable[[Phase], int]


def _with_data(config: Config, *, pretrained: bool) -> _Built:
    run = assemble(config, pretrained=pretrained)
    return _Built(
        run.module, run.explanations, run.data.index, run.data.augmentation.active,
        lambda phase: run.phases.cut(run.module, run.data, phase),
    )  # fmt: skip


def _without_data(config: Config, class_names: list[str]) -> _Built:
    """A run whose images are to be downloaded: all but their numbers."""
    if config.training.class_weights == "balanced":  # they follow from the numbers of images
        config = with_values(config, {"training.class_weights": None})
    module = ClassifierModule(config, class_names, pretrained=False)
    config = settle(module)
    augmented = Augmentation(config.data.augment).active

    def cut(phase: Phase) -> int:
        if config.cache_features == "never":
            return 0
        return cut_of(module.schedule, phase, module, augmented)[0]

    return _Built(module, explanations_of(config, module), None, augmented, cut)


def _phases(built: _Built, epochs: int) -> list[PlannedPhase]:
    schedule, model = built.module.schedule, built.module.model
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    found = []
    for phase, start, end in schedule.spans(epochs):
        of_groups = {name: schedule.groups[name].parameters for name in phase.train}
        groups = tuple(
            PlannedGroup(
                name, phase.rates[name], sum(sizes[each] for each in parameters),
                name in phase.fresh,
            )
            for name, parameters in of_groups.items()
        )  # fmt: skip
        trained = {each for parameters in of_groups.values() for each in parameters}
        cut = built.cut(phase)
        found.append(
            PlannedPhase(
                phase, start, end, groups, sum(sizes[name] for name in trained),
                sum(sizes.values()), phase.augment and built.augmented, cut,
                model.cut_name(cut) if cut else "",
            )
        )  # fmt: skip
    return found


def _costs(built: _Built, config: Config, taken: str, phases: Sequence[PlannedPhase]) -> list[Cost]:
    module, costs = built.module, []
    for planned in phases:
        number, epochs = planned.phase.number, planned.end - planned.start
        if not epochs:
            continue
        if planned.cut:
            features = _features_seconds(built, config, planned.cut)
            costs.append(Cost(number, epochs, None, features))
        else:
            module.enter(planned.phase)
            step = precision.measured_steps(config, module, (taken,))[taken]
            costs.append(Cost(number, epochs, step))
    module.enter(module.schedule.phases[0])
    return costs


def _features_seconds(built: _Built, config: Config, cut: int) -> float | None:
    """What computing them takes, once; None where the number of images is not known."""
    if built.index is None:
        return None
    data, model, device = config.data, built.module.model, precision.device_of(config)
    images = torch.zeros(FEW, data.channels, data.size, data.size, device=device)
    each = feature_seconds(model.to(device), cut, images)
    model.to("cpu")
    return each * sum(int(built.index.counts[split].sum()) for split in ("train", "validation"))


def _logged(built: _Built, config: Config) -> list[tuple[str, int]]:
    example = torch.zeros(1, config.data.channels, config.data.size, config.data.size)
    probes = len(config.probes.files) or config.probes.count
    tags: list[tuple[str, int]] = []
    for callback in built.explanations:
        layers = callback.chosen(built.module.model, example)
        tags += callback.plan(layers, probes).items()
    return tags
