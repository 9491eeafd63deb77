"""What occlusion and attribution callbacks have in common: which probes, which classes, the rows.

They are dear, so they show few probes: those that ``only`` lets through, the first ones of each
class before others, taking turns where the budget does not reach all of them.
"""

from __future__ import annotations

import time
from abc import abstractmethod

import numpy as np
from convlens.callbacks.explanation import Findings, Look
from convlens.callbacks.looks import ExplanationCallback
from convlens.callbacks.targets import check_target, explained_classes
from torch import Tensor

from convlens.core.errors import UserError, nearest
from convlens.draw.attribution_panel import attribution_panel
from convlens.draw.grad_cam_panel import ClassMap
from convlens.explain.grad_cam import probabilities
from convlens.explain.occlusion import class_logits

ONLY = ("correct", "all", "wrong")


class SignedMaps(ExplanationCallback):
    """``<tag>/<probe>``: rows [picture | map | overlay], red for the class, blue against it.

    A probe whose true class is not known can be neither right nor wrong: it is always shown.

    Args:
        probes: so many at a look at most.
        only: ``correct``, ``wrong`` or ``all``: which probes, by the network's answer at this look.
        target: ``answer`` explains the predicted and the true class; the name of a class that one.
        every_n_epochs, batch: see :class:`~convlens.callbacks.explanation.Explanation`.
    """

    def __init__(self, *, probes: int, only: str, target: str, every_n_epochs: int, batch: int):
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.shown, self.only, self.target = probes, only, target
        self._cost = 0.0  # seconds of the latest picture

    @property
    @abstractmethod
    def tag(self) -> str:
        """The part of the tag before the probe's name."""

    @abstractmethod
    def explain(self, look: Look, image: Tensor, targets: list[int]) -> tuple[Tensor, str | None]:
        """Maps (T, h, w) of one picture (1, C, H, W) for T classes, and a line of warning."""

    @abstractmethod
    def heading(self, look: Look) -> str:
        """What the title says between the probe's name and the epoch."""

    def select_layers(self, network, example) -> list[str]:
        if self.only not in ONLY:
            wanted = nearest(str(self.only), ONLY)
            raise UserError(f"callbacks.{self.tag}.only={self.only}: {wanted}")
        check_target(self.tag, self.target, self.class_names)
        return []

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {f"{self.tag}/<probe>": min(self.shown, probes)}

    def pictures(self, look: Look) -> Findings:
        images, labels = look.probes.images, look.probes.labels.tolist()
        logits = self.fitting(lambda batch: class_logits(look.network, images, batch=batch))
        shares = probabilities(logits).cpu()
        answers = shares.argmax(dim=1).tolist()
        numbers = [n for n in look.probes.in_turns() if self._wanted(answers[n], labels[n])]
        numbers = sorted(numbers[: self.shown])
        if not numbers:
            line = f"no probe that only={self.only} lets through at epoch {look.clock}"
            self.say("none", f"{self.name}: {line}, nothing to draw")
            return
        turn, self._turn = self.in_turn(numbers), 0
        for number in turn:
            probe = look.probes.names[number]
            if number != turn[0] and self._cost > look.left:
                self._turn = numbers.index(number)
                self.say("short", f"{self.name}: the budget ends the look before {probe}")
                return
            began = time.perf_counter()
            picture = self._panel(look, number, answers[number], labels[number], shares[number])
            self._cost = time.perf_counter() - began
            yield f"{self.tag}/{probe}", picture

    def _wanted(self, answer: int, truth: int) -> bool:
        return self.only == "all" or truth < 0 or (answer == truth) == (self.only == "correct")

    def _panel(self, look: Look, number: int, answer: int, truth: int, shares) -> np.ndarray:
        rows = explained_classes(self.target, look.class_names, answer, truth)
        image = look.probes.images[number : number + 1]
        maps, note = self.explain(look, image, [target for target, _ in rows])
        entries = [
            ClassMap(maps[row].cpu(), look.class_names[target], role, float(shares[target]))
            for row, (target, role) in enumerate(rows)
        ]
        title = f"{look.probes.names[number]} · {self.heading(look)} · epoch {look.clock}"
        return attribution_panel(image[0].cpu(), entries, title=title, note=note)
