"""What a run would be, found out before it is trained: data, layers, phases, costs, pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from convlens.config.checks import replace_values, restore_config
from convlens.config.compose import apply_overrides
from convlens.config.schema import Config
from convlens.data.augment import Augmentation
from convlens.data.order import TrainingOrder
from convlens.data.sources.registry import find_pending_download
from convlens.data.sources.source import Download, Index
from convlens.experiment import devices
from convlens.experiment.assemble import (
    assemble,
    build_callbacks,
    find_weights_download,
    list_warnings,
    settle,
)
from convlens.experiment.module import build_module
from convlens.experiment.networks import convert_build_errors
from convlens.models import build_layer_table
from convlens.models.layers import LayerRow
from convlens.training import ClassifierModule
from convlens.training.finetune.features import measure_feature_seconds
from convlens.training.finetune.phases import find_cut
from convlens.training.finetune.schedule import Phase
from convlens.training.precision import choose_precision
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
    """A phase of the schedule, as it goes where none ends early, and what it costs here.

    Attributes:
        phase: what the config says of it.
        start, end: it trains the epochs ``start + 1`` to ``end``; none where they are equal.
        groups: in training.
        trained: parameters in training; ``parameters``: all there are.
        augmented: whether training images are augmented.
        stored: the layer whose features are stored; empty for end to end.
        step: seconds of a training step end to end; None on stored features, in a precision that is
            not timed, and where there is no epoch.
        features: seconds that the features take, once; None where they are not needed, and where
            the number of images is not known.
    """

    phase: Phase
    start: int
    end: int
    groups: tuple[PlannedGroup, ...]
    trained: int
    parameters: int
    augmented: bool
    stored: str
    step: float | None
    features: float | None

    @property
    def epochs(self) -> int:
        """How many it trains."""
        return self.end - self.start


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
        precision: that the run would take.
        phases: of the schedule.
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
    precision: str
    phases: list[PlannedPhase]
    warnings: list[str]
    logged: list[tuple[str, int]]

    @property
    def trained(self) -> list[PlannedPhase]:
        """The phases that have epochs."""
        return [each for each in self.phases if each.epochs]

    @property
    def timed(self) -> bool:
        """Whether the phases' costs are known."""
        return self.precision in TIMED


def plan(config: Config) -> Plan:
    """Build what ``config`` describes without training it; what is missing is not downloaded.

    Raises:
        UserError: one line for whatever in the config does not fit the data or itself.
    """
    weights, download = find_weights_download(config), find_pending_download(config.data)
    if download:
        (config, module), index = _without_data(config, list(download.class_names)), None
        looks, _ = build_callbacks(config, module)
    else:
        run = assemble(config, pretrained=not weights)
        config, module, looks, index = run.config, run.module, run.explanations, run.data.index
    augmented = Augmentation(config.data.augment).active

    def cut(phase: Phase) -> int:
        """Links of the backbone before the stored features of a phase; 0 for end to end."""
        if not download:
            return run.phases.cut(module, run.data, phase)
        never = config.cache_features == "never"
        return 0 if never else find_cut(module.schedule, phase, module, augmented)[0]

    shape = config.data.channels, config.data.size, config.data.size
    batch, _ = devices.count_batch_images(config)
    steps = config.training.steps_per_epoch
    if steps is None and index is not None:
        steps = len(TrainingOrder(int(index.counts["train"].sum()), batch, seed=0))
    taken = str(config.precision)
    if taken == "auto":  # measured as the run itself would measure it
        taken = choose_precision(devices.time_steps(config, module))
    phases = [
        _planned(config, module, phase, start, end, cut(phase), augmented, taken, index)
        for phase, start, end in module.schedule.list_spans(config.training.epochs)
    ]
    module.enter(module.schedule.phases[0])
    example, probes = torch.zeros(1, *shape), len(config.probes.files) or config.probes.count
    logged = [look.plan(look.select_layers(module.model, example), probes) for look in looks]
    return Plan(
        config, weights, download, index,
        build_layer_table(module.model, channels=shape[0], size=shape[1]),
        batch, steps, taken, phases,
        list_warnings(config, module), [tag for tags in logged for tag in tags.items()],
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
    config = apply_overrides(restore_config(told["config"], str(file), words), words)
    with convert_build_errors(str(file)):
        module = build_module(config, told["class_names"], pretrained=False)
        channels, size = config.data.channels, config.data.size
        layers = build_layer_table(module.model, channels=channels, size=size)
    return layers, config, checkpoint["epoch"] + 1


def _without_data(config: Config, class_names: list[str]) -> tuple[Config, ClassifierModule]:
    """The network of a run whose images are to be downloaded, settled but for their numbers."""
    if config.training.class_weights == "balanced":  # they follow from the numbers of images
        config = replace_values(config, {"training.class_weights": None})
    module = build_module(config, class_names, pretrained=False)
    return settle(config, module), module


def _planned(
    config: Config, module: ClassifierModule, phase: Phase, start: int, end: int, cut: int,
    augmented: bool, precision: str, index: Index | None,
) -> PlannedPhase:  # fmt: skip
    """What a phase is and costs; the module is in it afterwards if it is timed."""
    model = module.model
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    of_groups = {name: module.schedule.groups[name].parameters for name in phase.train}
    groups = tuple(
        PlannedGroup(name, phase.rates[name], sum(map(sizes.get, parameters)), name in phase.fresh)
        for name, parameters in of_groups.items()
    )
    trained = {each for parameters in of_groups.values() for each in parameters}
    step = features = None
    if end > start and precision in TIMED:
        if cut:
            features = _features_seconds(config, module, cut, index)
        else:
            module.enter(phase)
            step = devices.time_steps(config, module, (precision,))[precision]
    return PlannedPhase(
        phase, start, end, groups, sum(map(sizes.get, trained)), sum(sizes.values()),
        phase.augment and augmented, model.cut_name(cut) if cut else "", step, features,
    )  # fmt: skip


def _features_seconds(
    config: Config, module: ClassifierModule, cut: int, index: Index | None
) -> float | None:
    """What computing them takes, once; None where the number of images is not known."""
    if index is None:
        return None
    data, device = config.data, devices.choose_device(config)
    images = torch.zeros(FEW, data.channels, data.size, data.size, device=device)
    each = measure_feature_seconds(module.model.to(device), cut, images)
    module.model.to("cpu")
    return each * sum(int(index.counts[split].sum()) for split in ("train", "validation"))
