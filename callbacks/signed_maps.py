"""The base of occlusion and attribution callbacks: it chooses probes and classes.

They are expensive, so they show few probes: those that ``only`` selects, at first one of each
class. If the budget does not suffice for all, the next look starts with those left out.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look, Portion
from convlens.callbacks.looks import ExplanationCallback
from convlens.callbacks.targets import (
    check_target,
    choose_classes,
    find_true_class,
    list_targets,
    name_maps,
)
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.draw.attribution_panel import attribution_panel, describe_reading
from convlens.draw.grad_cam_panel import ClassMap
from convlens.explain.occlusion import compute_logits
from convlens.rundir.maps import IMAGE, Maps

ONLY = ("correct", "all", "wrong")


class SignedMaps(ExplanationCallback):
    """``<tag>/<probe>``: maps over the photograph, red for the class, blue against it.

    The maps are kept as numbers, too, averaged down to at most 14×14 cells. A probe with an unknown
    true class is neither correct nor wrong, and is always drawn.

    Args:
        probes: maximum number of probes in a look.
        only: ``correct``, ``wrong`` or ``all``: which probes, by the current prediction.
        target: ``answer`` explains the predicted and the true class; a class name explains that
            class.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.
    """

    def __init__(self, *, probes: int, only: str, target: str, every_n_epochs: int, batch: int):
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.probe_count, self.only, self.target = probes, only, target
        self.smooth = self.least = 0.0  # see ``attribution_panel``

    @property
    @abstractmethod
    def tag(self) -> str:
        """The part of the tag before the probe's name."""

    @property
    def reading(self) -> str:
        """A sentence on how to read the maps."""
        return describe_reading(self.tag)

    @abstractmethod
    def explain(self, look: Look, image: Tensor, targets: list[int]) -> tuple[Tensor, str | None]:
        """Return maps (T, h, w) of one image (1, C, H, W) for T classes, and a warning or None."""

    @abstractmethod
    def estimate_passes(self, look: Look) -> float:
        """Return about how many forward passes of one image an explained probe costs."""

    @abstractmethod
    def heading(self, look: Look) -> str:
        """Return the part of the title between the probe's name and the epoch."""

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        if self.only not in ONLY:
            allowed = nearest(str(self.only), ONLY)
            raise UserError(f"{self.config_key}.only={self.only}: {allowed}")
        check_target(self.config_key, self.target, self.class_names)
        return []

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {f"{self.tag}/<probe>": min(self.probe_count, probes)}

    def portion(self, look: Look) -> Portion | None:
        count = min(self.probe_count, len(look.probes))
        return Portion(count, "probes", (self.tag, "panel"), self.estimate_passes(look))

    def pictures(self, look: Look) -> Findings:
        images = look.probes.images
        if not look.affords("logits", len(images), 1.2):
            self.report_cut(look, "before the first probe")
            return
        with look.timed("logits", len(images)):
            logits = self.fit_batch(lambda batch: compute_logits(look.network, images, batch=batch))
            probs = look.probabilities(logits).cpu()
        predictions = probs.argmax(dim=1).tolist()
        labels = [find_true_class(look, n, k) for n, k in enumerate(predictions)]
        numbers = [
            n for n in look.probes.order_in_turns() if self._selects(predictions[n], labels[n])
        ]
        numbers = sorted(numbers[: self.probe_count])
        if not numbers:
            # probes of an unknown class are always drawn, so every class is known here
            line = f"no probe is predicted {self.only}ly at epoch {look.clock}, nothing is drawn"
            self.log_once("none", f"{self.name}: {line} ({self.config_key}.only={self.only})")
            return
        turn, done = self.rotate(numbers), 0
        for part in look.pieces(
            (self.tag, "panel"), len(turn), batch=1, passes=self.estimate_passes(look)
        ):
            (number,) = turn[part]
            picture, maps = self._explain_probe(look, number, probs[number])
            yield self.tag, maps
            yield f"{self.tag}/{look.probes.names[number]}", picture
            done = part.stop
            self._turn = numbers.index(turn[done]) if done < len(turn) else 0
        if done < len(turn):
            self.report_cut(look, f"before probe {look.probes.names[turn[done]]}")

    def _selects(self, predicted: int, truth: int) -> bool:
        return self.only == "all" or truth < 0 or (predicted == truth) == (self.only == "correct")

    def _explain_probe(self, look: Look, number: int, probs: Tensor) -> tuple[np.ndarray, Maps]:
        """Return the panel of a probe, and its maps.

        Args:
            look: the look.
            number: of the probe.
            probs: (K,) probabilities.
        """
        probe, predicted = look.probes.names[number], int(probs.argmax())
        rows = choose_classes(
            self.target, look.class_names, predicted, find_true_class(look, number, predicted)
        )
        targets = [target for target, _ in rows]
        maps, note = self.explain(look, look.probes.images[number : number + 1], targets)
        maps = maps.cpu()
        entries = [
            ClassMap(maps[row], look.class_names[target], role, float(probs[target]))
            for row, (target, role) in enumerate(rows)
        ]
        picture = attribution_panel(
            look.probes.photographs[number], entries,
            title=f"{probe} · {self.heading(look)} · epoch {look.clock}",
            reading=self.reading, source=look.probes.sources[number], smooth=self.smooth,
            least=self.least, note=note,
        )  # fmt: skip
        roles, _ = list_targets(look, self.target)
        both = [0, -1] if len(roles) == 2 else [0]  # one map serves "predicted = true"
        named = name_maps(
            self.tag, look, [number], roles, torch.tensor(targets)[both][None], probs[None],
            {(self.layers_of(look) or [IMAGE])[-1]: maps[both][None]},
        )  # fmt: skip
        return picture, named
