"""The numbers of an epoch, kept by torchmetrics (right over several processes too)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from convlens.training.objective import predict_classes

LISTED = 100  # classes, up to which each has a scalar of its own


class ClassCounts(Metric):
    """Balanced accuracy and F1 of each class, in [0, 1], from three counts a class.

    The same numbers as torchmetrics' MulticlassAccuracy (macro) and MulticlassF1Score (none). With
    deterministic algorithms those compare every answer of a batch with K · K numbers, almost a
    second a batch for a thousand classes (torchmetrics 1.9, ``_bincount``); this takes what
    counting takes.

    Args:
        classes: K.
    """

    full_state_update = False

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes
        for name in ("right", "said", "there"):
            self.add_state(name, torch.zeros(classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, answers: Tensor, labels: Tensor) -> None:
        """Add predicted and true classes, int64 (B,) both."""

        def count(values: Tensor) -> Tensor:
            return torch.bincount(values, minlength=self.classes)

        self.right += count(labels[answers == labels])
        self.said += count(answers)
        self.there += count(labels)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Balanced accuracy () and F1 (K,); classes that never occur do not count in the first."""
        right, both = self.right.float(), (self.said + self.there).float()
        recalls = torch.where(self.there > 0, right / self.there, 0.0)
        occurs = (both > 0).float()
        balanced = (occurs * recalls / occurs.sum().clamp_min(1)).sum()
        return balanced, torch.where(both > 0, 2 * right / both, 0.0)


class EpochMetrics(nn.Module):
    """Mean loss and accuracy; with ``detailed`` balanced accuracy and F1 of each class too.

    With more than ``LISTED`` classes there is one F1, ``macro_f1``, the mean over all of them: a
    thousand charts would be no help, and every epoch's row of ``metrics.csv`` as long.

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
            self.details["classes"] = ClassCounts(classes)

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add one batch: its mean loss, logits (B, K or 1), labels (B,)."""
        answers = predict_classes(logits)
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
