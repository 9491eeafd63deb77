"""The mistakes that the network is surest of, and why it makes them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from convlens.callbacks.answers import Answers
from convlens.callbacks.base import ExplanationCallback
from convlens.callbacks.evidence import last_feature_map
from convlens.callbacks.look import Look

from convlens.draw.breakdown import breakdown
from convlens.draw.colour import overlay
from convlens.draw.confusion_matrix import confusion_counts
from convlens.draw.grad_cam_panel import probability_text
from convlens.draw.picture_sheet import SheetEntry, picture_sheet
from convlens.explain.grad_cam import grad_cam

STAGES = {"val": "validation", "test": "test"}


class Mistakes(ExplanationCallback):
    """``predictions/…``: the most confident mistakes, random pictures, and mistakes by class.

    ``predictions/mistakes`` shows each with its Grad-CAM for the predicted and for the true class:
    a mistake is where a heat map earns its keep. ``predictions/random`` shows pictures that were
    drawn once, with answer and confidence, ``predictions/breakdown`` which class is taken for
    which. Behind the test the same appears of the test pictures, under ``…/test``.

    Args:
        mistakes: so many of the most confident ones.
        random: so many random pictures.
        every_n_epochs, batch: see :class:`~convlens.callbacks.explanation.Explanation`.
    """

    needs_answers = True
    looks_at_test = True

    def __init__(
        self, *, mistakes: int = 8, random: int = 8, every_n_epochs: int = 1, batch: int = 32
    ):
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.mistakes, self.random = mistakes, random

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {f"predictions/{what}": 1 for what in ("mistakes", "random", "breakdown")}

    def pictures(self, look: Look) -> Iterator[tuple[str, np.ndarray]]:
        answers = look.answers
        if answers is None or not len(answers) or look.fetch is None:
            return
        end = "/test" if look.stage == "test" else ""
        when = f"{STAGES[look.stage]} · epoch {look.clock}"
        worst = answers.mistakes(self.mistakes)
        if len(worst):
            title = f"most confident mistakes · {when}"
            sheet = self._sheet(look, answers, worst, title, explained=True)
            if sheet is not None:
                yield f"predictions/mistakes{end}", sheet
        pool = np.arange(len(answers))
        if answers.sampled:  # a data set that cannot be asked again: not all pictures are to be had
            pool = np.flatnonzero(np.isin(answers.rows, answers.sampled))
        order = np.random.default_rng(look.seed).permutation(pool)
        title = f"random pictures · {when}"
        sheet = self._sheet(look, answers, np.sort(order[: self.random]), title, explained=False)
        if sheet is not None:
            yield f"predictions/random{end}", sheet
        known = answers.labels >= 0
        counts = confusion_counts(
            answers.labels[known], answers.answers[known], len(look.class_names)
        )
        title = f"mistakes by class · {when}"
        yield f"predictions/breakdown{end}", breakdown(counts, look.class_names, title=title)

    def _sheet(
        self, look: Look, answers: Answers, places: np.ndarray, title: str, *, explained: bool
    ) -> np.ndarray | None:
        images, rows = look.fetch(answers.rows[places].tolist())
        places = np.searchsorted(answers.rows, rows).tolist()  # rows rise
        if not places:
            return None
        panels = self._panels(look, images, answers, places) if explained else [()] * len(places)
        entries = []
        for image, place, shown in zip(images.cpu(), places, panels, strict=True):
            said, truth = int(answers.answers[place]), int(answers.labels[place])
            confidence = float(answers.confidences[place])
            lines = [f"said {look.class_names[said]} {probability_text(confidence)}"]
            if truth >= 0 and truth != said:
                share = float(answers.true_confidences[place])
                lines.append(f"is {look.class_names[truth]} {probability_text(share)}")
            verdict = None if truth < 0 else truth == said
            entries.append(SheetEntry(image, lines, verdict, shown))
        return picture_sheet(entries, title=title, columns=2 if explained else 4)

    def _panels(self, look: Look, images, answers: Answers, places: list[int]) -> list:
        """For each picture the overlays of the predicted and the true class, on one scale."""
        layers = last_feature_map(look)
        if not layers:
            return [()] * len(places)
        pairs = np.stack([answers.answers[places], answers.labels[places]], axis=1)
        targets = torch.from_numpy(pairs)
        with look.fed():
            found = self.fitting(
                lambda batch: grad_cam(look.network, images, targets, layers, batch=batch)
            )
        maps = found.maps[layers[0]].cpu()
        shown = []
        for image, pair, names in zip(images.cpu(), maps, pairs, strict=True):
            high = float(pair.max())
            shown.append(
                [
                    (
                        f"{role}: {look.class_names[name]}"
                        if one.any()
                        else "no positive evidence",
                        overlay(image, one, high=high),
                    )
                    for role, name, one in zip(("said", "is"), names, pair, strict=True)
                ]
            )
        return shown
