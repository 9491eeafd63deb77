"""Grad-CAM: where the network looks, for each probe."""

from __future__ import annotations

import torch
from convlens.callbacks.evidence import PASSES, explain_classes, find_last_feature_map
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look
from convlens.callbacks.looks import ExplanationCallback
from convlens.callbacks.targets import check_target, choose_classes
from torch import Tensor, nn

from convlens.data.index.names import find_name
from convlens.draw.grad_cam_panel import ClassMap, LayerMap, grad_cam_panel
from convlens.explain.grad_cam import GradCamMaps
from convlens.explain.layers import choose_layers, find_feature_map


class GradCam(ExplanationCallback):
    """``grad_cam/<probe>``: rows [image | map at each layer | overlay], predicted and true class.

    All layers and both classes come from one forward pass. The overlay is that of the deepest
    layer. The colour scale of a probe is kept for the whole run and only grows, so that evidence
    that fades is drawn fading. The number at the end of the bar is the scale.

    If the time of a look does not suffice for all probes, the next look starts with those left out.

    Args:
        layers: ``auto`` (the last feature map), a name, a glob, or a list of them.
        target: ``answer`` explains the predicted and the true class; a class name explains that
            class.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.
    """

    def __init__(
        self,
        *,
        layers: str | list[str] = "auto",
        target: str = "answer",
        every_n_epochs: int = 1,
        batch: int = 32,
    ):
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.layers, self.target = layers, target
        self._scales: dict[str, float] = {}  # highest evidence so far, by layer and probe

    @property
    def state_key(self) -> str:
        return self._generate_state_key(layers=str(self.layers), target=self.target)

    def state_dict(self) -> dict:
        return {"scales": dict(self._scales)}

    def load_state_dict(self, state_dict: dict) -> None:
        self._scales = dict(state_dict["scales"])

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        check_target(self.config_key, self.target, self.class_names)
        if self.layers == "auto":
            return find_last_feature_map(network, example)
        return choose_layers(network, self.layers, "grad_cam", example=example)

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"grad_cam/<probe>": probes} if layers else {}

    def pictures(self, look: Look) -> Findings:
        layers = self.layers_of(look)
        if not layers:
            _, reason = find_feature_map(look.network, look.example)
            self.log_once("no map", f"{self.name}: {reason}, so nothing is drawn")
            return
        order = self.rotate(list(range(len(look.probes))))
        targets, done = self._targets(look), 0
        kind = ("grad_cam panel", *layers)
        for part in look.pieces(kind, len(order), batch=self.batch, passes=PASSES, seconds=0.05):
            numbers = order[part]
            maps = explain_classes(
                self, look, look.probes.images[numbers], targets[numbers], layers
            )
            yield from self._draw_panels(look, numbers, maps)
            done = part.stop
            self._turn = order[done] if done < len(order) else 0
        if done < len(order):
            self.report_cut(look, f"with {done} of {len(order)} probes drawn")

    def _draw_panels(self, look: Look, numbers: list[int], found: GradCamMaps) -> Findings:
        """Yield the panels of some probes, given by their numbers."""
        probs = found.probabilities.cpu()
        for place, number in enumerate(numbers):
            probe, truth = look.probes.names[number], int(look.probes.labels[number])
            maps = {layer: each[place].cpu() for layer, each in found.maps.items()}
            scales = {layer: self._scale(layer, probe, each) for layer, each in maps.items()}
            predicted = int(probs[place].argmax())
            classes = choose_classes(self.target, look.class_names, predicted, truth)
            rows = []
            for row, (target, role) in enumerate(classes):
                *others, last = (LayerMap(name, maps[name][row], scales[name]) for name in maps)
                rows.append(
                    ClassMap(
                        last.map, look.class_names[target], role, float(probs[place, target]),
                        last.scale, last.layer, tuple(others),
                    )
                )  # fmt: skip
            where = next(iter(maps)) if len(maps) == 1 else f"{len(maps)} layers"
            title = f"{probe} · {where} · epoch {look.clock}"
            image = look.probes.images[number].cpu()
            yield f"grad_cam/{probe}", grad_cam_panel(image, rows, title=title)

    def _scale(self, layer: str, probe: str, maps: torch.Tensor) -> float:
        key = f"{layer} {probe}"
        highest = float(maps.nan_to_num(posinf=0.0).max())
        self._scales[key] = max(self._scales.get(key, 0.0), highest)
        return self._scales[key]

    def _targets(self, look: Look) -> torch.Tensor:
        """Return (N, T) classes to explain: predicted (-1), and true (-1 if unknown)."""
        count = len(look.probes)
        if self.target != "answer":
            target = find_name(self.target, look.class_names)
            assert target is not None, "select_layers checks the target"
            return torch.full((count, 1), target)
        return torch.stack([torch.full((count,), -1), look.probes.labels], dim=1)
