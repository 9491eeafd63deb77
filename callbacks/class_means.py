"""Where the network looks for each class on the whole."""

from __future__ import annotations

import torch
from convlens.callbacks.evidence import evidence
from convlens.callbacks.explanation import Findings, Look
from convlens.callbacks.looks import ExplanationCallback

from convlens.draw.class_means import class_means


class ClassMeans(ExplanationCallback):
    """``class_means``: the mean Grad-CAM map of each class, over pictures spread over validation.

    A mark in a corner, a frame or a watermark that gives a class away shows at a glance.

    Args:
        pictures: so many of the validation pictures; the probes where there is no data set.
        every_n_epochs: epochs between two looks; the budget may thin them out further.
        batch: images of a pass at most; halved when memory runs out.
    """

    def __init__(self, *, pictures: int = 40, every_n_epochs: int = 1, batch: int = 32):
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.count = pictures

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"class_means": 1}

    def pictures(self, look: Look) -> Findings:
        found = evidence(self, look, self.count)
        if found is None:
            return
        classes = len(look.class_names)
        known = found.labels >= 0
        labels = found.labels[known]
        counts = torch.bincount(labels, minlength=classes)
        sums = torch.zeros(classes, *found.true.shape[1:])
        sums.index_add_(0, labels, found.true[known])
        means = (sums / counts.clamp_min(1)[:, None, None]).numpy()
        title = f"mean map of each class · {found.layer} · epoch {look.clock}"
        yield "class_means", class_means(means, counts.numpy(), look.class_names, title=title)
