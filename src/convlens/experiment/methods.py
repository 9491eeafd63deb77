"""The explanations of one picture by their names: maps, and the panel that shows them.

Shapes: ``C`` channels, ``H W`` picture size, ``h w`` size of a layer's maps, ``K`` classes, ``T``
classes explained. The network takes pictures in [0, 1] and gives logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.draw.activation_grid import activation_grid
from convlens.draw.attribution_panel import attribution_panel
from convlens.draw.grad_cam_panel import ClassMap, LayerMap, Role, grad_cam_panel
from convlens.explain.activations import activations
from convlens.explain.attribution import attribute
from convlens.explain.captum_methods import attribution_methods, find_method
from convlens.explain.grad_cam import grad_cam
from convlens.explain.layers import choose_layers, feature_map
from convlens.explain.occlusion import occlusion, superpixel_ablation, window_pixels
from convlens.explain.superpixels import superpixels

DEFAULT = ("grad_cam", "occlusion", "superpixels", "integrated_gradients", "activations")
OURS = ("grad_cam", "occlusion", "superpixels", "activations", "filters")
_LAYERS_SHOWN = 16  # of activation grids, where none are named
_SEGMENTS = 49  # superpixels, about as many as there are windows
_WINDOW, _STRIDE = 0.25, 0.125  # of occlusion, shares of the picture's sides
_STEPS = {"integrated_gradients": {"n_steps": 20}}
_BATCH = 32


@dataclass(frozen=True, eq=False)
class Question:
    """A picture, and the classes that are to be explained.

    Attributes:
        name: of the picture.
        image: ``(1, C, H, W)`` in [0, 1].
        class_names: ``K`` names.
        probabilities: ``(K,)`` in [0, 1].
        targets: the ``T`` classes.
        seed: of methods that draw random numbers.
    """

    name: str
    image: Tensor
    class_names: tuple[str, ...]
    probabilities: Tensor
    targets: tuple[int, ...]
    seed: int

    def row(self, number: int, layers: Sequence[LayerMap]) -> ClassMap:
        """The row of a panel for target ``number``: maps of layers, the one drawn large last."""
        target, (*others, last) = self.targets[number], layers
        role: Role = "predicted" if target == int(self.probabilities.argmax()) else "target"
        return ClassMap(
            last.map, self.class_names[target], role, float(self.probabilities[target]),
            last.scale, last.layer, tuple(others),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Answer:
    """What one method finds; the attributes are those of
    :class:`convlens.experiment.explanation.Explanation`."""

    grad_cam: Mapping[str, Tensor] = field(default_factory=dict)
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    panels: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def choose_methods(only: str | Sequence[str] | None) -> list[str]:
    """The explanations that ``only`` names: a list, or text with commas; None for all usual ones.

    Raises:
        UserError: one that there is not.

    >>> choose_methods("grad_cam,Saliency")
    ['grad_cam', 'saliency']
    """
    if only is None:
        return list(DEFAULT)
    asked = only.split(",") if isinstance(only, str) else list(only)
    found = []
    for each in (name.strip() for name in asked):
        if each not in OURS:
            try:
                each = find_method(each)
            except UserError:
                known = [*OURS, *attribution_methods()]
                raise UserError(
                    f"only={each}: no such explanation; {nearest(each, known)}"
                ) from None
        found.append(each)
    return list(dict.fromkeys(found))


def answer_by_grad_cam(
    network: nn.Module, asked: Question, layers: str | list[str], *, named: bool
) -> Answer:
    """Grad-CAM at the layers, ``(T, h, w)`` each; nothing where no layer has maps.

    Args:
        layers: as :func:`convlens.explain.choose_layers` takes them.
        named: whether it was asked for by name, and not as one of all usual ones.

    Raises:
        UserError: an unknown layer or one without maps; asked for by name of a network that has no
            feature map.
    """
    layers = choose_layers(network, layers, "grad_cam", example=asked.image)
    if not layers:
        _, why = feature_map(network, asked.image)
        if named:
            raise UserError(f"only=grad_cam: {why}; occlusion explains any network")
        return Answer(notes=(f"grad_cam: {why}, there is nothing to draw",))
    maps = grad_cam(network, asked.image, torch.tensor([asked.targets]), layers).maps
    found = {layer: maps[layer][0].cpu() for layer in layers}
    rows = [
        asked.row(number, [LayerMap(layer, found[layer][number]) for layer in layers])
        for number in range(len(asked.targets))
    ]
    title = f"{asked.name} · Grad-CAM at {', '.join(layers)}"
    panel = grad_cam_panel(asked.image[0], rows, title=title)
    return Answer(grad_cam=found, panels={"grad_cam": panel})


def answer_by_activations(network: nn.Module, asked: Question, layers: str | list[str]) -> Answer:
    """What the layers' channels answer to the picture, ``(C', h, w)`` each.

    Raises:
        UserError: an unknown layer, or one that has no maps.
    """
    notes = ()
    if layers == "auto" and (why := feature_map(network, asked.image)[1]):
        notes = (f"activations: {why}",)
    chosen = choose_layers(network, layers, "activations", example=asked.image, limit=_LAYERS_SHOWN)
    maps = activations(network, asked.image, chosen).layers
    found = {layer: each[0].cpu() for layer, each in maps.items()}
    panels = {
        f"activations/{layer}": activation_grid(each, title=f"{layer} · {asked.name}")
        for layer, each in found.items()
    }
    return Answer(activations=found, panels=panels, notes=notes)


def answer_by_signed_maps(network: nn.Module, asked: Question, method: str) -> Answer:
    """Occlusion by windows or superpixels, or a method of Captum's: ``(T, H, W)``, signed."""
    maps, how, lines = _signed_maps(network, asked, method)
    maps = maps.cpu()
    rows = [asked.row(number, [LayerMap("", each)]) for number, each in enumerate(maps)]
    panel = attribution_panel(
        asked.image[0], rows, title=f"{asked.name} · {how}", note="; ".join(lines) or None
    )
    notes = tuple(f"{method}: {line}" for line in lines)
    return Answer(maps={method: maps}, panels={method: panel}, notes=notes)


def _signed_maps(
    network: nn.Module, asked: Question, method: str
) -> tuple[Tensor, str, tuple[str, ...]]:
    """Maps, what they are in words, and what a reader should know."""
    image, targets = asked.image, torch.tensor([asked.targets])
    if method == "occlusion":
        size = tuple(image.shape[-2:])
        window, stride = window_pixels(_WINDOW, size), window_pixels(_STRIDE, size)
        how = f"occlusion, window {window[0]}×{window[1]}, stride {stride[0]}×{stride[1]}"
        found = occlusion(
            network, image, targets, window=window, stride=stride, baseline="mean", batch=_BATCH
        )
        return found.maps[0], how, ()
    if method == "superpixels":
        segments = superpixels(image, _SEGMENTS)
        how = f"occlusion, {int(segments.max()) + 1} superpixels"
        found = superpixel_ablation(
            network, image, targets, segments, baseline="mean", batch=_BATCH
        )
        return found.maps[0], how, ()
    repeated = image.expand(len(asked.targets), *image.shape[1:])
    told = attribute(
        network, repeated, targets[0], method, batch=_BATCH, seed=asked.seed,
        **_STEPS.get(method, {}),
    )  # fmt: skip
    how = " · ".join([method.replace("_", " "), *([told.layer] if told.layer else [])])
    return told.maps, how, told.notes
