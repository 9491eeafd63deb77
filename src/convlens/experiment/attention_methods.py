"""Explain an image by the attention of the network, for networks that have any.

Shapes: ``T`` explained classes, ``h w`` grid of patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convlens.draw.attention_panel import (
    HEADS_READING,
    LEGRAD_READING,
    RELEVANCE_READING,
    MapRow,
    attention_panel,
    name_heads,
)
from convlens.draw.grad_cam_panel import LayerMap, grad_cam_panel
from convlens.experiment.explanation import Explanation
from convlens.explain.attention import attention_maps, choose_attention
from convlens.explain.legrad import legrad
from convlens.explain.obstacles import find_obstacle
from convlens.explain.relevance import relevance
from convlens.explain.rollout import attention_rollout
from convlens.rundir.maps import BLOCKS

OF_CLASSES = ("legrad", "relevance")  # the evidence for a class, at least 0
OF_NETWORK = ("attention", "rollout")  # the same for every class
_LAYERS_SHOWN = 4  # of attention, if no layers are named


def add_attention(
    method: str, network: nn.Module, explanation: Explanation, layers: str | list[str], *,
    is_named: bool,
) -> None:  # fmt: skip
    """Run a method of ``OF_CLASSES`` or ``OF_NETWORK``, and add what it finds to an explanation.

    Args:
        method: its name.
        network: maps images ``(B, C, H, W)`` in [0, 1] to logits.
        explanation: the results are added to it.
        layers: layers of attention to show: names or patterns, or ``auto``.
        is_named: whether the user named the method; if not, nothing is added for a network that
            it cannot explain.

    Raises:
        UserError: the network cannot be explained so, or a layer is unknown.
    """
    image = explanation.picture[None]
    if not is_named and find_obstacle(network, image, method):
        return
    if method == "legrad":
        maps = legrad(network, image, torch.tensor([explanation.targets])).maps[0]
        _add_evidence(explanation, method, "LeGrad", maps, LEGRAD_READING)
    elif method == "relevance":
        maps = relevance(network, image, torch.tensor([explanation.targets])).maps[0]
        _add_evidence(explanation, method, "relevance", maps, RELEVANCE_READING)
    elif method == "rollout":
        explanation.attention[method] = maps = attention_rollout(network, image).cpu()
        row = MapRow("all layers", name_heads(maps, names=[method]))
        _draw_attention(explanation, method, "attention rollout", [row])
    else:
        found = attention_maps(network, image)
        chosen = choose_attention(found, layers, _LAYERS_SHOWN)
        maps_by_layer = {layer: found.maps[layer][0].cpu() for layer in chosen}
        explanation.attention.update(maps_by_layer)
        rows = [MapRow(layer, name_heads(maps)) for layer, maps in maps_by_layer.items()]
        _draw_attention(explanation, method, method, rows)
        if layers == "auto" and len(chosen) < len(found.maps):
            shown = f"{len(chosen)} of {len(found.maps)} layers"
            explanation.notes.append(f"attention: {shown} are drawn; layers=* draws all")


def _add_evidence(
    explanation: Explanation, method: str, title: str, maps: Tensor, reading: str
) -> None:
    """Add maps ``(T, h, w)`` of all blocks together, and their panel."""
    explanation.maps[method] = maps = maps.cpu()
    explanation.map_layers[method] = BLOCKS
    rows = [explanation.row(k, [LayerMap(BLOCKS, each)]) for k, each in enumerate(maps)]
    explanation.panels[method] = grad_cam_panel(
        explanation.photograph, rows, title=f"{explanation.name} · {title}",
        source=explanation.source, reading=reading,
    )  # fmt: skip


def _draw_attention(explanation: Explanation, method: str, title: str, rows: list[MapRow]) -> None:
    explanation.panels[f"layers/{method}"] = attention_panel(
        explanation.photograph, rows, title=f"{explanation.name} · {title}",
        source=explanation.source, reading=HEADS_READING,
    )  # fmt: skip
