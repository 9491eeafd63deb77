"""Explain a network's prediction for one image with each method, as maps and panels.

Shapes: ``C`` channels, ``H W`` image size, ``h w`` size of a layer's maps, ``K`` classes, ``T``
explained classes. The network maps images in [0, 1] to logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from convlens.callbacks.embeddings import list_component_sheets, list_position_sheets
from convlens.core.errors import UserError, nearest
from convlens.core.progress import Work
from convlens.draw.activation_grid import activation_grid
from convlens.draw.attribution_panel import attribution_panel, describe_reading
from convlens.draw.filter_sheet import filter_sheet, kernel_sheet
from convlens.draw.grad_cam_panel import LayerMap, grad_cam_panel
from convlens.experiment.attention_methods import OF_CLASSES, OF_NETWORK, add_attention
from convlens.experiment.explanation import Explanation
from convlens.explain.activations import activations
from convlens.explain.attn_lrp import attn_lrp
from convlens.explain.attribution import attribute
from convlens.explain.captum_methods import attribution_methods, find_method
from convlens.explain.embeddings import find_positions
from convlens.explain.filters import (
    find_logits_layer,
    get_recipe,
    gradient_ascent,
    kernels,
    to_display,
)
from convlens.explain.grad_cam import grad_cam
from convlens.explain.importance import unit_effects
from convlens.explain.layers import choose_layers, find_feature_map, find_image_convolutions
from convlens.explain.layouts import find_module
from convlens.explain.occlusion import LEAST, occlusion, superpixel_ablation, window_pixels
from convlens.explain.superpixels import superpixels
from convlens.explain.token_occlusion import token_occlusion
from convlens.explain.units import Units, choose_units

# legrad: for networks that it can explain
DEFAULT = ("grad_cam", "legrad", "occlusion", "superpixels", "integrated_gradients", "activations")
BUILT_IN = (
    "grad_cam", *OF_CLASSES, *OF_NETWORK, "occlusion", "token_occlusion", "superpixels", "attn_lrp",
    "activations", "filters",
)  # fmt: skip
_LAYERS_SHOWN = 16  # activation grids if no layers are named
_SEGMENTS = 49  # superpixels, about as many as there are windows
_WINDOW, _STRIDE = 0.25, 0.125  # of occlusion, fractions of the image's sides
_STEPS = {"integrated_gradients": {"n_steps": 20}}
_SMOOTH = 0.02  # of Captum's maps in pictures, fraction of the image's sides
_BATCH = 32
_FILTER_LAYERS, _UNITS = 6, 16  # filters: layers if none are named, units of each
_ASCENT = {"steps": 30, "step_size": 0.02, "batch": 64, **get_recipe("robust")}


def choose_methods(only: str | Sequence[str] | None) -> list[str]:
    """Return the methods that ``only``, a list or text with commas, names; ``DEFAULT`` if None.

    Raises:
        UserError: a method does not exist.

    >>> choose_methods("grad_cam,Saliency")
    ['grad_cam', 'saliency']
    """
    if only is None:
        return list(DEFAULT)
    names = only.split(",") if isinstance(only, str) else only
    return list(dict.fromkeys(_resolve_method(name.strip()) for name in names))


def _resolve_method(name: str) -> str:
    if name in BUILT_IN:
        return name
    try:
        return find_method(name)
    except UserError:
        known = nearest(name, [*BUILT_IN, *attribution_methods()])
        raise UserError(f"only={name}: no such explanation; {known}") from None


def add_explanation(
    method: str, network: nn.Module, explanation: Explanation, layers: str | list[str], *,
    is_named: bool, seed: int,
) -> None:  # fmt: skip
    """Run one method and add its maps, panels and notes to an explanation.

    Args:
        method: a name from ``choose_methods``.
        network: maps images ``(B, C, H, W)`` in [0, 1] to logits.
        explanation: the results are added to it.
        layers: see ``convlens.explain.choose_layers``.
        is_named: whether the user named the method; False for a default method.
        seed: seed of methods that draw random numbers.

    Raises:
        UserError: a layer is unknown or has no maps, or the user named a method that cannot
            explain the network.
    """
    if method == "grad_cam":
        _add_grad_cam(network, explanation, layers, is_named)
    elif method in (*OF_CLASSES, *OF_NETWORK):
        add_attention(method, network, explanation, layers, is_named=is_named)
    elif method == "activations":
        _add_activations(network, explanation, layers)
    elif method == "filters":
        picture, names = explanation.picture, explanation.class_names
        sheets = draw_filter_panels(
            network, tuple(picture.shape), names, layers, images=picture[None], seed=seed
        )
        explanation.panels.update(sheets)
    else:
        _add_signed_maps(network, explanation, method, seed)


def _add_grad_cam(
    network: nn.Module, explanation: Explanation, layers: str | list[str], is_named: bool
) -> None:
    """Add Grad-CAM at the layers, ``(T, h, w)`` each; only a note if no layer has maps."""
    image = explanation.picture[None]
    layers = choose_layers(network, layers, "grad_cam", example=image)
    if not layers:
        _, reason = find_feature_map(network, image)
        if is_named:
            raise UserError(f"only=grad_cam: {reason}; only=occlusion explains any network")
        explanation.notes.append(f"grad_cam: {reason}, so there is nothing to draw")
        return
    maps = grad_cam(network, image, torch.tensor([explanation.targets]), layers).maps
    draw_grad_cam(explanation, {layer: maps[layer][0].cpu() for layer in layers})


def draw_grad_cam(explanation: Explanation, maps: dict[str, Tensor]) -> None:
    """Add Grad-CAM maps, ``(T, h, w)`` by layer, and their panel to an explanation."""
    explanation.grad_cam.update(maps)
    rows = [
        explanation.row(number, [LayerMap(layer, values[number]) for layer, values in maps.items()])
        for number in range(len(explanation.targets))
    ]
    title = f"{explanation.name} · Grad-CAM at {', '.join(maps)}"
    explanation.panels["grad_cam"] = grad_cam_panel(
        explanation.photograph, rows, title=title, source=explanation.source
    )


def _add_activations(network: nn.Module, explanation: Explanation, layers: str | list[str]) -> None:
    """Add the activations of the layers' channels, ``(C', h, w)`` each."""
    image = explanation.picture[None]
    if layers == "auto" and (reason := find_feature_map(network, image)[1]):
        explanation.notes.append(f"activations: {reason}")
    chosen = choose_layers(network, layers, "activations", example=image, limit=_LAYERS_SHOWN)
    for layer, maps in activations(network, image, chosen).layers.items():
        explanation.activations[layer] = maps = maps[0].cpu()
        title = f"{layer} · {explanation.name}"
        explanation.panels[f"layers/activations/{layer}"] = activation_grid(
            maps, title=title, image=explanation.picture
        )


def _add_signed_maps(network: nn.Module, explanation: Explanation, method: str, seed: int) -> None:
    """Add signed maps: from covering or leaving out parts, from lxt, or from Captum."""
    image, targets = explanation.picture[None], torch.tensor([explanation.targets])
    options, notes, smooth = {"baseline": "mean", "batch": _BATCH}, (), 0.0
    least = LEAST
    if method == "occlusion":
        size = tuple(image.shape[-2:])
        window, stride = window_pixels(_WINDOW, size), window_pixels(_STRIDE, size)
        maps = occlusion(network, image, targets, window=window, stride=stride, **options).maps[0]
        caption = f"occlusion, window {window[0]}×{window[1]}, stride {stride[0]}×{stride[1]}"
    elif method == "superpixels":
        segments = superpixels(image, _SEGMENTS)
        maps = superpixel_ablation(network, image, targets, segments, **options).maps[0]
        caption = f"occlusion, {int(segments.max()) + 1} superpixels"
    elif method == "token_occlusion":
        maps = token_occlusion(network, image, targets, batch=_BATCH).maps[0]
        caption = "occlusion by leaving patches out, one by one"
    elif method == "attn_lrp":
        maps, smooth, least = attn_lrp(network, image, targets)[0], _SMOOTH, 0.0
        caption = "AttnLRP, by lxt"
    else:
        repeated = image.expand(len(explanation.targets), *image.shape[1:])
        options = _STEPS.get(method, {})
        attributed = attribute(
            network, repeated, targets[0], method, batch=_BATCH, seed=seed, **options
        )
        maps, notes, smooth, least = attributed.maps, attributed.notes, _SMOOTH, 0.0
        if attributed.layer:
            explanation.map_layers[method] = attributed.layer
        caption = " · ".join(filter(None, [method.replace("_", " "), attributed.layer]))
    explanation.maps[method] = maps = maps.cpu()
    rows = [explanation.row(number, [LayerMap("", each)]) for number, each in enumerate(maps)]
    title, note = f"{explanation.name} · {caption}", "; ".join(notes) or None
    explanation.panels[method] = attribution_panel(
        explanation.photograph, rows, title=title, reading=describe_reading(method),
        source=explanation.source, smooth=smooth, least=least, note=note,
    )  # fmt: skip
    explanation.notes.extend(f"{method}: {line}" for line in notes)


def count_left_out(
    network: nn.Module, shape: tuple[int, int, int], methods: Sequence[str]
) -> dict[str, int]:
    """Return how many layers ``layers="auto"`` leaves out, by method."""
    example, missing = torch.full((1, *shape), 0.5), {}
    for method, limit in {"activations": _LAYERS_SHOWN, "filters": _FILTER_LAYERS}.items():
        if method in methods:
            every, shown = (
                len(choose_layers(network, "auto", method, example=example, limit=most))
                for most in (None, limit)
            )
            missing[method] = every - shown
    return {method: count for method, count in missing.items() if count}


def draw_filter_panels(
    network: nn.Module, shape: tuple[int, int, int], class_names: Sequence[str],
    layers: str | list[str], *, images: Tensor | None = None, seed: int, work: Work | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Draw the filters of layers.

    Convolutions that read the image itself are shown by their kernels; units of other
    convolutions and of dense layers by images that excite them most, found by gradient ascent. Of a
    transformer, the principal components of the kernels that embed its patches and the similarity
    of its learned embeddings of positions are added.

    Args:
        network: maps images ``(B, C, H, W)`` in [0, 1] to logits.
        shape: ``(C, H, W)`` of an image.
        class_names: names of the logits.
        layers: see ``convlens.explain.choose_layers``; convolutions or dense layers.
        images: ``(B, C, H, W)`` in [0, 1]: the units that matter most for the predictions on them
            are shown; None for units that are evenly spread over a layer.
        seed: seed of the images at which the ascent starts.
        work: shows how many layers are done; None if nobody waits.

    Returns:
        Panels, uint8 ``(H, W, 3)``, by tag ``layers/filters/<layer>``.

    Raises:
        UserError: a layer is unknown, or neither a convolution nor a dense layer.
    """
    example = torch.full((1, *shape), 0.5)
    chosen = choose_layers(network, layers, "filters", example=example, limit=_FILTER_LAYERS)
    first = find_image_convolutions(network, example)
    deeper = [layer for layer in chosen if layer not in first]
    logits = find_logits_layer(network, deeper, example)
    effects = {} if images is None else unit_effects(network, images, deeper, batch=_BATCH)
    panels = {}
    work = work or Work()
    work.begin(total=len(chosen))
    for layer in chosen:
        if layer in first:
            weights = kernels(find_module(network, layer))
            panel = kernel_sheet(weights, title=f"{layer} · kernels")
        else:
            names = class_names if layer == logits else ()
            units = choose_units(
                network, layer, _UNITS, effects=effects.get(layer), class_names=names
            )
            panel = _draw_ascent(network, layer, shape, units, seed)
        panels[f"layers/filters/{layer}"] = panel
        work.advance()
    sheets = [*list_component_sheets(network, [each for each in chosen if each in first])]
    if layers == "auto":
        sheets += list_position_sheets(network, find_positions(network, example))
    return panels | {tag: make() for tag, make in sheets}


def _draw_ascent(
    network: nn.Module, layer: str, shape: tuple[int, int, int], chosen: Units, seed: int
) -> np.ndarray:
    """Draw the images ``(C, H, W)`` that excite the chosen units of a layer most."""
    ascent = gradient_ascent(
        network, layer, chosen.units, signs=chosen.signs, size=shape[1:], channels=shape[0],
        seed=seed, **_ASCENT,
    )  # fmt: skip
    shown = len(set(chosen.units))
    return filter_sheet(
        to_display(ascent.images), ascent.units, labels=chosen.labels, choice=chosen.choice,
        marks=["zero gradient" if stuck else None for stuck in ascent.stuck.tolist()],
        title=f"{layer} · gradient ascent, {shown} of {chosen.total} units",
    )  # fmt: skip
