"""Sheets of a transformer's embeddings: of its patches, and of their positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from torch import nn

from convlens.draw.embedding_sheet import component_sheet, position_sheet
from convlens.explain.axes import Layout
from convlens.explain.embeddings import (
    is_patch_embedding,
    position_similarities,
    principal_kernels,
)
from convlens.explain.layouts import find_module

_COMPONENTS = 28  # as in figure 7 of Dosovitskiy et al.
Sheets = Iterator[tuple[str, Callable[[], np.ndarray]]]


def list_position_sheets(
    network: nn.Module, positions: Mapping[str, Layout], when: str = ""
) -> Sheets:
    """Yield tag and drawing function of a sheet for each learned embedding of positions.

    Args:
        network: the network.
        positions: what ``convlens.explain.embeddings.find_positions`` returned for it.
        when: end of the titles.
    """
    for name, layout in positions.items():
        draw = partial(_draw_positions, network, name, layout, f"{name} · positions{when}")
        yield f"layers/filters/{name}", draw


def list_component_sheets(network: nn.Module, layers: Sequence[str], when: str = "") -> Sheets:
    """Yield tag and drawing function of a sheet for each patch embedding among convolutions.

    Args:
        network: the network.
        layers: convolutions that read the image.
        when: end of the titles.
    """
    for name in layers:
        if is_patch_embedding(module := find_module(network, name)):
            draw = partial(_draw_components, module, f"{name} · principal components{when}")
            yield f"layers/filters/{name}/components", draw


def _draw_positions(network: nn.Module, name: str, layout: Layout, title: str) -> np.ndarray:
    return position_sheet(position_similarities(network, {name: layout})[name], title=title)


def _draw_components(module: nn.Module, title: str) -> np.ndarray:
    found = principal_kernels(module, _COMPONENTS)
    total = len(module.get_parameter("weight"))
    return component_sheet(found.kernels, found.shares, total=total, title=title)
