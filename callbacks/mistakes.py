"""The mistakes that the network is surest of, and why it makes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from convlens.callbacks.evidence import last_feature_map
from convlens.callbacks.explanation import Findings, Look
from convlens.callbacks.looks import ExplanationCallback
from torch import Tensor

from convlens.draw.breakdown import breakdown
from convlens.draw.colour import overlay
from convlens.draw.confusion_matrix import confusion_counts
from convlens.draw.grad_cam_panel import probability_text
from convlens.draw.picture_sheet import SheetEntry, picture_sheet
from convlens.explain.grad_cam import grad_cam


class Mistakes(ExplanationCallback):
    """``predictions/…``: the most confident mistakes, random pictures, and mistakes by class.

    ``predictions/mistakes`` shows each with its Grad-CAM for the predicted and for the true class:
    a mistake is where a heat map earns its keep. ``predictions/random`` shows pictures that were
    drawn once, with answer and confidence, ``predictions/breakdown`` which class is taken for
    which. Behind the test the same appears of the test pictures, under ``…/test``.

    Args:
        mistakes: so many of the most confident ones.
        random: so many random pictures.
        every_n_epochs: epochs between two looks; the budget may thin them out further.
        batch: images of a pass at most; halved when memory runs out.
    """

    needs_answers = looks_at_test = True

    def __init__(
        self, *, mistakes: int = 8, random: int = 8, every_n_epochs: int = 1, batch: int = 32
    ):
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.mistakes, self.random = mistakes, random

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {f"predictions/{what}": 1 for what in ("mistakes", "random", "breakdown")}

    def pictures(self, look: Look) -> Findings:
        answers = look.answers
        if answers is None or not len(answers) or look.fetch is None:
            return
        end = "/test" if look.stage == "test" else ""
        when = f"{look.split} · epoch {look.clock}"
        pool = np.arange(len(answers))
        if answers.sampled:  # a data set that cannot be asked again: not all pictures are to be had
            pool = np.flatnonzero(np.isin(answers.rows, answers.sampled))
        drawn = np.random.default_rng(look.seed).permutation(pool)[: self.random]
        for tag, title, places in (
            ("mistakes", "most confident mistakes", answers.mistakes(self.mistakes)),
            ("random", "random pictures", np.sort(drawn)),
        ):
            images, rows = look.fetch(answers.rows[places].tolist()) if len(places) else ([], [])
            if rows:
                places = np.searchsorted(answers.rows, rows).tolist()  # rows rise
                explained = tag == "mistakes"
                panels = self._panels(look, images, places) if explained else [()] * len(rows)
                entries = [
                    self._entry(look, *each)
                    for each in zip(images.cpu(), places, panels, strict=True)
                ]
                columns = 2 if explained else 4
                sheet = picture_sheet(entries, title=f"{title} · {when}", columns=columns)
                yield f"predictions/{tag}{end}", sheet
        known = answers.labels >= 0
        counts = confusion_counts(
            answers.labels[known], answers.answers[known], len(look.class_names)
        )
        title = f"mistakes by class · {when}"
        yield f"predictions/breakdown{end}", breakdown(counts, look.class_names, title=title)

    def _entry(self, look: Look, image: Tensor, place: int, panels: Sequence) -> SheetEntry:
        answers, names = look.answers, look.class_names
        said, truth = int(answers.answers[place]), int(answers.labels[place])
        lines = [f"said {names[said]} {probability_text(float(answers.confidences[place]))}"]
        if truth >= 0 and truth != said:
            share = float(answers.true_confidences[place])
            lines.append(f"is {names[truth]} {probability_text(share)}")
        return SheetEntry(image, lines, None if truth < 0 else truth == said, panels)

    def _panels(self, look: Look, images: Tensor, places: list[int]) -> list[Sequence]:
        """For each picture the overlays of the predicted and the true class, on one scale."""
        layers, answers = last_feature_map(look), look.answers
        if not layers:
            return [()] * len(places)
        pairs = np.stack([answers.answers[places], answers.labels[places]], axis=1)
        targets = torch.from_numpy(pairs)
        with look.fed():
            found = self.fitting(
                lambda batch: grad_cam(look.network, images, targets, layers, batch=batch)
            )
        maps = found.maps[layers[0]].cpu()
        return [
            [
                (
                    f"{role}: {look.class_names[name]}" if one.any() else "no positive evidence",
                    overlay(image, one, high=float(pair.max())),
                )
                for role, name, one in zip(("said", "is"), names, pair, strict=True)
            ]
            for image, pair, names in zip(images.cpu(), maps, pairs, strict=True)
        ]
