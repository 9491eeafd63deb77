"""Divide a network of timm into a backbone that can be cut, and the rest, its own classifier.

Legend: ``B`` images, ``C`` channels, ``h w`` height and width of a map, ``L`` tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from convlens.core.evaluation import evaluation_mode
from convlens.models.backbone import Backbone
from convlens.models.timm_features import (
    FAILURES,
    check_features,
    find_norm,
    find_pooling,
    read_layout,
)

_SEQUENCES = (nn.Sequential, nn.ModuleList)


class Trunk:
    """A network of timm without its classifier: images to features."""

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_features(images)


class OwnHead:
    """The classifier of a network of timm: features to logits."""

    def forward(self, features: Tensor) -> Tensor:
        return self.forward_head(features)


class OwnPooling:
    """The classifier of a network of timm without its last layer: features to (B, C)."""

    def forward(self, features: Tensor) -> Tensor:
        return self.forward_head(features, pre_logits=True)


@dataclass(frozen=True)
class Division:
    """The parts of a network of timm.

    Attributes:
        backbone: computes the features; shares its modules with the network.
        shape: shape of the features of one image.
        rest: names of the children that only the classifier uses.
        pooling: how the classifier reduces tokens: ``class``, ``mean``, or ``own`` for a way of
            its own; None for maps.
        norm: the normalisation that the classifier applies to the reduced features; None if it
            has none, or not as its first layer.
        norm_axes: number of axes of the norm's input: 4 for (B, C, 1, 1), 2 for (B, C).
    """

    backbone: Backbone
    shape: tuple[int, ...]
    rest: tuple[str, ...]
    pooling: str | None
    norm: nn.Module | None
    norm_axes: int


def divide(network: nn.Module, name: str, size: int) -> Division:
    """Divide a network of timm.

    Most networks are a chain of their children, vision transformers after their embedding. This is
    tested: the links, one after the other, must return the same bits as ``forward_features``.
    Other networks are not divided.

    Args:
        network: timm's network.
        name: its name, for messages.
        size: image edge in pixels.

    Raises:
        UserError: its features are neither maps nor tokens.
        RuntimeError: or another of ``FAILURES``: it does not accept images of this size.
    """
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), evaluation_mode(network):
        with _record_calls(network) as called:
            features = network.forward_features(images)
        check_features(network, name, features)
        with _record_calls(network) as called_by_head:
            network.forward_head(features)
        used = _list_children(called)
        rest = [child for child in _list_children(called_by_head) if child not in used]
        norm, axes = find_norm(network, rest, features)
        layout = read_layout(network, name, images, features, norm)
        backbone = _build_backbone(network, used, rest, images, features)
        backbone.layout = layout
        pooling = find_pooling(network, features, layout, norm) if layout.has_tokens else None
    return Division(backbone, tuple(features.shape[1:]), tuple(rest), pooling, norm, axes)


# --- the backbone


def _build_backbone(
    network: nn.Module, used: list[str], rest: list[str], images: Tensor, features: Tensor
) -> Backbone:
    known = [info["module"] for info in getattr(network, "feature_info", None) or []]
    links = _list_links(network, used, known, nn.Sequential)
    stages, whole_stages = (_list_stages(network, each, known) for each in (links, []))
    if features.dim() == 3:
        stages = _list_embedding(network, links, stages) + stages
        whole_stages = _list_embedding(network, links, whole_stages) + whole_stages
    children = {child: network.get_submodule(child) for child in used}
    chain = Backbone(children, links=links, stages=stages)
    if _is_equal(chain, images, features):
        return chain
    holder = next((stage.partition(".")[0] for stage in known), None)
    is_sequence = holder in used and isinstance(children[holder], nn.Sequential)
    if is_sequence and features.dim() == 3:  # tokens, to which the network adds its own
        first = used.index(holder)
        embed = take_part(network, Trunk, [c for c in _list_all(network) if c not in rest])
        for child in used[first:]:  # what follows the embedding changes nothing there
            setattr(embed, child, nn.Sequential())
        parts = {"embed": embed, **{child: children[child] for child in used[first:]}}
        after = [link for link in links if link.partition(".")[0] in used[first:]]
        chain = Backbone(parts, links=["embed", *after], stages=["embed", *known])
        if _is_equal(chain, images, features):
            return chain
    trunk = take_part(network, Trunk, [c for c in _list_all(network) if c not in rest])
    return Backbone(
        {"network": trunk}, links=["network"],
        stages=[f"network.{stage}" for stage in whole_stages],
        order=[
            f"network.{link}" for link in _list_links(network, used, known, _SEQUENCES)
        ],
    )  # fmt: skip


def _is_equal(backbone: Backbone, images: Tensor, features: Tensor) -> bool:
    try:
        return torch.equal(backbone(images), features)
    except FAILURES:
        return False


def _list_links(
    network: nn.Module, used: list[str], known: list[str], kinds: type | tuple[type, ...]
) -> list[str]:
    """List children in call order; one of ``kinds`` that has stages is replaced by its children."""
    holders = {stage.partition(".")[0] for stage in known if "." in stage}
    links: list[str] = []
    for child in used:
        module = network.get_submodule(child)
        if child in holders and isinstance(module, kinds):
            links += [f"{child}.{name}" for name, _ in module.named_children()]
        else:
            links.append(child)
    return links


def _list_stages(network: nn.Module, links: list[str], known: list[str]) -> list[str]:
    """List the links with two or more convolutions; if there are none, timm's stages."""
    paths = dict(network.named_modules())
    composite = [
        link
        for link in links
        if sum(isinstance(module, nn.Conv2d) for module in paths[link].modules()) > 1
    ]
    return composite or [stage for stage in known if stage in paths]


def _list_embedding(network: nn.Module, links: list[str], stages: list[str]) -> list[str]:
    """List the first link with parameters if it precedes the stages: patches become tokens."""
    first = stages[0].split(".") if stages else []
    for link in links:
        if first[: link.count(".") + 1] == link.split("."):
            return []
        if any(True for _ in network.get_submodule(link).parameters()):
            return [link]
    return []


# --- parts of a network


def take_part(network: nn.Module, role: type, names: Sequence[str]) -> nn.Module:
    """Return a part of a network, which shares the modules, and computes what ``role`` computes.

    Args:
        network: timm's network.
        role: ``Trunk``, which also has the network's own parameters, ``OwnHead`` or
            ``OwnPooling``.
        names: the children that the part has.
    """
    kind = _derive_class(role, type(network))
    part = kind.__new__(kind)
    nn.Module.__init__(part)
    own = set(vars(part))
    for key, value in vars(network).items():  # plain attributes that its methods read
        if key not in own:
            part.__dict__[key] = copy.copy(value)
    for name in names:
        part.add_module(name, network.get_submodule(name))
    if role is Trunk:
        part._parameters.update(network._parameters)
        part._buffers.update(network._buffers)
        part._non_persistent_buffers_set.update(network._non_persistent_buffers_set)
    return part


@cache
def _derive_class(role: type, kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (role, kind), {"__module__": kind.__module__})


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


def _list_children(called: dict[str, None]) -> list[str]:
    return list(dict.fromkeys(path.partition(".")[0] for path in called))


def _list_all(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_children()]
