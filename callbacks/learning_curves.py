"""Learning curves: training and validation in one picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from convlens.callbacks.base import ExplanationCallback
from convlens.callbacks.look import Look

from convlens.draw.curves import learning_curves

_SHOWN = ("train/loss", "val/loss", "train/accuracy", "val/accuracy")


class LearningCurves(ExplanationCallback):
    """``learning_curves``: loss and accuracy of training and validation, unfreezing marked.

    TensorBoard draws the same numbers as scalars after every epoch, one chart for each; hence
    this picture is drawn at the end of the run only, unless it is asked for.

    Args:
        each_epoch: whether to draw it at every look, up to the epoch before.
        every_n_epochs: see :class:`~convlens.callbacks.explanation.Explanation`.
    """

    has_final_look = True  # an epoch's own numbers are written behind its look

    def __init__(self, *, each_epoch: bool = False, every_n_epochs: int = 1):
        super().__init__(every_n_epochs=every_n_epochs)
        self.each_epoch = each_epoch

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"learning_curves": 1}

    def pictures(self, look: Look) -> Iterator[tuple[str, np.ndarray]]:
        rows = look.history
        if not rows or not (look.final or self.each_epoch):
            return
        tags = [tag for tag in _SHOWN if any(tag in row for row in rows)]
        if not tags:
            return
        yield (
            "learning_curves",
            learning_curves(
                {tag: [row.get(tag, float("nan")) for row in rows] for tag in tags},
                [row["epoch"] for row in rows],
                title=f"learning curves · epoch {rows[-1]['epoch']}",
                marks=look.marks,
            ),
        )
