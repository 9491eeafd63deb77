"""Where the network looks for each class on the whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from convlens.callbacks.base import ExplanationCallback
from convlens.callbacks.evidence import evidence
from convlens.callbacks.look import Look

from convlens.draw.class_means import class_means


class ClassMeans(ExplanationCallback):
    """``class_means``: the mean Grad-CAM map of each class, over pictures spread over validation.

    A mark in a corner, a frame or a watermark that gives a class away shows at a glance.

    Args:
        pictures: so many of the validation pictures; the probes where there is no data set.
        every_n_epochs, batch: see :class:`~convlens.callbacks.explanation.Explanation`.
    """

    def __init__(self, *, pictures: int = 40, every_n_epochs: int = 1, batch: int = 32):
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.count = pictures

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"class_means": 1}

    def pictures(self, look: Look) -> Iterator[tuple[str, np.ndarray]]:
        found = evidence(self, look, self.count)
        if found is None:
            return
        classes = len(look.class_names)
        counts = torch.bincount(found.labels[found.labels >= 0], minlength=classes)
        sums = torch.zeros(classes, *found.true.shape[1:])
        known = found.labels >= 0
        sums.index_add_(0, found.labels[known], found.true[known])
        means = sums / counts.clamp_min(1)[:, None, None]
        title = f"mean map of each class · {found.layer} · epoch {look.clock}"
        yield (
            "class_means",
            class_means(means.numpy(), counts.numpy(), look.class_names, title=title),
        )
