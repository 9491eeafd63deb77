"""Build a classifier with its weights from the config group ``model``."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

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
from convlens.models.timm_head import build_timm_head, pool_tokens
from convlens.models.timm_parts import OwnHead, take_part
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
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    build_new_head: Callable[[int], nn.Module] | None = None  # None: from a map (C, h, w)


def check_network(spec: ModelConfig) -> None:
    """Check the name of a network; ``build_model`` does, and others before a download.

    Raises:
        UserError: no library has such a network or such weights; the error suggests similar ones.
    """
    if spec.name not in ("scratch", "vgg16") and not isinstance(spec, OwnModelConfig):
        timm_networks.read_timm_config(spec.name)


def build_model(
    spec: ModelConfig, *, channels: int, size: int, outputs: int,
    class_names: Sequence[str] | None = None, pretrained: bool = True,
) -> Classifier:  # fmt: skip
    """Build the network that the config group ``model`` describes.

    Args:
        spec: the group.
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
    name = spec.name
    if name == "scratch" or isinstance(spec, OwnModelConfig):
        return _build_from_scratch(spec, channels, size, outputs, class_names, pretrained)
    check_network(spec)
    if spec.filters is not None:
        raise UserError(
            f"model.name={name}: this experiment trains a plain convnet; try exp=finetune_vgg16, "
            f"exp=finetune_inception_v3 or exp=finetune_timm model.name={name}"
        )
    own = spec.head == OWN_HEAD
    head_outputs = _choose_outputs(spec, outputs, class_names) if own else None
    parts = _build_parts(spec, size, own)
    weights = None
    if pretrained:
        weights = find_weights(parts.network, spec.weights, timm_name=parts.timm_name, whole=own)
        if weights is None and own:
            raise UserError("model.head=imagenet needs weights; try model.weights=auto")
    if weights and not weights.earlier_run:
        note = load_weights(
            parts.target, weights, classifier=parts.classifier, prefixes=parts.prefixes,
            whole=own, convert=parts.convert, sizes=_list_sizes(parts, weights, size),
        )  # fmt: skip
        weights = replace(weights, note=note or "")
    of_weights = (weights.mean, weights.std) if weights else parts.own_normalisation
    normalise = build_normalisation(spec.normalisation, 3, of_weights, parts.default)
    if own:
        top = parts.own_head()
        if head_outputs is not None:
            top = nn.Sequential(OrderedDict(network=top, classes=Select(head_outputs)))
    elif parts.build_new_head:
        top = parts.build_new_head(outputs)
    else:
        shape = _compute_shape(parts.backbone, name, size)
        top = build_head(shape, outputs, spec.head, spec.activation)
        initialise(top, spec.initialisation)
    classifier = Classifier(normalise, parts.backbone, top)
    classifier.head_outputs = head_outputs
    _record_weights(classifier, weights, class_names, parts, size)
    if own and weights and weights.earlier_run and not classifier.weights.with_head:
        raise UserError(f"model.head=imagenet: {classifier.weights.note}")
    return classifier


def _list_sizes(parts: _Parts, weights: WeightsFile, size: int) -> tuple[int, int] | None:
    """Return the pixels of the images, and of those of a library's file; None for other files."""
    if parts.timm_name is None or weights.origin == "model.weights":
        return None
    return size, timm_networks.read_timm_config(parts.timm_name)["input_size"][-1]


def _convert_by_name(
    classifier: Classifier, parts: _Parts, state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return tensors of a classifier converted by the library, which knows them by its own names.

    The classifier shares its tensors with the library's network.
    """
    assert parts.convert is not None, "only what can be converted is"
    library = {id(value): key for key, value in parts.target.state_dict(keep_vars=True).items()}
    ours = classifier.state_dict(keep_vars=True).items()
    names = {key: library[id(value)] for key, value in ours if id(value) in library}
    found = parts.convert({name: state[key] for key, name in names.items() if key in state})
    return state | {key: found[name] for key, name in names.items() if name in found}


def _record_weights(
    classifier: Classifier, weights: WeightsFile | None, class_names: Sequence[str] | None,
    parts: _Parts | None = None, size: int | None = None,
) -> None:  # fmt: skip
    """Load an earlier run's weights, record the weights file on the classifier, and log it."""
    if weights and weights.earlier_run:
        convert = partial(_convert_by_name, classifier, parts) if parts and parts.convert else None
        with_head, note = load_earlier_run(
            classifier, weights.earlier_run, class_names, size=size, convert=convert
        )
        own = classifier.normalise
        mine = own.mean.flatten().tolist(), own.std.flatten().tolist()
        if (theirs := weights.earlier_run.normalisation(own.mean.numel())) != mine:
            note += (
                f"; they were trained with normalisation {theirs}, but model.normalisation gives "
                f"{mine}"
            )
        weights = replace(weights, earlier_run=None, note=note, with_head=with_head)
    classifier.weights = weights
    if weights and weights.note:
        log.info(weights.note)


def _choose_outputs(
    spec: ModelConfig, outputs: int, class_names: Sequence[str] | None
) -> list[int] | None:
    """Return which outputs of the library's head are the logits; None for all 1000."""
    known, name = IMAGENET_CLASSES, spec.name
    if name != "vgg16":
        known = timm_networks.read_timm_config(name).get("num_classes") or 0
    if known != IMAGENET_CLASSES:
        raise UserError(
            f"model.head=imagenet: the weights of {name} have {known or 'no'} classes, not the "
            f"{IMAGENET_CLASSES} of ImageNet-1k; choose a name ending in in1k, or omit model.head"
        )
    if class_names is not None and outputs == len(class_names):
        return select_outputs(spec.head_classes, class_names)
    if outputs != IMAGENET_CLASSES:
        raise UserError(
            f"model.head=imagenet has {IMAGENET_CLASSES} logits, one per ImageNet class, but "
            f"{outputs} are needed; omit model.head for a new head"
        )
    return None


def _find_earlier_run(weights: str, random: Sequence[str]) -> WeightsFile | None:
    """Find the weights of an earlier run for a network that no library has.

    Args:
        weights: ``model.weights``.
        random: values of ``weights`` that mean random weights.

    Returns:
        The file; None for random weights.

    Raises:
        UserError: the file is not a checkpoint of an earlier run.
    """
    if weights in random:
        return None
    path = Path(weights).expanduser()
    trained = read_earlier_run(path) if path.is_file() else None
    if trained is None:
        raise UserError(
            f"model.weights={weights}: no checkpoint of an earlier run, and no library has weights "
            f"for model=scratch; give a run's best.ckpt, or none for random weights"
        )
    return WeightsFile(path, (), (), "model.weights", trained)


def _build_from_scratch(
    spec: ModelConfig, channels: int, size: int, outputs: int,
    class_names: Sequence[str] | None, pretrained: bool,
) -> Classifier:  # fmt: skip
    """Build a network that no library has: a plain convnet or a user-defined class."""
    own = isinstance(spec, OwnModelConfig)
    if not own and spec.filters is None:
        raise UserError("model.name=scratch: use model=scratch, which has the keys it needs")
    if spec.head == OWN_HEAD:
        raise UserError(
            f"model.head=imagenet: the {spec.name} network has no classifier of its own"
        )
    # no library has weights for these, so these values mean random ones
    random = ("none", "auto") if own else ("none",)
    weights = _find_earlier_run(spec.weights, random) if pretrained else None
    of_weights = weights.earlier_run.normalisation(channels) if weights else None
    normalise = build_normalisation(spec.normalisation, channels, of_weights, "unit")
    try:
        if own:
            backbone = _build_own_backbone(spec, channels)
            shape = _compute_own_shape(spec, backbone, channels, size)
        else:
            backbone = build_scratch(spec, channels=channels, size=size)
            shape = feature_shape(backbone, channels, size)
        top = build_head(shape, outputs, spec.head, spec.activation)
        classifier = Classifier(normalise, backbone, top)
    except RuntimeError as error:  # torch reports missing memory this way
        if "alloc" not in str(error) and "Storage size" not in str(error):
            raise
        raise UserError(
            f"model.filters={spec.filters}, model.head.hidden={spec.head.hidden}: the network "
            f"is larger than this machine's memory; reduce them, or try model.head.pool=average"
        ) from error
    initialise(top if own else classifier, spec.initialisation)
    classifier.head_outputs = None
    _record_weights(classifier, weights, class_names)
    return classifier


def _build_own_backbone(spec: OwnModelConfig, channels: int) -> Backbone:
    """Build a user-defined network: a chain of its children, or one part if it is not a chain.

    Raises:
        UserError: the class does not return a module.
    """
    network = instantiate("model", spec, channels=channels)
    if isinstance(network, Backbone):
        return network
    if not isinstance(network, nn.Module):
        raise UserError(f"model._target_={spec.class_path} does not return a torch.nn.Module")
    is_plain = type(network).forward is nn.Sequential.forward
    return build_chain(dict(network.named_children()) if is_plain else {"network": network})


def _compute_own_shape(
    spec: OwnModelConfig, backbone: Backbone, channels: int, size: int
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
        f"model: {spec.class_path} makes no feature map from {channels} × {size} × {size} pixels "
        f"({reason})"
    )


def _build_parts(spec: ModelConfig, size: int, own: bool) -> _Parts:
    name = spec.name
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
    if name == "inception_v3" and size < 75:
        raise too_small_error(name, size, 75)
    classes = IMAGENET_CLASSES if own else 0
    network, division = timm_networks.build_parts(name, classes, size, spec.options)
    settings = timm_networks.read_timm_config(name)
    top = settings.get("classifier") or ()
    tops = (top,) if isinstance(top, str) else tuple(top)
    pooling = None if own else pool_tokens(division, spec)
    return _Parts(
        division.backbone,
        lambda: take_part(network, OwnHead, division.rest),
        target=network,
        classifier=(*(f"{prefix}." for prefix in tops), "AuxLogits."),
        network="inception_v3" if name == "inception_v3" else "timm",
        timm_name=name,
        own_normalisation=(settings["mean"], settings["std"]),
        convert=partial(timm_networks.convert_weights, network),
        build_new_head=lambda count: build_timm_head(network, division, pooling, count, spec),
    )


def _compute_shape(backbone: Backbone, name: str, size: int) -> tuple[int, ...]:
    """Return the feature map's shape; if images are too small, the error states the minimum."""
    try:
        shape = feature_shape(backbone, 3, size)
    except (RuntimeError, ValueError):
        shape = (0,)
    if min(shape) < 1:
        raise too_small_error(
            name, size, find_minimum_size(lambda e: feature_shape(backbone, 3, e), size)
        )
    return shape
