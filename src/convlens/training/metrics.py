"""The numbers of an epoch, kept by torchmetrics (right over several processes too)."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
)

from convlens.training.objective import predicted


class EpochMetrics(nn.Module):
    """Mean loss and accuracy; with ``detailed`` balanced accuracy and F1 of each class too.

    Args:
        class_names: K names, used in the names of the F1 scores.
        detailed: whether the per-class numbers are kept.
    """

    def __init__(self, class_names: list[str], *, detailed: bool):
        super().__init__()
        classes = len(class_names)
        self.class_names = class_names
        options = {"num_classes": classes, "validate_args": False}
        self.loss = MeanMetric(nan_strategy="disable")
        self.accuracy = MulticlassAccuracy(average="micro", **options)
        self.details = nn.ModuleDict()
        if detailed:
            self.details["balanced_accuracy"] = MulticlassAccuracy(average="macro", **options)
            self.details["f1"] = MulticlassF1Score(average="none", **options)

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add one batch: its mean loss, logits (B, K or 1), labels (B,)."""
        answers = predicted(logits)
        # one value a picture: with nan_strategy="disable" MeanMetric sets aside the weights that
        # it is given (torchmetrics 1.9, `_cast_and_nan_check_input`)
        self.loss.update(loss.detach().expand(len(labels)))
        self.accuracy.update(answers, labels)
        for metric in self.details.values():
            metric.update(answers, labels)

    def compute(self) -> dict[str, float]:
        """``loss`` (nats), ``accuracy`` and the rest, shares in [0, 1]; then starts anew."""
        values = {"loss": float(self.loss.compute()), "accuracy": float(self.accuracy.compute())}
        if self.details:
            values["balanced_accuracy"] = float(self.details["balanced_accuracy"].compute())
            scores = self.details["f1"].compute().tolist()
            values |= {f"f1/{n}": s for n, s in zip(self.class_names, scores, strict=True)}
        for metric in (self.loss, self.accuracy, *self.details.values()):
            metric.reset()
        return values
