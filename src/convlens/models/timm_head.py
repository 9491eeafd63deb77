"""A new head for a network of timm, which reads the features as timm's own classifier does.

Some networks end with a normalisation that timm keeps in the classifier, after pooling (``fc_norm``
of vision transformers, ``head.norm`` of ConvNeXt and MaxViT). The pretrained weights of a linear
classifier read normalised features, so a new head keeps it (``model.head.norm``).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from convlens.config.schema import ModelConfig
from convlens.core.errors import UserError, check_name
from convlens.core.evaluation import evaluation_mode
from convlens.models.features import ChannelsFirst, ChannelsLast, FeatureLayout, TokenPool
from convlens.models.fresh import initialise
from convlens.models.head import add_dense, build_head
from convlens.models.timm_parts import Division, OwnPooling, take_part


def pool_tokens(division: Division, spec: ModelConfig) -> str | None:
    """Make the pooling of tokens the last link of the backbone, unless it has parameters.

    What is stored of frozen images then is one vector per image, not all of its tokens.

    Returns:
        ``class``, ``mean``, ``both``, or ``own`` if timm's classifier has a way of its own; None
        for maps.

    Raises:
        UserError: the network has no such tokens.
    """
    layout, how, name = division.backbone.layout, spec.head.tokens or "auto", spec.name
    check_name("model.head.tokens", how, ("auto", "class", "mean", "both"))
    if not layout.has_tokens:
        if how != "auto":
            raise UserError(
                f"model.head.tokens={how}: {name} returns maps, not tokens; choose with "
                f"model.head.pool"
            )
        return None
    if spec.head.pool != "average":
        raise UserError(
            f"model.head.pool={spec.head.pool}: {name} returns tokens, not maps; choose with "
            f"model.head.tokens"
        )
    how = division.pooling if how == "auto" else how
    if how in ("class", "both") and not layout.has_class_token:
        raise UserError(f"model.head.tokens={how}: {name} has no class token; choose mean or auto")
    if how in ("mean", "both") and division.shape[0] == layout.prefix:
        raise UserError(f"model.head.tokens={how}: {name} returns no patches; choose class or auto")
    if how != "own":
        pool = TokenPool(how, layout.prefix)
        division.backbone.append("pool", pool, FeatureLayout(-1))
        division.backbone.settings += f" {how}"
    return how


def build_timm_head(
    network: nn.Module, division: Division, pooling: str | None, outputs: int, spec: ModelConfig
) -> nn.Sequential:
    """Build a new head for the features of a network.

    Args:
        network: timm's network, with its weights; the head shares its norm.
        division: its parts.
        pooling: from ``pool_tokens``.
        outputs: number of logits.
        spec: the config group ``model``.
    """
    norm = division.norm if spec.head.norm else None
    if pooling is None:
        return _build_map_head(division, norm, outputs, spec)
    kept: OrderedDict[str, nn.Module] = OrderedDict()
    features = division.shape[-1] * (2 if pooling == "both" else 1)
    if pooling == "own":
        kept["pool"] = take_part(network, OwnPooling, division.rest)
        with torch.no_grad(), evaluation_mode(kept["pool"]):
            features = kept["pool"](torch.zeros(1, *division.shape)).shape[-1]
    elif norm is not None:
        kept["norm"] = norm
    kept["flatten"] = nn.Flatten()
    new = add_dense(OrderedDict(), features, outputs, spec.head, spec.activation)
    initialise(new, spec.initialisation)
    return nn.Sequential(kept | OrderedDict(new.named_children()))


def _build_map_head(
    division: Division, norm: nn.Module | None, outputs: int, spec: ModelConfig
) -> nn.Sequential:
    shape, channels_last = division.shape, division.backbone.layout.channels == -1
    if channels_last:
        shape = (shape[-1], *shape[:-1])
    map_norm, vector_norm = (norm, None) if division.norm_axes == 4 else (None, norm)
    if vector_norm is not None and spec.head.pool == "flatten":
        # every position is one vector
        axes = OrderedDict(last=ChannelsLast(), norm=vector_norm, first=ChannelsFirst())
        map_norm, vector_norm = nn.Sequential(axes), None
    head = build_head(
        shape, outputs, spec.head, spec.activation, map_norm=map_norm, vector_norm=vector_norm
    )
    initialise(head, spec.initialisation)
    if channels_last:
        head = nn.Sequential(OrderedDict(first=ChannelsFirst(), **dict(head.named_children())))
    return head
