"""From a config to data, network and explanation callbacks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytorch_lightning as L
import torch

from convlens.callbacks import ExplanationCallback
from convlens.config.checks import with_values
from convlens.config.schema import OWN_HEAD, Config, OwnModelConfig
from convlens.data.datamodule import PictureData
from convlens.data.sources.places import cache_dir
from convlens.experiment.callback import looks_of, others_of
from convlens.experiment.data import data_of
from convlens.experiment.unseen import images_used_before
from convlens.models.weights import pending_weights
from convlens.training import ClassifierModule
from convlens.training.batches import check_batches, normalised_by_batch
from convlens.training.finetune.phases import Phases
from convlens.training.memory import keep_freed_memory
from convlens.training.objective import class_weights


@dataclass
class Run:
    """Everything that a config describes, put together.

    Attributes:
        config: resolved; what is written into ``config.yaml``.
        data: the pictures.
        module: the network with its loss and optimizer.
        explanations: the callbacks that look.
        phases: what puts the schedule into force.
        others: a person's own callbacks that explain nothing.
    """

    config: Config
    data: PictureData
    module: ClassifierModule
    explanations: list[ExplanationCallback]
    phases: Phases
    others: list[L.Callback] = field(default_factory=list)


def assemble(config: Config, *, pretrained: bool = True, start: Path | None = None) -> Run:
    """Build data, network and explanation callbacks; nothing is decoded or written yet.

    Args:
        config: resolved; what it leaves open (epochs, weights, normalisation) is settled in the
            run's.
        pretrained: False for a network whose weights will come from a checkpoint.
        start: the checkpoint of a resumed run.

    Raises:
        UserError: one line for whatever in the config does not fit the data or itself.
    """
    if not torch.cuda.is_available():
        keep_freed_memory()
    data = data_of(config, images_used_before(config, start))
    counts = data.index.counts["train"].tolist()
    weights = class_weights(config.training.class_weights, counts)
    config = with_values(config, {"training.class_weights": weights})
    module = ClassifierModule(config, list(data.class_names), pretrained=pretrained)
    config = settle(module)
    data.batch_statistics = bool(normalised_by_batch(module))
    check_batches(module, data, processes=1)
    phases = Phases(config.cache_features, cache_dir())
    phases.check(module, data)
    explanations, others = explanations_of(config, module), others_of(config.callbacks)
    return Run(config, data, module, explanations, phases, others)


def explanations_of(config: Config, module: ClassifierModule) -> list[ExplanationCallback]:
    """The callbacks that look, each held to the network's layers and classes.

    Raises:
        UserError: values that a callback does not take, or a layer that is not there.
    """
    callbacks = looks_of(config.callbacks)
    example = torch.zeros(1, config.data.channels, config.data.size, config.data.size)
    for callback in callbacks:
        callback.class_names = tuple(module.class_names)
        callback.chosen(module.model, example)
    return callbacks


def settle(module: ClassifierModule) -> Config:
    """The config with what was found out while building, which the module tells from now on."""
    asked, known = module.config.training.epochs, module.schedule.epochs
    normalise = module.model.normalise
    found = {
        "training.epochs": min(asked or known, known),
        "model.normalisation": [
            normalise.mean.flatten().tolist(), normalise.std.flatten().tolist()
        ],
    }  # fmt: skip
    if module.model.weights:
        found["model.weights"] = str(module.model.weights.path)
    if module.model.head_outputs is not None:
        found["model.head_classes"] = module.model.head_outputs
    return module.settle(with_values(module.config, found))


def warnings_of(config: Config, module: ClassifierModule) -> list[str]:
    """What a person should know about the schedule before it costs hours."""
    lines = [line for line in [module.schedule.cut_short(config.training.epochs)] if line]
    first = module.schedule.phases[0]
    base = [
        name
        for name in first.train
        if any(p.startswith("backbone.") for p in module.schedule.groups[name].parameters)
    ]
    heads = [
        name
        for name in first.train
        if any(p.startswith("head.") for p in module.schedule.groups[name].parameters)
    ]
    weights = module.model.weights
    fresh_head = config.model.head != OWN_HEAD and not (weights and weights.with_head)
    if not (weights and base and heads and fresh_head):
        return lines
    return [
        *lines,
        f"{', '.join(base)} and the untrained head are trained together from the first epoch: the "
        f"head's large random gradients will spoil the pretrained weights; train the head alone "
        f"first, in a phase of its own",
    ]


def download_of_weights(config: Config) -> str | None:
    """What a run with this config would download as weights, or None."""
    model = config.model
    if model.name == "scratch" or isinstance(model, OwnModelConfig):
        return None
    network = model.name if model.name in ("vgg16", "inception_v3") else "timm"
    timm_name = None if network == "vgg16" else model.name
    whole = model.head == OWN_HEAD
    return pending_weights(network, model.weights, timm_name=timm_name, whole=whole)
