"""Build a classifier with its weights from the config group ``model``."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from convlens.config.schema import OWN_HEAD, ModelConfig, OwnModelConfig
from convlens.config.targets import instantiate
from convlens.core.errors import UserError
from convlens.models import timm_networks, vgg16
from convlens.models.backbone import Backbone, build_chain, find_minimum_size, too_small_error
from convlens.models.classifier import Classifier, feature_shape
from convlens.models.earlier_run import load_earlier_run, read_earlier_run
from convlens.models.fresh import initialise
from convlens.models.head import Select, build_head
from convlens.models.imagenet import select_outputs
from convlens.models.normalise import build_normalisation
from convlens.models.scratch import build_scratch
from convlens.models.state import load_weights
from convlens.models.weights import WeightsFile, find_weights

log = logging.getLogger("convlens")
IMAGENET_CLASSES = 1000


@dataclass
class _Parts:
    """A library's network: its backbone, how to build its own head, and which module to fill."""

    backbone: Backbone
    own_head: Callable[[], nn.Module]
    target: nn.Module  # has the library's own keys
    classifier: tuple[str, ...]  # prefixes of keys that belong to the classifier
    prefixes: tuple[str, ...] = ()
    network: str = "timm"
    timm_name: str | None = None
    default: str = "imagenet"
    own_normalisation: tuple | None = None


def build_model(
    chosen: ModelConfig, *, channels: int, size: int, outputs: int,
    class_names: Sequence[str] | None = None, pretrained: bool = True,
) -> Classifier:  # fmt: skip
    """Build the network that the config group ``model`` describes.

    Args:
        chosen: the group.
        channels: channels of the images.
        size: height and width of the images in pixels.
        outputs: number of logits, K or 1.
        class_names: names of the classes; None if unknown.
        pretrained: False keeps random weights, for a network that is loaded from a checkpoint.

    Returns:
        The classifier. Its attribute ``weights`` is the ``WeightsFile`` that was loaded, or None;
        ``head_outputs`` lists the outputs of a library's own head that are the logits, None for
        all.

    Raises:
        UserError: a value of the group is invalid; the error names its key.
    """
    name = chosen.name
    if name == "scratch" or isinstance(chosen, OwnModelConfig):
        return _from_scratch(chosen, channels, size, outputs, class_names, pretrained)
    if name != "vgg16":
        timm_networks.check_name(name)
    if chosen.filters is not None:
        raise UserError(
            f"model.name={name}: this experiment trains a plain convnet; try exp=finetune_vgg16, "
            f"exp=finetune_inception_v3 or exp=finetune_timm model.name={name}"
        )
    own = chosen.head == OWN_HEAD
    head_outputs = _chosen_outputs(chosen, outputs, class_names) if own else None
    parts = _parts(name, size, own)
    found = None
    if pretrained:
        found = find_weights(parts.network, chosen.weights, timm_name=parts.timm_name, whole=own)
        if found is None and own:
            raise UserError("model.head=imagenet needs weights; try model.weights=auto")
    if found and not found.earlier_run:
        note = load_weights(
            parts.target, found, classifier=parts.classifier, prefixes=parts.prefixes
        )
        found = replace(found, note=note or "")
    of_weights = (found.mean, found.std) if found else parts.own_normalisation
    normalise = build_normalisation(chosen.normalisation, 3, of_weights, parts.default)
    shape = _shape(parts.backbone, name, size)
    if own:
        top = parts.own_head()
        if head_outputs is not None:
            top = nn.Sequential(OrderedDict(network=top, classes=Select(head_outputs)))
    else:
        top = build_head(shape, outputs, chosen.head, chosen.activation)
        initialise(top, chosen.initialisation)
    classifier = Classifier(normalise, parts.backbone, top)
    classifier.head_outputs = head_outputs
    _note_weights(classifier, found, class_names)
    if own and found and found.earlier_run and not classifier.weights.with_head:
        raise UserError(f"model.head=imagenet: {classifier.weights.note}")
    return classifier


def _note_weights(
    classifier: Classifier, found: WeightsFile | None, class_names: Sequence[str] | None
) -> None:
    """Load an earlier run's weights, record the weights file on the classifier, and log it."""
    if found and found.earlier_run:
        with_head, note = load_earlier_run(classifier, found.earlier_run, class_names)
        own = classifier.normalise
        mine = own.mean.flatten().tolist(), own.std.flatten().tolist()
        if (theirs := found.earlier_run.normalisation(own.mean.numel())) != mine:
            note += (
                f"; they were trained with normalisation {theirs}, model.normalisation gives {mine}"
            )
        found = replace(found, earlier_run=None, note=note, with_head=with_head)
    classifier.weights = found
    if found and found.note:
        log.info(found.note)


def _chosen_outputs(
    chosen: ModelConfig, outputs: int, class_names: Sequence[str] | None
) -> list[int] | None:
    """Return which outputs of the library's head are the logits; None for all 1000."""
    known, name = IMAGENET_CLASSES, chosen.name
    if name != "vgg16":
        known = timm_networks.read_timm_config(name).get("num_classes") or 0
    if known != IMAGENET_CLASSES:
        raise UserError(
            f"model.head=imagenet: the weights of {name} have {known or 'no'} classes, not the "
            f"{IMAGENET_CLASSES} of ImageNet-1k; choose a name ending in in1k, or omit model.head"
        )
    if class_names is not None and outputs == len(class_names):
        return select_outputs(chosen.head_classes, class_names)
    if outputs != IMAGENET_CLASSES:
        raise UserError(
            f"model.head=imagenet has {IMAGENET_CLASSES} logits, one per ImageNet class, but "
            f"{outputs} are needed; omit model.head for a new head"
        )
    return None


def _earlier_run(weights: str, none: Sequence[str]) -> WeightsFile | None:
    """Find the weights of an earlier run for a network that no library has; None for none."""
    if weights in none:
        return None
    path = Path(weights).expanduser()
    trained = read_earlier_run(path) if path.is_file() else None
    if trained is None:
        raise UserError(
            f"model.weights={weights}: no checkpoint of an earlier run, and no library has weights "
            f"for model=scratch; name a run's best.ckpt, or none to start at random"
        )
    return WeightsFile(path, (), (), "model.weights", trained)


def _from_scratch(
    chosen: ModelConfig, channels: int, size: int, outputs: int,
    class_names: Sequence[str] | None, pretrained: bool,
) -> Classifier:  # fmt: skip
    """A network that no library has: ours from its keys, or a class of a person's own."""
    own = isinstance(chosen, OwnModelConfig)
    if not own and chosen.filters is None:
        raise UserError("model.name=scratch: say model=scratch, which has the keys it needs")
    if chosen.head == OWN_HEAD:
        raise UserError(
            f"model.head=imagenet: the {chosen.name} network has no classifier of its own"
        )
    drawn = ("none", "auto") if own else ("none",)  # no library has weights for these
    found = _earlier_run(chosen.weights, drawn) if pretrained else None
    of_weights = found.earlier_run.normalisation(channels) if found else None
    normalise = build_normalisation(chosen.normalisation, channels, of_weights, "unit")
    try:
        if own:
            backbone = _own_backbone(chosen, channels)
            shape = _own_shape(chosen, backbone, channels, size)
        else:
            backbone = build_scratch(chosen, channels=channels, size=size)
            shape = feature_shape(backbone, channels, size)
        top = build_head(shape, outputs, chosen.head, chosen.activation)
        classifier = Classifier(normalise, backbone, top)
    except RuntimeError as error:  # torch reports missing memory this way
        if "alloc" not in str(error) and "Storage size" not in str(error):
            raise
        raise UserError(
            f"model.filters={chosen.filters}, model.head.hidden={chosen.head.hidden}: the network "
            f"is larger than this machine's memory; reduce them, or try model.head.pool=average"
        ) from error
    initialise(top if own else classifier, chosen.initialisation)
    classifier.head_outputs = None
    _note_weights(classifier, found, class_names)
    return classifier


def _own_backbone(chosen: OwnModelConfig, channels: int) -> Backbone:
    """Build a user-defined network: a chain of its children, or one part if it is not a chain.

    Raises:
        UserError: the class does not return a module.
    """
    network = instantiate("model", chosen, channels=channels)
    if isinstance(network, Backbone):
        return network
    if not isinstance(network, nn.Module):
        raise UserError(f"model._target_={chosen.class_path} does not return a torch.nn.Module")
    is_plain = type(network).forward is nn.Sequential.forward
    return build_chain(dict(network.named_children()) if is_plain else {"network": network})


def _own_shape(
    chosen: OwnModelConfig, backbone: Backbone, channels: int, size: int
) -> tuple[int, ...]:
    """Return the shape of a user-defined network's feature map, from one pass.

    Raises:
        UserError: it fails on such images, or returns no feature map.
    """
    try:
        shape = feature_shape(backbone, channels, size)
    except Exception as error:  # user-defined code can raise anything
        reason = f"{type(error).__name__}: {error}"
    else:
        if len(shape) == 3 and min(shape) > 0:
            return shape
        reason = f"its output is {shape}, not (C, h, w)"
    raise UserError(
        f"model: {chosen.class_path} makes no feature map of {channels} × {size} × {size} pixels "
        f"({reason})"
    )


def _parts(name: str, size: int, own: bool) -> _Parts:
    if name == "vgg16":
        network = vgg16.build_network() if own else None
        features = network.features if own else vgg16.build_convolutions()
        return _Parts(
            vgg16.group_by_block(features),
            lambda: vgg16.build_own_head(network),
            target=network if own else features,
            classifier=("classifier.",),
            prefixes=() if own else ("features.",),
            network="vgg16",
        )
    network = timm_networks.create(name, IMAGENET_CLASSES if own else 0)
    backbone, unused = timm_networks.build_backbone(network, name, size)
    settings = timm_networks.read_timm_config(name)
    top = settings.get("classifier") or ()
    tops = (top,) if isinstance(top, str) else tuple(top)
    return _Parts(
        backbone,
        lambda: timm_networks.OwnHead(network, unused),
        target=network,
        classifier=(*(f"{prefix}." for prefix in tops), "AuxLogits."),
        network="inception_v3" if name == "inception_v3" else "timm",
        timm_name=name,
        own_normalisation=(settings["mean"], settings["std"]),
    )


def _shape(backbone: Backbone, name: str, size: int) -> tuple[int, ...]:
    """Return the feature map's shape; if images are too small, the error states the minimum."""
    if name == "inception_v3" and size < 75:
        raise too_small_error(name, size, 75)
    try:
        shape = feature_shape(backbone, 3, size)
    except (RuntimeError, ValueError):
        shape = (0,)
    if min(shape) < 1:
        raise too_small_error(
            name, size, find_minimum_size(lambda e: feature_shape(backbone, 3, e), size)
        )
    return shape
