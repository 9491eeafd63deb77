"""The base of occlusion and attribution callbacks: it chooses probes and classes.

They are expensive, so they show few probes: those that ``only`` selects, at first one of each
class. If the budget does not suffice for all, the next look starts with those left out.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look, Portion
from convlens.callbacks.looks import ExplanationCallback
from convlens.callbacks.targets import check_target, choose_classes
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.draw.attribution_panel import attribution_panel
from convlens.draw.grad_cam_panel import ClassMap
from convlens.explain.grad_cam import probabilities
from convlens.explain.occlusion import compute_logits

ONLY = ("correct", "all", "wrong")


class SignedMaps(ExplanationCallback):
    """``<tag>/<probe>``: rows [image | map | overlay], red for the class, blue against it.

    A probe with an unknown true class is neither correct nor wrong, and is always drawn.

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

    @property
    @abstractmethod
    def tag(self) -> str:
        """The part of the tag before the probe's name."""

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
        images, labels = look.probes.images, look.probes.labels.tolist()
        if not look.affords("logits", len(images), 1.2):
            self.report_cut(look, "before the first probe")
            return
        with look.timed("logits", len(images)):
            logits = self.fit_batch(lambda batch: compute_logits(look.network, images, batch=batch))
            probs = probabilities(logits).cpu()
        predictions = probs.argmax(dim=1).tolist()
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
            picture = self._draw_panel(
                look, number, predictions[number], labels[number], probs[number]
            )
            yield f"{self.tag}/{look.probes.names[number]}", picture
            done = part.stop
            self._turn = numbers.index(turn[done]) if done < len(turn) else 0
        if done < len(turn):
            self.report_cut(look, f"before probe {look.probes.names[turn[done]]}")

    def _selects(self, predicted: int, truth: int) -> bool:
        return self.only == "all" or truth < 0 or (predicted == truth) == (self.only == "correct")

    def _draw_panel(
        self, look: Look, number: int, predicted: int, truth: int, probs: Tensor
    ) -> np.ndarray:
        rows = choose_classes(self.target, look.class_names, predicted, truth)
        image = look.probes.images[number : number + 1]
        maps, note = self.explain(look, image, [target for target, _ in rows])
        entries = [
            ClassMap(maps[row].cpu(), look.class_names[target], role, float(probs[target]))
            for row, (target, role) in enumerate(rows)
        ]
        title = f"{look.probes.names[number]} · {self.heading(look)} · epoch {look.clock}"
        return attribution_panel(image[0].cpu(), entries, title=title, note=note)
