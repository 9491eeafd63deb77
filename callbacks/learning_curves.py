"""Learning curves: training and validation in one picture."""

from __future__ import annotations

from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look
from convlens.callbacks.looks import ExplanationCallback

from convlens.draw.charts import learning_curves

_SHOWN = ("train/loss", "val/loss", "train/accuracy", "val/accuracy")


class LearningCurves(ExplanationCallback):
    """``learning_curves``: loss and accuracy of training and validation, with unfreezing marked.

    TensorBoard shows the same numbers as scalars after every epoch, so this picture is only drawn
    at the end of the run.
    """

    has_final_look = True  # an epoch's numbers are written after its look

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"learning_curves": 1}

    def pictures(self, look: Look) -> Findings:
        rows = look.history
        tags = [tag for tag in _SHOWN if any(tag in row for row in rows)]
        if not look.final or not tags:
            return
        yield from self.draw(
            look, "learning_curves",
            lambda: learning_curves(
                {tag: [row.get(tag, float("nan")) for row in rows] for tag in tags},
                [int(row["epoch"]) for row in rows],
                title=f"learning curves · epoch {rows[-1]['epoch']}",
                marks=look.marks,
            ),
            seconds=0.4,
        )  # fmt: skip
