"""What a network says of one picture, and why: by each method, in maps and panels.

Shapes: ``C`` channels, ``H W`` picture size, ``h w`` size of a layer's maps, ``K`` classes, ``T``
classes explained. The network takes pictures in [0, 1] and gives logits.
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.draw.activation_grid import activation_grid
from convlens.draw.attribution_panel import attribution_panel
from convlens.draw.filter_sheet import filter_sheet, kernel_sheet
from convlens.draw.grad_cam_panel import (
    ClassMap,
    LayerMap,
    Role,
    format_probability,
    grad_cam_panel,
)
from convlens.draw.jpeg import encode_jpeg
from convlens.explain.activations import activations
from convlens.explain.attribution import attribute
from convlens.explain.captum_methods import attribution_methods, find_method
from convlens.explain.filters import (
    find_logits_layer,
    get_recipe,
    gradient_ascent,
    kernels,
    to_display,
)
from convlens.explain.grad_cam import grad_cam
from convlens.explain.layers import choose_layers, find_feature_map, find_image_convolutions
from convlens.explain.layouts import find_module
from convlens.explain.occlusion import occlusion, superpixel_ablation, window_pixels
from convlens.explain.superpixels import superpixels
from convlens.pages.render import data_uri

DEFAULT = ("grad_cam", "occlusion", "superpixels", "integrated_gradients", "activations")
OURS = ("grad_cam", "occlusion", "superpixels", "activations", "filters")
_LAYERS_SHOWN = 16  # of activation grids, where none are named
_SEGMENTS = 49  # superpixels, about as many as there are windows
_WINDOW, _STRIDE = 0.25, 0.125  # of occlusion, shares of the picture's sides
_STEPS = {"integrated_gradients": {"n_steps": 20}}
_BATCH = 32
_FILTER_LAYERS, _UNITS = 8, 16  # of filters: layers where none are named, units of each
_ASCENT = {"steps": 30, "step_size": 0.02, "batch": 32, **get_recipe("robust")}


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a network says of one picture, and why. In a notebook it shows itself.

    Shapes: ``C`` channels, ``H W`` picture size, ``h w`` size of a layer's maps, ``K`` classes,
    ``T`` classes explained.

    Attributes:
        name: of the picture.
        picture: ``(C, H, W)`` in [0, 1], as the network sees it before normalisation.
        class_names: ``K`` names.
        probabilities: ``(K,)`` in [0, 1].
        targets: the ``T`` classes explained.
        grad_cam: layer -> ``(T, h, w)``, at least 0; on the scale of logits.
        maps: method (``occlusion``, ``superpixels``, any of Captum's) -> ``(T, H, W)``, or
            ``(T, h, w)`` of a layer; signed.
        activations: layer -> ``(C', h, w)``.
        panels: tag -> uint8 ``(H, W, 3)``, the drawn explanations.
        notes: what a reader of the maps should know, one line each.
    """

    name: str
    picture: Tensor
    class_names: tuple[str, ...]
    probabilities: Tensor
    targets: tuple[int, ...]
    grad_cam: dict[str, Tensor] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    activations: dict[str, Tensor] = field(default_factory=dict)
    panels: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes with their probabilities, the likeliest first."""
        shares, numbers = self.probabilities.topk(min(count, len(self.probabilities)))
        names = (self.class_names[number] for number in numbers.tolist())
        return list(zip(names, shares.tolist(), strict=True))

    def __str__(self) -> str:
        said = ", ".join(f"{name} {format_probability(share)}" for name, share in self.top(3))
        return f"{self.name}: {said}"

    def _repr_html_(self) -> str:
        parts = [f"<p><b>{html.escape(str(self))}</b></p>"]
        for tag, panel in self.panels.items():
            uri, alt = data_uri(encode_jpeg(panel)), html.escape(tag)
            parts.append(f'<p><img src="{uri}" alt="{alt}" style="max-width:100%"></p>')
        return "\n".join(parts)

    def row(self, number: int, layers: Sequence[LayerMap]) -> ClassMap:
        """The row of a panel for target ``number``: maps of layers, the one drawn large last."""
        target, (*others, last) = self.targets[number], layers
        role: Role = "predicted" if target == int(self.probabilities.argmax()) else "target"
        return ClassMap(
            last.map, self.class_names[target], role, float(self.probabilities[target]),
            last.scale, last.layer, tuple(others),
        )  # fmt: skip

    def save(self, folder: str | os.PathLike) -> list[Path]:
        """Write every panel as ``<tag>.jpg`` below ``folder``; returns the files."""
        folder = Path(folder)
        return [folder / f"{tag}.jpg" for tag in write_panels(folder, self.panels)]


def write_panels(folder: Path, panels: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Write panels, uint8 ``(H, W, 3)`` by tag, as ``<tag>.jpg``; returns the files' content."""
    encoded = {tag: encode_jpeg(panel) for tag, panel in panels.items()}
    for tag, content in encoded.items():
        file = folder / f"{tag}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return encoded


def choose_methods(only: str | Sequence[str] | None) -> list[str]:
    """The explanations that ``only`` names: a list, or text with commas; None for all usual ones.

    Raises:
        UserError: one that there is not.

    >>> choose_methods("grad_cam,Saliency")
    ['grad_cam', 'saliency']
    """
    if only is None:
        return list(DEFAULT)
    asked = only.split(",") if isinstance(only, str) else only
    return list(dict.fromkeys(_method(name.strip()) for name in asked))


def _method(name: str) -> str:
    if name in OURS:
        return name
    try:
        return find_method(name)
    except UserError:
        known = nearest(name, [*OURS, *attribution_methods()])
        raise UserError(f"only={name}: no such explanation; {known}") from None


def explain_by(
    method: str, network: nn.Module, found: Explanation, layers: str | list[str], *, named: bool,
    seed: int,
) -> None:  # fmt: skip
    """Add to ``found`` what a method of explaining one picture finds, whichever it is.

    Args:
        layers: as :func:`convlens.explain.choose_layers` takes them.
        named: whether it was asked for by name, and not as one of all usual ones.
        seed: of methods that draw random numbers.

    Raises:
        UserError: an unknown layer or one without maps; Grad-CAM asked for by name of a network
            that has no feature map.
    """
    if method == "grad_cam":
        _by_grad_cam(network, found, layers, named)
    elif method == "activations":
        _by_activations(network, found, layers)
    elif method == "filters":
        shape = tuple(found.picture.shape)
        found.panels.update(filter_panels(network, shape, found.class_names, layers, seed=seed))
    else:
        _by_signed_maps(network, found, method, seed)


def _by_grad_cam(
    network: nn.Module, found: Explanation, layers: str | list[str], named: bool
) -> None:
    """Grad-CAM at the layers, ``(T, h, w)`` each; nothing where no layer has maps."""
    image = found.picture[None]
    layers = choose_layers(network, layers, "grad_cam", example=image)
    if not layers:
        _, why = find_feature_map(network, image)
        if named:
            raise UserError(f"only=grad_cam: {why}; occlusion explains any network")
        found.notes.append(f"grad_cam: {why}, there is nothing to draw")
        return
    maps = grad_cam(network, image, torch.tensor([found.targets]), layers).maps
    found.grad_cam.update({layer: maps[layer][0].cpu() for layer in layers})
    rows = [
        found.row(number, [LayerMap(layer, found.grad_cam[layer][number]) for layer in layers])
        for number in range(len(found.targets))
    ]
    title = f"{found.name} · Grad-CAM at {', '.join(layers)}"
    found.panels["grad_cam"] = grad_cam_panel(found.picture, rows, title=title)


def _by_activations(network: nn.Module, found: Explanation, layers: str | list[str]) -> None:
    """What the layers' channels answer to the picture, ``(C', h, w)`` each."""
    image = found.picture[None]
    if layers == "auto" and (why := find_feature_map(network, image)[1]):
        found.notes.append(f"activations: {why}")
    chosen = choose_layers(network, layers, "activations", example=image, limit=_LAYERS_SHOWN)
    for layer, maps in activations(network, image, chosen).layers.items():
        found.activations[layer] = maps = maps[0].cpu()
        title = f"{layer} · {found.name}"
        found.panels[f"activations/{layer}"] = activation_grid(maps, title=title)


def _by_signed_maps(network: nn.Module, found: Explanation, method: str, seed: int) -> None:
    """Occlusion by windows or superpixels, or a method of Captum's: ``(T, H, W)``, signed."""
    image, targets = found.picture[None], torch.tensor([found.targets])
    filled, notes = {"baseline": "mean", "batch": _BATCH}, ()
    if method == "occlusion":
        size = tuple(image.shape[-2:])
        window, stride = window_pixels(_WINDOW, size), window_pixels(_STRIDE, size)
        maps = occlusion(network, image, targets, window=window, stride=stride, **filled).maps[0]
        how = f"occlusion, window {window[0]}×{window[1]}, stride {stride[0]}×{stride[1]}"
    elif method == "superpixels":
        segments = superpixels(image, _SEGMENTS)
        maps = superpixel_ablation(network, image, targets, segments, **filled).maps[0]
        how = f"occlusion, {int(segments.max()) + 1} superpixels"
    else:
        repeated = image.expand(len(found.targets), *image.shape[1:])
        options = _STEPS.get(method, {})
        attributed = attribute(
            network, repeated, targets[0], method, batch=_BATCH, seed=seed, **options
        )
        maps, notes = attributed.maps, attributed.notes
        how = " · ".join(filter(None, [method.replace("_", " "), attributed.layer]))
    found.maps[method] = maps = maps.cpu()
    rows = [found.row(number, [LayerMap("", each)]) for number, each in enumerate(maps)]
    found.panels[method] = attribution_panel(
        found.picture, rows, title=f"{found.name} · {how}", note="; ".join(notes) or None
    )
    found.notes.extend(f"{method}: {line}" for line in notes)


def filter_panels(
    network: nn.Module, shape: tuple[int, int, int], class_names: Sequence[str],
    layers: str | list[str], *, seed: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """``filters/<layer>`` -> its panel, uint8 ``(H, W, 3)``.

    The kernels of convolutions that read the image itself; of deeper convolutions and of dense
    layers images that excite single units most, found by gradient ascent.

    Args:
        network: pictures ``(B, C, H, W)`` in [0, 1] to logits.
        shape: ``(C, H, W)`` of a picture.
        class_names: of the logits.
        layers: as :func:`convlens.explain.choose_layers` takes them; convolutions or dense layers.
        seed: of the images that the ascent starts from.

    Raises:
        UserError: an unknown layer, or one that is neither a convolution nor dense.
    """
    example = torch.full((1, *shape), 0.5)
    chosen = choose_layers(network, layers, "filters", example=example, limit=_FILTER_LAYERS)
    first = find_image_convolutions(network, example)
    logits = find_logits_layer(network, chosen, example)
    panels = {}
    for layer in chosen:
        if layer in first:
            weights = kernels(find_module(network, layer))
            panel = kernel_sheet(weights, title=f"{layer} · kernels")
        else:
            names = class_names if layer == logits else ()
            panel = _ascent(network, layer, shape, names, seed)
        panels[f"filters/{layer}"] = panel
    return panels


def _ascent(
    network: nn.Module, layer: str, shape: tuple[int, int, int], names: Sequence[str], seed: int
) -> np.ndarray:
    """Pictures of some units, evenly spread; ``names``: of the layer that gives the logits."""
    module = find_module(network, layer)
    total = getattr(module, "out_channels", None) or getattr(module, "out_features", None)
    if total is None:
        raise UserError(f"layer {layer!r} is no convolution and no dense layer: it has no filters")
    count = min(_UNITS, total)
    units, signs = [round(i * total / count) for i in range(count)], None
    labels = [names[unit] for unit in units] if total == len(names) else None
    if names and total == 1:
        units, signs, labels = [0, 0], [-1, 1], list(names)
    found = gradient_ascent(
        network, layer, units, signs=signs, size=shape[1:], channels=shape[0], seed=seed, **_ASCENT
    )
    return filter_sheet(
        to_display(found.images), found.units, labels=labels,
        marks=["zero gradient" if stuck else None for stuck in found.stuck.tolist()],
        title=f"{layer} · gradient ascent, {len(set(units))} of {total} units",
    )  # fmt: skip
