"""Describe a run before it is trained: data, layers, phases, costs and logged pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from convlens.callbacks import Ledger
from convlens.config.checks import replace_values, restore_config
from convlens.config.compose import apply_overrides
from convlens.config.schema import Config
from convlens.data.augment import Augmentation
from convlens.data.datamodule import PictureData
from convlens.data.sources.registry import find_pending_download
from convlens.data.sources.source import Download, Index
from convlens.experiment import devices
from convlens.experiment.announce import describe_residence
from convlens.experiment.assemble import (
    assemble,
    build_callbacks,
    find_weights_download,
    list_warnings,
    settle,
)
from convlens.experiment.compilation import describe_compile
from convlens.experiment.forecast import Forecast, forecast_looks
from convlens.experiment.module import build_module
from convlens.experiment.networks import convert_build_errors
from convlens.experiment.trainer import build_ledger
from convlens.models import build_layer_table
from convlens.models.layers import LayerRow
from convlens.training import ClassifierModule
from convlens.training.finetune.features import measure_feature_seconds
from convlens.training.finetune.phases import find_cut
from convlens.training.finetune.schedule import Phase
from convlens.training.survival.checkpoint import read_checkpoint

FEW = 4  # images in the pass that times the features
TIMED = ("32", "bf16")  # precisions whose steps are timed


@dataclass(frozen=True)
class PlannedGroup:
    """A parameter group in a phase.

    Attributes:
        name: name of the group.
        rate: learning rate.
        parameters: number of parameters.
        fresh: whether it is warmed up, because the previous phase did not train it.
    """

    name: str
    rate: float
    parameters: int
    fresh: bool


@dataclass(frozen=True)
class PlannedPhase:
    """A phase of the schedule if no phase ends early, and its cost on this machine.

    Attributes:
        phase: the phase in the schedule.
        start: epochs before it; it trains the epochs ``start + 1`` to ``end``.
        end: its last epoch; equal to ``start`` if it has none.
        groups: the trained groups.
        trained: number of trained parameters.
        parameters: number of all parameters.
        is_augmented: whether training images are augmented.
        stored_layer: the layer whose features are stored; empty if trained end to end.
        step_seconds: seconds per training step, end to end; None on stored features, in a precision
            that is not timed, and if the phase has no epoch.
        feature_seconds: seconds to compute the features once; None if they are not needed, or if
            the number of images is unknown.
    """

    phase: Phase
    start: int
    end: int
    groups: tuple[PlannedGroup, ...]
    trained: int
    parameters: int
    is_augmented: bool
    stored_layer: str
    step_seconds: float | None
    feature_seconds: float | None

    @property
    def epochs(self) -> int:
        """The number of epochs that it trains."""
        return self.end - self.start


@dataclass(frozen=True)
class Plan:
    """What is known about a run before it is trained.

    Attributes:
        config: resolved.
        weights: the weights that would be downloaded first, or None.
        download: the data set that would be downloaded first, or None.
        index: the images; None if they must be downloaded.
        images: where batches are read from; '' if the number of images is unknown.
        layers: layers of the network.
        batch: images per step, over all processes.
        steps: steps per epoch; None if the number of images is unknown.
        precision: precision of the run.
        phases: phases of the schedule.
        warnings: problems of the schedule.
        tags: tags of logged pictures, with the number of pictures at each look.
        compile: whether the network would be compiled, and why.
        ledger: what explanations may cost.
        forecast: what they have time for; None if there are none.
    """

    config: Config
    weights: str | None
    download: Download | None
    index: Index | None
    images: str
    layers: list[LayerRow]
    batch: int
    steps: int | None
    precision: str
    phases: list[PlannedPhase]
    warnings: list[str]
    tags: list[tuple[str, int]]
    compile: str
    ledger: Ledger
    forecast: Forecast | None

    def estimate_epoch_seconds(self, planned: PlannedPhase) -> float | None:
        """Return the seconds of an epoch's steps; None if they are not known."""
        if planned.step_seconds is None or self.steps is None:
            return None
        return planned.step_seconds * self.steps

    @property
    def trained_phases(self) -> list[PlannedPhase]:
        """The phases that have epochs."""
        return [each for each in self.phases if each.epochs]

    @property
    def is_timed(self) -> bool:
        """Whether the costs of the phases are known."""
        return self.precision in TIMED


def plan(config: Config) -> Plan:
    """Build what ``config`` describes without training it; missing files are not downloaded.

    Args:
        config: resolved.

    Raises:
        UserError: values of the config contradict the data or each other.
    """
    weights, download = find_weights_download(config), find_pending_download(config.data)
    if download:
        (config, module), index = _build_without_data(config, list(download.class_names)), None
        looks, *_ = build_callbacks(config, module)
    else:
        run = assemble(config, pretrained=not weights)
        config, module, looks, index = run.config, run.module, run.explanations, run.data.index
        run.data.serve(devices.choose_device(config))
    is_augmented = Augmentation(config.data.augment).active

    def find_phase_cut(phase: Phase) -> int:
        """Return how many links of the backbone precede the stored features; 0 if end to end."""
        if not download:
            return run.phases.cut(module, run.data, phase)
        if config.cache_features == "never":
            return 0
        return find_cut(module.schedule, phase, module, is_augmented)[0]

    shape = config.data.channels, config.data.size, config.data.size
    batch, _ = devices.count_batch_images(config)
    images = None if index is None else int(index.counts["train"].sum())
    steps = devices.count_steps(config, images)
    spans = module.schedule.list_spans(config.training.epochs)
    precision = str(config.precision)
    if precision == "auto":  # chosen as the run itself would choose it

        def count_all_steps() -> int:
            each = [end - start for phase, start, end in spans if not find_phase_cut(phase)]
            return sum(each) * (steps or 0)

        precision, _ = devices.resolve_precision(config, module, count_all_steps)
    phases = [
        _plan_phase(
            config, module, phase, start, end, find_phase_cut(phase), is_augmented, precision, index
        )
        for phase, start, end in spans
    ]
    module.enter(module.schedule.phases[0])
    example, probes = torch.zeros(1, *shape), len(config.probes.files) or config.probes.count
    plans = [look.plan(look.select_layers(module.model, example), probes) for look in looks]
    planned = Plan(
        config, weights, download, index,
        "" if download else _describe_images(run.data, config),
        build_layer_table(module.model, channels=shape[0], size=shape[1]),
        batch, steps, precision, phases,
        list_warnings(config, module), [tag for tags in plans for tag in tags.items()],
        compile="", ledger=build_ledger(config), forecast=None,
    )  # fmt: skip
    seconds = [
        planned.estimate_epoch_seconds(phase) or 0.0
        for phase in planned.trained_phases for _ in range(phase.epochs)
    ]  # fmt: skip
    count = sum(not phase.stored_layer for phase in planned.trained_phases)
    is_known = planned.is_timed and steps is not None
    compiled = describe_compile(config, module, sum(seconds) if is_known else None, count)
    forecast = forecast_looks(
        module, looks, planned.ledger, seconds, shape=shape, probes=probes,
        device=devices.choose_device(config),
    )  # fmt: skip
    return replace(planned, forecast=forecast, compile=compiled)


def _describe_images(data: PictureData, config: Config) -> str:
    kind = devices.choose_device(config).type
    return describe_residence(data.residence, data.nbytes, kind)


def plan_network(file: Path, words: list[str]) -> tuple[list[LayerRow], Config, int]:
    """Return the layers of a checkpoint's network, its config and its completed epochs.

    Args:
        file: the checkpoint.
        words: overrides of its config, ``key=value``.

    Raises:
        UserError: the file is not a convlens checkpoint, or no network can be built from it.
    """
    checkpoint = read_checkpoint(file)
    parts = checkpoint["hyper_parameters"]
    config = apply_overrides(restore_config(parts["config"], str(file), words), words)
    with convert_build_errors(str(file)):
        module = build_module(config, parts["class_names"], pretrained=False)
        channels, size = config.data.channels, config.data.size
        layers = build_layer_table(module.model, channels=channels, size=size)
    return layers, config, checkpoint["epoch"] + 1


def _build_without_data(config: Config, class_names: list[str]) -> tuple[Config, ClassifierModule]:
    """Build the network of a run whose images must be downloaded; class weights stay unknown."""
    if config.training.class_weights == "balanced":  # they depend on the numbers of images
        config = replace_values(config, {"training.class_weights": None})
    module = build_module(config, class_names, pretrained=False)
    return settle(config, module), module


def _plan_phase(
    config: Config, module: ClassifierModule, phase: Phase, start: int, end: int, cut: int,
    is_augmented: bool, precision: str, index: Index | None,
) -> PlannedPhase:  # fmt: skip
    """Describe a phase and time it; a timed phase stays the module's current one."""
    model = module.model
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    group_parameters = {name: module.schedule.groups[name].parameters for name in phase.train}
    groups = tuple(
        PlannedGroup(name, phase.rates[name], sum(map(sizes.get, parameters)), name in phase.fresh)
        for name, parameters in group_parameters.items()
    )
    trained = {each for parameters in group_parameters.values() for each in parameters}
    step_seconds = feature_seconds = None
    if end > start and precision in TIMED:
        if cut:
            feature_seconds = _estimate_feature_seconds(config, module, cut, index)
        else:
            module.enter(phase)
            step_seconds = devices.time_steps(config, module, (precision,))[precision]
    return PlannedPhase(
        phase, start, end, groups, sum(map(sizes.get, trained)), sum(sizes.values()),
        phase.augment and is_augmented, model.cut_name(cut) if cut else "",
        step_seconds, feature_seconds,
    )  # fmt: skip


def _estimate_feature_seconds(
    config: Config, module: ClassifierModule, cut: int, index: Index | None
) -> float | None:
    """Return seconds to compute all features once; None if the number of images is unknown."""
    if index is None:
        return None
    data, device = config.data, devices.choose_device(config)
    images = torch.zeros(FEW, data.channels, data.size, data.size, device=device)
    each = measure_feature_seconds(module.model.to(device), cut, images)
    module.model.to("cpu")
    return each * sum(int(index.counts[split].sum()) for split in ("train", "validation"))
