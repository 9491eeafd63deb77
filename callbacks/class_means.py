"""Where the network looks for each class, on average."""

from __future__ import annotations

import torch
from convlens.callbacks.evidence import collect_evidence
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look
from convlens.callbacks.looks import ExplanationCallback

from convlens.draw.class_means import class_means


class ClassMeans(ExplanationCallback):
    """``grad_cam_means``: the mean Grad-CAM map of each class, over a sample of validation images.

    It shows at a glance if a mark in a corner, a frame or a watermark gives a class away.

    Args:
        pictures: number of validation images; without a data set, the probes are used.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.
    """

    def __init__(self, *, pictures: int = 40, every_n_epochs: int = 1, batch: int = 32):
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.count = pictures

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"grad_cam_means": 1}

    def pictures(self, look: Look) -> Findings:
        maps = collect_evidence(self, look, self.count)
        if maps is None:
            return
        classes = len(look.class_names)
        known = maps.labels >= 0
        labels = maps.labels[known]
        counts = torch.bincount(labels, minlength=classes)
        sums = torch.zeros(classes, *maps.true.shape[1:])
        sums.index_add_(0, labels, maps.true[known])
        means = (sums / counts.clamp_min(1)[:, None, None]).numpy()
        title = f"mean map of each class · {maps.layer} · epoch {look.clock}"
        yield from self.draw(
            look, "grad_cam_means",
            lambda: class_means(means, counts.numpy(), look.class_names, title=title),
        )  # fmt: skip
