"""Metrics of an epoch, accumulated by torchmetrics, correct for several processes too."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from convlens.training.objective import predict_classes

LISTED = 100  # largest number of classes that get a scalar each


class ClassCounts(Metric):
    """Balanced accuracy and F1 of each class, in [0, 1], from three counts per class.

    They equal torchmetrics' MulticlassAccuracy (macro) and MulticlassF1Score (none). With
    deterministic algorithms those compare every prediction with K · K numbers, which takes almost
    a second per batch for a thousand classes (torchmetrics 1.9, ``_bincount``); counting does not.

    Args:
        classes: K.
    """

    full_state_update = False

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes
        for name in ("correct", "predicted", "actual"):
            self.add_state(name, torch.zeros(classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, answers: Tensor, labels: Tensor) -> None:
        """Add predicted and true classes, both int64 (B,)."""
        # `bincount`, and an index that is a mask, would wait for the device to learn a size
        one = torch.ones_like(labels)
        self.correct.index_add_(0, labels, (answers == labels).long())
        self.predicted.index_add_(0, answers, one)
        self.actual.index_add_(0, labels, one)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return balanced accuracy () and F1 (K,); the former ignores classes that never occur."""
        correct, both = self.correct.float(), (self.predicted + self.actual).float()
        recalls = torch.where(self.actual > 0, correct / self.actual, 0.0)
        occurs = (both > 0).float()
        balanced = (occurs * recalls / occurs.sum().clamp_min(1)).sum()
        return balanced, torch.where(both > 0, 2 * correct / both, 0.0)


class EpochMetrics(nn.Module):
    """Mean loss and accuracy; if ``detailed``, also balanced accuracy and F1 of each class.

    With more than ``LISTED`` classes there is only ``macro_f1``, the mean over all classes: a
    thousand charts, and as many columns of ``metrics.csv``, would not help.

    Args:
        class_names: K names, used in the names of the F1 scores.
        detailed: whether to keep the per-class numbers.
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
            self.details["classes"] = ClassCounts(classes)

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add one batch: its mean loss, logits (B, K or 1), labels (B,)."""
        answers = predict_classes(logits)
        # one value per image: with nan_strategy="disable" MeanMetric ignores the weights that
        # it is given (torchmetrics 1.9, `_cast_and_nan_check_input`)
        self.loss.update(loss.detach().expand(len(labels)))
        self.accuracy.update(answers, labels)
        for metric in self.details.values():
            metric.update(answers, labels)

    def compute(self) -> dict[str, float]:
        """Return ``loss`` (nats), ``accuracy`` and the other scores, all in [0, 1], then reset."""
        values = {"loss": float(self.loss.compute()), "accuracy": float(self.accuracy.compute())}
        if self.details:
            balanced, scores = self.details["classes"].compute()
            values["balanced_accuracy"] = float(balanced)
            if len(self.class_names) > LISTED:
                values["macro_f1"] = float(scores.mean())
            else:
                named = zip(self.class_names, scores.tolist(), strict=True)
                values |= {f"f1/{name}": score for name, score in named}
        for metric in (self.loss, self.accuracy, *self.details.values()):
            metric.reset()
        return values
