"""Grad-CAM: where the network looks, for each probe."""

from __future__ import annotations

from collections.abc import Hashable

from convlens.callbacks.evidence import explain_classes, find_last_feature_map
from convlens.callbacks.evidence_maps import EvidenceMaps, Found
from convlens.callbacks.look import Look
from torch import Tensor, nn

from convlens.draw.grad_cam_panel import READING
from convlens.explain.layers import choose_layers, find_feature_map


class GradCam(EvidenceMaps):
    """``grad_cam/<probe>``: the maps of the predicted and the true class over the photograph.

    All layers and classes come from one forward pass. Numbers of maps:
    ``convlens.open_run(run).maps("grad_cam")``. For scales, classes and time see ``EvidenceMaps``.

    Args:
        layers: ``auto`` (the last feature map), a name, a glob, or a list of them.
        target: ``answer`` explains the predicted and the true class; a class name explains that
            class.
        classes: maps to keep for each probe with ``target="answer"``: of the predicted class, the
            true class, and the next most probable ones. Pictures show the first two.
        pixelated: whether pictures show the cells of the maps with sharp edges.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.
    """

    kind = "Grad-CAM"
    tag = "grad_cam"
    reading = READING

    def __init__(
        self, *, layers: str | list[str] = "auto", target: str = "answer", classes: int = 2,
        pixelated: bool = False, every_n_epochs: int = 1, batch: int = 32,
    ):  # fmt: skip
        super().__init__(
            target=target, classes=classes, pixelated=pixelated, every_n_epochs=every_n_epochs,
            batch=batch,
        )  # fmt: skip
        self.layers = layers

    @property
    def state_key(self) -> str:
        return self._generate_state_key(layers=str(self.layers), target=self.target)

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        super().select_layers(network, example)
        if self.layers == "auto":
            return find_last_feature_map(network, example)
        return choose_layers(network, self.layers, "grad_cam", example=example)

    def find_obstacle(self, network: nn.Module, example: Tensor) -> str:
        if self.find_once(network, example, self.select_layers):
            return ""
        return find_feature_map(network, example)[1] or "no layer has maps"

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return super().plan(layers, probes) if layers else {}

    def describe_work(self, look: Look) -> Hashable:
        return ("grad_cam panel", *self.layers_of(look))

    def estimate_passes(self, classes: int) -> float:
        return 1.0 + 2.0 * classes  # a backward pass costs about twice a forward pass

    def explain(self, look: Look, images: Tensor, targets: Tensor) -> Found:
        found = explain_classes(self, look, images, targets, self.layers_of(look))
        return Found(found.maps, found.logits, found.targets)
