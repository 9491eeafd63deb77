"""From a config to data, network and explanation callbacks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch

from convlens import callbacks
from convlens.callbacks import ExplanationCallback
from convlens.config.checks import replace_values
from convlens.config.schema import OWN_HEAD, Config, LookConfig, Own, OwnModelConfig
from convlens.config.targets import instantiate
from convlens.core.errors import UserError
from convlens.data.datamodule import PictureData
from convlens.data.sources.places import get_cache_dir
from convlens.experiment.data import data_of, images_used_before
from convlens.experiment.module import module_of, note_config
from convlens.models.weights import find_pending_download
from convlens.training import ClassifierModule
from convlens.training.batches import check_batches, find_batch_normalised
from convlens.training.finetune.phases import Phases
from convlens.training.memory import keep_freed_memory
from convlens.training.objective import compute_class_weights


@dataclass
class Run:
    """Everything that a config describes, put together.

    Attributes:
        config: resolved; what is written into ``config.yaml``.
        data: the pictures.
        module: the network with its loss and optimizer.
        explanations: the callbacks that look.
        others: a person's own callbacks that explain nothing.
        phases: what puts the schedule into force.
    """

    config: Config
    data: PictureData
    module: ClassifierModule
    explanations: list[ExplanationCallback]
    others: list[L.Callback]
    phases: Phases


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
    weights = compute_class_weights(config.training.class_weights, counts)
    config = replace_values(config, {"training.class_weights": weights})
    module = module_of(config, data.class_names, pretrained=pretrained)
    config = settle(config, module)
    data.batch_statistics = bool(find_batch_normalised(module))
    check_batches(module, data, processes=1)
    phases = Phases(config.cache_features, get_cache_dir(), str(config.precision))
    phases.check(module, data)
    return Run(config, data, module, *callbacks_of(config, module), phases)


def callbacks_of(
    config: Config, module: ClassifierModule
) -> tuple[list[ExplanationCallback], list[L.Callback]]:
    """The callbacks that look, each held to the network's layers and classes, and all others.

    Ours are taken from a list by their class's name: Hydra's ``instantiate`` would import and call
    whatever ``_target_`` says, in values too, and a config may come from anybody. A person's own
    are imported by their dotted name, which that person has typed.

    Raises:
        UserError: values that a callback does not take, a class that is none, or a layer that is
            not there.
    """
    looks: list[ExplanationCallback] = []
    others: list[L.Callback] = []
    for name, node in config.callbacks.looks.items():
        if isinstance(node, LookConfig):
            looks.append(_made(node))
            continue
        made = own_instance(f"callbacks.{name}", node, L.Callback)
        (looks if isinstance(made, ExplanationCallback) else others).append(made)
    example = torch.zeros(1, config.data.channels, config.data.size, config.data.size)
    for look in looks:
        look.class_names = tuple(module.class_names)
        look.select_layers(module.model, example)
    return looks, others


def _made(look: LookConfig) -> ExplanationCallback:
    kind = look.class_path.rpartition(".")[2]
    try:
        return getattr(callbacks, kind)(**look.arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"callbacks: {kind} does not take such values: {error}") from error


def own_instance(key: str, node: Own, kind: type) -> Any:
    """What a person's own class makes of its keys.

    Args:
        key: of the node, for messages.
        kind: of Lightning's, that it has to be.

    Raises:
        UserError: values that the class does not take, or it makes something else.
    """
    made = instantiate(key, node)
    if not isinstance(made, kind):
        raise UserError(
            f"{key}._target_={node.class_path}: it makes no {kind.__name__.lower()} of Lightning"
        )
    return made


def settle(config: Config, module: ClassifierModule) -> Config:
    """The config with what was found out while building; the module's checkpoints will hold it."""
    asked, known = config.training.epochs, module.schedule.epochs
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
    return note_config(module, replace_values(config, found))


def warnings_of(config: Config, module: ClassifierModule) -> list[str]:
    """Return what the user should know about the schedule before it takes hours."""
    lines = [
        module.schedule.describe_untrained(config.training.epochs),
        describe_spoiled_base(config, module),
    ]
    return [line for line in lines if line]


def describe_spoiled_base(config: Config, module: ClassifierModule) -> str:
    """Return one line if a pretrained base is trained together with a random head, or ''."""

    def trained_first(part: str) -> list[str]:
        groups = {name: module.schedule.groups[name] for name in module.schedule.phases[0].train}
        return [n for n, g in groups.items() if any(p.startswith(part) for p in g.parameters)]

    base, weights = trained_first("backbone."), module.model.weights
    fresh_head = config.model.head != OWN_HEAD and not (weights and weights.with_head)
    if not (weights and base and trained_first("head.") and fresh_head):
        return ""
    return (
        f"{', '.join(base)} and the untrained head are trained together from the first epoch, "
        f"which spoils the pretrained weights; train the head alone in a first phase"
    )


def download_of_weights(config: Config) -> str | None:
    """What a run with this config would download as weights, or None."""
    model = config.model
    if model.name == "scratch" or isinstance(model, OwnModelConfig):
        return None
    network = model.name if model.name in ("vgg16", "inception_v3") else "timm"
    return find_pending_download(
        network, model.weights, whole=model.head == OWN_HEAD,
        timm_name=None if network == "vgg16" else model.name,
    )  # fmt: skip
