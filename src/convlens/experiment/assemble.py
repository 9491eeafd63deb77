"""Build the data, the network and the callbacks of a config."""

from __future__ import annotations

import os
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
from convlens.experiment.data import build_data, read_used_digests, use_own_corrections
from convlens.experiment.module import build_module, store_config
from convlens.models.build import check_network
from convlens.models.weights import find_pending_download
from convlens.training import ClassifierModule
from convlens.training.batches import check_batches, find_batch_normalised
from convlens.training.finetune.phases import Phases
from convlens.training.memory import keep_freed_memory
from convlens.training.objective import compute_class_weights


@dataclass
class Run:
    """Everything that a config describes, ready to be trained.

    Attributes:
        config: resolved; it is written to ``config.yaml``.
        data: the images.
        module: the network with its loss and optimizer.
        explanations: the explanation callbacks.
        others: user-defined callbacks that are not explanations.
        left_out: explanations that can show nothing of this network, by name, and why.
        phases: the callback that applies the schedule.
    """

    config: Config
    data: PictureData
    module: ClassifierModule
    explanations: list[ExplanationCallback]
    others: list[L.Callback]
    left_out: dict[str, str]
    phases: Phases


def assemble(config: Config, *, pretrained: bool = True, start: Path | None = None) -> Run:
    """Build data, network and callbacks; no image is decoded and no file written yet.

    Args:
        config: resolved; the run's config also contains the values that this one leaves open
            (epochs, weights, normalisation).
        pretrained: False if the weights will come from a checkpoint.
        start: the checkpoint of a resumed run; None for a new run.

    Raises:
        UserError: values of the config contradict the data or each other.
    """
    if not torch.cuda.is_available():
        keep_freed_memory()
        # Lightning sets it to 1; Adam then looks for NVIDIA's library at every step (0.08 ms)
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
        # looks may compute with fewer threads for a while; once set, the number says all about how
        # the training computes, before and after them
        torch.set_num_threads(torch.get_num_threads())
    check_labels(config)
    check_network(config.model)
    data = build_data(use_own_corrections(config, start), read_used_digests(config, start))
    counts = data.index.counts["train"].tolist()
    weights = compute_class_weights(config.training.class_weights, counts)
    config = replace_values(config, {"training.class_weights": weights})
    module = build_module(config, data.class_names, pretrained=pretrained)
    config = settle(config, module)
    data.batch_statistics = bool(find_batch_normalised(module))
    check_batches(module, data, processes=1)
    phases = Phases(config.cache_features, get_cache_dir(), str(config.precision))
    phases.check(module, data)
    return Run(config, data, module, *build_callbacks(config, module), phases)


def check_labels(config: Config) -> None:
    """Check that the loss fits the number of classes that an image may have.

    Raises:
        UserError: it does not, or a key needs exactly one class per image.
    """
    several, loss = config.data.has_several_classes, config.training.loss
    if several and loss != "multi_label":
        raise UserError(
            f"training.loss={loss} needs one class per image, but this data may have several: set "
            f"training.loss=multi_label"
        )
    if loss == "multi_label" and not several:
        raise UserError(
            f"training.loss=multi_label: data={config.data.name} has one class per image; set "
            f"data.multi_label=true, or data.objects=2 for shapes"
        )
    if several and config.training.class_weights is not None:
        raise UserError("training.class_weights needs one class per image: set it to null")
    if several and config.scores == "all":
        raise UserError("scores=all needs one class per image: leave scores=all out")


def build_callbacks(
    config: Config, module: ClassifierModule
) -> tuple[list[ExplanationCallback], list[L.Callback], dict[str, str]]:
    """Return the explanation callbacks, with layers and class names set, and all other callbacks.

    Then come the explanations that are left out, by name, and why; see ``Run``.

    Built-in callbacks are looked up by class name: Hydra's ``instantiate`` would import and call
    whatever ``_target_`` names, even in nested values, and a config may come from a stranger.
    User-defined callbacks are imported by their dotted name, because the user has typed it.

    Raises:
        UserError: a callback does not accept its values, a class is not a callback, or a layer does
            not exist.
    """
    looks: list[ExplanationCallback] = []
    others: list[L.Callback] = []
    for name, node in config.callbacks.looks.items():
        if isinstance(node, LookConfig):
            looks.append(_build_look(node))
            continue
        callback = instantiate_custom(f"callbacks.{name}", node, L.Callback)
        (looks if isinstance(callback, ExplanationCallback) else others).append(callback)
    example = torch.zeros(1, config.data.channels, config.data.size, config.data.size)
    for look in looks:
        look.class_names = tuple(module.class_names)
        look.find_once(module.model, example, look.select_layers)  # kept for the looks
    obstacles = {
        look.name: look.find_once(module.model, example, look.find_obstacle)
        for look in looks if look.for_some_networks
    }  # fmt: skip
    left_out = {name: obstacle for name, obstacle in obstacles.items() if obstacle}
    return [look for look in looks if look.name not in left_out], others, left_out


def _build_look(look: LookConfig) -> ExplanationCallback:
    kind = look.class_path.rpartition(".")[2]
    try:
        return getattr(callbacks, kind)(**look.arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"callbacks: {kind} does not accept these values: {error}") from error


def instantiate_custom(key: str, node: Own, kind: type) -> Any:
    """Return an instance of a user-defined class, made with the values of its node.

    Args:
        key: key of the node, for errors.
        node: the class and its arguments.
        kind: the Lightning class that it must be an instance of.

    Raises:
        UserError: the class does not accept the values, or its result is of another kind.
    """
    instance = instantiate(key, node)
    if not isinstance(instance, kind):
        raise UserError(
            f"{key}._target_={node.class_path}: this is not a Lightning {kind.__name__.lower()}; "
            f"name a subclass of {kind.__name__}"
        )
    return instance


def settle(config: Config, module: ClassifierModule) -> Config:
    """Return the config with values known only after building; checkpoints will contain it."""
    requested, possible = config.training.epochs, module.schedule.epochs
    normalise = module.model.normalise
    values = {
        "training.epochs": min(requested or possible, possible),
        "model.normalisation": [
            normalise.mean.flatten().tolist(), normalise.std.flatten().tolist()
        ],
    }  # fmt: skip
    if module.model.weights:
        values["model.weights"] = str(module.model.weights.path)
    if module.model.head_outputs is not None:
        values["model.head_classes"] = module.model.head_outputs
    return store_config(module, replace_values(config, values))


def list_warnings(config: Config, module: ClassifierModule) -> list[str]:
    """Return problems of the schedule that the user should know before hours of training."""
    lines = [
        module.schedule.describe_untrained(config.training.epochs),
        describe_spoiled_base(config, module),
    ]
    return [line for line in lines if line]


def describe_spoiled_base(config: Config, module: ClassifierModule) -> str:
    """Return one line if a pretrained base is trained together with a random head, or ''."""

    def list_first_groups(part: str) -> list[str]:
        groups = {name: module.schedule.groups[name] for name in module.schedule.phases[0].train}
        return [n for n, g in groups.items() if any(p.startswith(part) for p in g.parameters)]

    base, weights = list_first_groups("backbone."), module.model.weights
    is_head_new = config.model.head != OWN_HEAD and not (weights and weights.with_head)
    if not (weights and base and list_first_groups("head.") and is_head_new):
        return ""
    return (
        f"{', '.join(base)} and the new head are trained together from epoch 1: the head's "
        f"random gradients spoil pretrained weights; train the head alone first (finetune.phases)"
    )


def find_weights_download(config: Config) -> str | None:
    """Return the weights that a run with this config would download, or None."""
    model = config.model
    if model.name == "scratch" or isinstance(model, OwnModelConfig):
        return None
    network = model.name if model.name in ("vgg16", "inception_v3") else "timm"
    return find_pending_download(
        network, model.weights, whole=model.head == OWN_HEAD,
        timm_name=None if network == "vgg16" else model.name,
    )  # fmt: skip
