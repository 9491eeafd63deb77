"""Grad-CAM: where the network looks, for each probe."""

from __future__ import annotations

import numpy as np
from convlens.callbacks.evidence import explain_classes, find_last_feature_map
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look, Portion
from convlens.callbacks.looks import ExplanationCallback
from convlens.callbacks.targets import check_target, choose_shown, list_shown, name_maps
from torch import Tensor, nn

from convlens.draw.grad_cam_panel import ClassMap, LayerMap, grad_cam_panel
from convlens.explain.layers import choose_layers, find_feature_map
from convlens.explain.shrink import shrink_maps
from convlens.rundir.maps import SIDE


class GradCam(ExplanationCallback):
    """``grad_cam/<probe>``: the maps of the predicted and the true class over the photograph.

    If images may have several classes: of each class that the image has.

    All layers and classes come from one forward pass. The maps are kept as numbers, too, averaged
    down to at most 14×14 cells (``convlens.open_run(run).maps("grad_cam")``), and the pictures are
    drawn from these. The colour scale of a probe is kept for the whole run and only grows, so that
    evidence that fades is drawn fading. The number at the end of the bar is the scale.

    If the time of a look does not suffice for all probes, the next look starts with those left out.

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

    def __init__(
        self, *, layers: str | list[str] = "auto", target: str = "answer", classes: int = 2,
        pixelated: bool = False, every_n_epochs: int = 1, batch: int = 32,
    ):  # fmt: skip
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.layers, self.target = layers, target
        self.classes, self.pixelated = classes, pixelated
        self.photographs = not pixelated  # the cells' sharp edges are in colour
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

    def portion(self, look: Look) -> Portion | None:
        if not (layers := self.layers_of(look)):
            return None
        # a backward pass costs about twice a forward pass
        passes = 1.0 + 2.0 * len(list_shown(look, self.target, self.classes)[0])
        return Portion(len(look.probes), "probes", ("grad_cam panel", *layers), passes)

    def pictures(self, look: Look) -> Findings:
        layers, portion = self.layers_of(look), self.portion(look)
        if portion is None:
            _, reason = find_feature_map(look.network, look.example)
            self.log_once("no map", f"{self.name}: {reason}, so nothing is drawn")
            return
        order = self.rotate(list(range(len(look.probes))))
        roles, targets = list_shown(look, self.target, self.classes)
        kind, done = portion.kind, 0
        for part in look.pieces(
            kind, len(order), batch=self.batch, passes=portion.passes, seconds=0.05
        ):
            numbers = order[part]
            found = explain_classes(
                self, look, look.probes.images[numbers], targets[numbers], layers
            )
            maps = {layer: shrink_maps(each.cpu(), SIDE) for layer, each in found.maps.items()}
            shares = look.probabilities(found.logits).cpu()
            named = name_maps("grad_cam", look, numbers, roles, found.targets, shares, maps)
            yield "grad_cam", named
            for place, number in enumerate(numbers):
                own = {layer: each[place] for layer, each in maps.items()}
                yield self._draw_panel(look, number, own, shares[place])
            done = part.stop
            self._turn = order[done] if done < len(order) else 0
        if done < len(order):
            self.report_cut(look, f"with {done} of {len(order)} probes drawn")

    def _draw_panel(
        self, look: Look, number: int, maps: dict[str, Tensor], probs: Tensor
    ) -> tuple[str, np.ndarray]:
        """Return the panel of a probe.

        Args:
            look: the look.
            number: of the probe.
            maps: by layer, (T, h, w).
            probs: (K,) probabilities.
        """
        probe = look.probes.names[number]
        scales = {layer: self._scale(layer, probe, each) for layer, each in maps.items()}
        rows = []
        for row, target, role in choose_shown(look, self.target, number, probs):
            *others, last = (LayerMap(name, maps[name][row], scales[name]) for name in maps)
            rows.append(
                ClassMap(
                    last.map, look.class_names[target], role, float(probs[target]),
                    last.scale, last.layer, tuple(others),
                )
            )  # fmt: skip
        picture = grad_cam_panel(
            look.probes.photographs[number], rows, title=f"{probe} · epoch {look.clock}",
            source=look.probes.sources[number], pixelated=self.pixelated,
        )  # fmt: skip
        return f"grad_cam/{probe}", picture

    def _scale(self, layer: str, probe: str, maps: Tensor) -> float:
        key = f"{layer} {probe}"
        highest = float(maps.nan_to_num(posinf=0.0).max())
        self._scales[key] = max(self._scales.get(key, 0.0), highest)
        return self._scales[key]
