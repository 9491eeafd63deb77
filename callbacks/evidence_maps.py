"""The base of callbacks that lay maps of evidence for classes over the probes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look, Portion
from convlens.callbacks.looks import ExplanationCallback
from convlens.callbacks.targets import check_target, choose_shown, list_shown, name_maps
from torch import Tensor, nn

from convlens.draw.grad_cam_panel import ClassMap, LayerMap, grad_cam_panel
from convlens.explain.shrink import shrink_maps
from convlens.rundir.maps import SIDE


@dataclass(frozen=True, eq=False)
class Found:
    """Maps of T classes of n images.

    Attributes:
        maps: by layer, (n, T, h, w), at least 0.
        logits: (n, K).
        targets: (n, T), the explained classes.
    """

    maps: dict[str, Tensor]
    logits: Tensor
    targets: Tensor


class EvidenceMaps(ExplanationCallback):
    """``<tag>/<probe>``: the maps of the predicted and the true class over the photograph.

    If images may have several classes: of each class that the image has.

    The maps are kept as numbers, too, averaged down to at most 14×14 cells, and the pictures are
    drawn from these. The colour scale of a probe is kept for the whole run and only grows, so that
    evidence that fades is drawn fading. The number at the end of the bar is the scale.

    If the time of a look does not suffice for all probes, the next look starts with those left out.

    Args:
        target: ``answer`` explains the predicted and the true class; a class name explains that
            class.
        classes: maps to keep for each probe with ``target="answer"``: of the predicted class, the
            true class, and the next most probable ones. Pictures show the first two.
        pixelated: whether pictures show the cells of the maps with sharp edges.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.

    Attributes:
        tag: first part of the tags, and the method of the maps.
        reading: a sentence on how to read the maps.
    """

    tag: str
    reading: str

    def __init__(
        self, *, target: str, classes: int, pixelated: bool, every_n_epochs: int, batch: int
    ):
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.target, self.classes, self.pixelated = target, classes, pixelated
        self.photographs = not pixelated  # the cells' sharp edges are in colour
        self._scales: dict[str, float] = {}  # highest evidence so far, by layer and probe

    def state_dict(self) -> dict:
        return {"scales": dict(self._scales)}

    def load_state_dict(self, state_dict: dict) -> None:
        self._scales = dict(state_dict["scales"])

    @abstractmethod
    def explain(self, look: Look, images: Tensor, targets: Tensor) -> Found:
        """Return the maps of images (n, C, H, W) for classes (n, T), and record what they take."""

    @abstractmethod
    def estimate_passes(self, classes: int) -> float:
        """Return how many forward passes of one image the maps of that many classes cost about."""

    def describe_work(self, look: Look) -> Hashable:
        """Return the kind of the work, see ``Pace``."""
        return f"{self.tag} panel"

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        check_target(self.config_key, self.target, self.class_names)
        return []

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {f"{self.tag}/<probe>": probes}

    def portion(self, look: Look) -> Portion | None:
        if self.find_once(look.network, look.example, self.find_obstacle):
            return None
        passes = self.estimate_passes(len(list_shown(look, self.target, self.classes)[0]))
        return Portion(len(look.probes), "probes", self.describe_work(look), passes)

    def pictures(self, look: Look) -> Findings:
        if obstacle := self.find_once(look.network, look.example, self.find_obstacle):
            self.log_once("obstacle", f"{self.name} draws nothing: {obstacle}")
            return
        order = self.rotate(list(range(len(look.probes))))
        roles, targets = list_shown(look, self.target, self.classes)
        kind, passes, done = self.describe_work(look), self.estimate_passes(len(roles)), 0
        for part in look.pieces(kind, len(order), batch=self.batch, passes=passes, seconds=0.05):
            numbers = order[part]
            found = self.explain(look, look.probes.images[numbers], targets[numbers])
            maps = {layer: shrink_maps(each.cpu(), SIDE) for layer, each in found.maps.items()}
            shares = look.probabilities(found.logits).cpu()
            named = name_maps(self.tag, look, numbers, roles, found.targets, shares, maps)
            yield self.tag, named
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
            reading=self.reading,
        )  # fmt: skip
        return f"{self.tag}/{probe}", picture

    def _scale(self, layer: str, probe: str, maps: Tensor) -> float:
        key = f"{layer} {probe}"
        highest = float(maps.nan_to_num(posinf=0.0).max())
        self._scales[key] = max(self._scales.get(key, 0.0), highest)
        return self._scales[key]
