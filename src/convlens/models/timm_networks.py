"""Any convolutional network of timm as a backbone, with its own classifier as a head."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.core.evaluation import evaluation_mode
from convlens.models.backbone import Backbone, find_minimum_size, too_small_error


@cache
def list_names() -> list[str]:
    """List timm's model names, without the tags of their weights."""
    import timm

    return timm.list_models()


def check_name(name: str) -> None:
    """Check that timm has a network.

    Raises:
        UserError: it does not; the error suggests similar names.
    """
    import timm

    if not timm.is_model(name):
        raise UserError(
            f"model.name={name}: neither scratch, vgg16, inception_v3 nor a network of timm; "
            f"{nearest(name, ['scratch', *list_names()])}"
        )


def create(name: str, classes: int) -> nn.Module:
    """Build timm's network with random weights.

    Args:
        name: timm's name, with or without the tag of its weights (``resnet18.a1_in1k``).
        classes: 0 for no classifier.

    Raises:
        UserError: timm has no such network; the error suggests similar names.
    """
    import timm

    check_name(name)
    try:
        return timm.create_model(name, pretrained=False, num_classes=classes)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"model.name={name}: timm cannot build it ({error})") from error


def read_timm_config(name: str) -> dict:
    """Return timm's pretrained configuration, such as ``mean``, ``std`` and ``classifier``."""
    import timm

    return timm.get_pretrained_cfg(name, allow_unregistered=True).to_dict()


def build_backbone(network: nn.Module, name: str, size: int) -> tuple[Backbone, list[str]]:
    """Build a backbone from the part of ``network`` that computes the feature map.

    Most networks are a chain of their children. This is tested: the children, one after the other,
    must return the same bits as ``forward_features``. Other networks are not divided.

    Args:
        network: timm's network.
        name: its name, for messages.
        size: image edge in pixels.

    Returns:
        The backbone, which shares its modules with ``network``, and the names of the children it
        does not use: they belong to the classifier.

    Raises:
        UserError: it is not a convolutional network, or images are too small for it.
    """
    example = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))

    def features(edge: int) -> Tensor:
        return network.forward_features(torch.zeros(1, 3, edge, edge))

    not_convolutional = UserError(
        f"model.name={name}: not a convolutional network; choose one, such as resnet18, "
        f"efficientnet_b0, convnext_tiny or mobilenetv3_small_100"
    )
    if _has_attention(network):
        raise not_convolutional
    with torch.no_grad(), evaluation_mode(network):
        try:
            with _record_calls(network) as called:
                expected = network.forward_features(example)
        except (RuntimeError, ValueError, AssertionError) as error:
            least = find_minimum_size(features, size)
            if least is None:
                raise UserError(f"model.name={name} does not accept images: {error}") from error
            raise too_small_error(name, size, least) from None
        if not isinstance(expected, Tensor) or expected.dim() != 4:
            raise not_convolutional
        # timm reports networks with channels last
        if str(getattr(network, "output_fmt", "NCHW")) not in ("NCHW", "Format.NCHW"):
            raise not_convolutional
        if expected.shape[1] != network.num_features:
            raise not_convolutional
        children = dict(network.named_children())
        used = list(dict.fromkeys(path.partition(".")[0] for path in called))
        stages = [info["module"] for info in getattr(network, "feature_info", []) or []]
        links = _list_links(network, used, stages)
        parts = {child: children[child] for child in used}
        backbone = Backbone(parts, links=links, stages=_list_stages(network, links, stages))
        try:
            is_chain = torch.equal(backbone(example), expected)
        except (RuntimeError, TypeError, ValueError):
            is_chain = False
        if not is_chain:
            # a copy without the children of the classifier
            trunk = copy.copy(network)
            trunk.__dict__["_modules"] = parts
            names = [f"network.{stage}" for stage in _list_stages(network, None, stages)]
            backbone = Backbone(
                {"network": trunk}, links=None, stages=names, whole=_forward_features
            )
    return backbone, [child for child in children if child not in used]


def _forward_features(backbone: nn.Module, images: Tensor) -> Tensor:
    return backbone.network.forward_features(images)


class OwnHead(nn.Module):
    """timm's classifier: feature map (B, C, h, w) to logits.

    Args:
        network: timm's network; its ``forward_head`` is called.
        names: children that only the classifier uses.
    """

    def __init__(self, network: nn.Module, names: list[str]):
        super().__init__()
        for key, value in vars(network).items():  # plain attributes that its methods read
            if not key.startswith("_") and key != "training":
                self.__dict__[key] = copy.copy(value)
        for name in names:
            self.add_module(name, network.get_submodule(name))
        self._kind = type(network)

    def forward(self, features: Tensor) -> Tensor:
        return self._kind.forward_head(self, features)


@contextmanager
def _record_calls(network: nn.Module) -> Iterator[dict[str, None]]:
    """Record the paths of modules called inside the ``with``, in order of their first call."""
    order: dict[str, None] = {}
    handles = [
        module.register_forward_pre_hook(lambda *_, path=path: order.setdefault(path))
        for path, module in network.named_modules()
        if path
    ]
    try:
        yield order
    finally:
        for handle in handles:
            handle.remove()


def _has_attention(network: nn.Module) -> bool:
    names = {type(module).__name__.lower() for module in network.modules()}
    return any("attention" in name and "pool" not in name for name in names)


def _list_links(network: nn.Module, used: list[str], stages: list[str]) -> list[str]:
    """List children in call order; a child that contains stages is replaced by its children."""
    holders = {stage.partition(".")[0] for stage in stages if "." in stage}
    links: list[str] = []
    for child in used:
        module = network.get_submodule(child)
        if child in holders and isinstance(module, nn.Sequential):
            links += [f"{child}.{name}" for name, _ in module.named_children()]
        else:
            links.append(child)
    return links


def _list_stages(network: nn.Module, links: list[str] | None, known: list[str]) -> list[str]:
    """List the links with two or more convolutions; if there are none, timm's stages."""
    paths = dict(network.named_modules())
    composite = [
        link
        for link in (links or [])
        if sum(isinstance(module, nn.Conv2d) for module in paths[link].modules()) > 1
    ]
    return composite or [stage for stage in known if stage in paths]
