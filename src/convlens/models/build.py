"""From the config group ``model`` to a classifier with its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from convlens.errors import UserError
from convlens.models import timm_networks, vgg16
from convlens.models.backbone import Backbone, least_size, too_small
from convlens.models.classifier import Classifier, feature_shape
from convlens.models.head import head
from convlens.models.initialise import initialise
from convlens.models.normalise import normalisation
from convlens.models.scratch import scratch
from convlens.models.weights import find_weights, load_weights

OWN_HEAD = "imagenet"  # what model.head says for the network's own classifier
IMAGENET_CLASSES = 1000


@dataclass
class _Parts:
    """A network of a library: its backbone, how to get its own head, and where weights go."""

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
    spec: dict, *, channels: int, size: int, outputs: int, pretrained: bool = True
) -> Classifier:
    """The network that the config group ``model`` describes.

    Args:
        spec: the plain dictionary of ``model/*.yaml``.
        channels: ``C`` of the pictures.
        size: height and width of the pictures in pixels.
        outputs: number of logits, ``K`` or 1.
        pretrained: False leaves the weights as drawn: they come from a checkpoint.

    Returns:
        The classifier; its attribute ``weights`` is the :class:`convlens.models.weights.Found`
        that was loaded, or None.

    Raises:
        UserError: a value of the group that cannot be built, naming its key.
    """
    spec = dict(spec)
    name = str(spec.pop("name"))
    if name == "scratch":
        return _from_scratch(spec, channels, size, outputs)
    if name != "vgg16":
        timm_networks.check_name(name)
    if "filters" in spec:
        raise UserError(
            f"model.name={name}: this experiment trains a plain convnet; say exp=finetune_vgg16, "
            f"exp=finetune_inception_v3 or exp=finetune_timm model.name={name}"
        )
    own = spec["head"] == OWN_HEAD
    if own and outputs != IMAGENET_CLASSES:
        raise UserError(
            f"model.head=imagenet answers with the {IMAGENET_CLASSES} ImageNet classes, the data "
            f"asks for {outputs} logits; leave the key out for a new head"
        )
    parts = _parts(name, size, own)
    found = None
    if pretrained:
        found = find_weights(
            parts.network, str(spec["weights"]), timm_name=parts.timm_name, whole=own
        )
        if found is None and own:
            raise UserError("model.head=imagenet needs weights, not model.weights=none")
    if found:
        load_weights(parts.target, found, classifier=parts.classifier, prefixes=parts.prefixes)
    of_weights = (found.mean, found.std) if found else parts.own_normalisation
    normalise = normalisation(spec["normalisation"], 3, of_weights, parts.default)
    shape = _shape(parts.backbone, name, size)
    if own:
        top = parts.own_head()
    else:
        options = dict(spec["head"])
        top = head(shape, outputs, activation=spec["activation"], **options)
        initialise(top, spec["initialisation"])
    classifier = Classifier(normalise, parts.backbone, top)
    classifier.weights = found
    return classifier


def _from_scratch(spec: dict, channels: int, size: int, outputs: int) -> Classifier:
    if "filters" not in spec:
        raise UserError("model.name=scratch: say model=scratch, which has the keys it needs")
    if spec["head"] == OWN_HEAD:
        raise UserError("model.head=imagenet: the scratch network has no classifier of its own")
    how, top = spec.pop("initialisation"), spec.pop("head")
    normalise = normalisation(spec.pop("normalisation"), channels, None, "unit")
    try:
        backbone = scratch(channels=channels, size=size, **spec)
        shape = feature_shape(backbone, channels, size)
        classifier = Classifier(
            normalise, backbone, head(shape, outputs, activation=spec["activation"], **top)
        )
    except RuntimeError as error:  # torch's way to say that there is not so much memory
        if "alloc" not in str(error) and "Storage size" not in str(error):
            raise
        raise UserError(
            f"model.filters={spec['filters']}, model.head.hidden={top['hidden']}: the network is "
            f"larger than this machine's memory; take fewer, or model.head.pool=average"
        ) from error
    initialise(classifier, how)
    classifier.weights = None
    return classifier


def _parts(name: str, size: int, own: bool) -> _Parts:
    if name == "vgg16":
        network = vgg16.whole() if own else None
        features = network.features if own else vgg16.convolutions()
        return _Parts(
            vgg16.by_block(features),
            lambda: vgg16.own_head(network),
            target=network if own else features,
            classifier=("classifier.",),
            prefixes=() if own else ("features.",),
            network="vgg16",
        )
    network = timm_networks.create(name, IMAGENET_CLASSES if own else 0)
    backbone, unused = timm_networks.as_backbone(network, name, size)
    told = timm_networks.input_of(name)
    top = told.get("classifier") or ()
    tops = (top,) if isinstance(top, str) else tuple(top)
    return _Parts(
        backbone,
        lambda: timm_networks.own_head(network, unused),
        target=network,
        classifier=(*(f"{prefix}." for prefix in tops), "AuxLogits."),
        network="inception_v3" if name == "inception_v3" else "timm",
        timm_name=name,
        own_normalisation=(told["mean"], told["std"]),
    )


def _shape(backbone: Backbone, name: str, size: int) -> tuple[int, ...]:
    """Of the feature map; too small pictures are told with the least size."""
    if name == "inception_v3" and size < 75:
        raise too_small(name, size, 75)
    try:
        shape = feature_shape(backbone, 3, size)
    except (RuntimeError, ValueError):
        shape = (0,)
    if min(shape) < 1:
        raise too_small(name, size, least_size(lambda e: feature_shape(backbone, 3, e), size))
    return shape
