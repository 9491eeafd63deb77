"""Metrics of an epoch, accumulated by torchmetrics, correct for several processes too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from convlens.explain.grad_cam import probabilities
from convlens.training.named_metrics import build_metrics
from convlens.training.objective import predict_classes

LISTED = 100  # largest number of classes that get a scalar each


class MeanLoss(Metric):
    """Mean loss over images, which torchmetrics' MeanMetric gives too, in twice the time.

    The states have its names, because checkpoints of a stopped epoch hold them.
    """

    full_state_update = False

    def __init__(self):
        super().__init__()
        for name in ("mean_value", "weight"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, count: int) -> None:
        """Add the mean loss of ``count`` images."""
        # one value per image, as MeanMetric adds them
        each = loss.to(self.mean_value.dtype).expand(count).contiguous()
        self.mean_value.add_(each.sum())
        self.weight.add_(count)

    def compute(self) -> Tensor:
        """Return the mean, in nats; NaN if any loss was."""
        return self.mean_value / self.weight


class Accuracy(Metric):
    """Fraction of correct predictions, as torchmetrics' MulticlassAccuracy (micro) gives it.

    The states have its names: ``tp`` counts the correct predictions, ``fn`` the wrong ones.
    """

    full_state_update = False

    def __init__(self):
        super().__init__()
        for name in ("tp", "fn"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, answers: Tensor, labels: Tensor) -> None:
        """Add predicted and true classes, both int64 (B,); or decisions, both bool (B, K)."""
        correct = (answers == labels).sum()
        self.tp.add_(correct)
        self.fn.add_(labels.numel() - correct)

    def compute(self) -> Tensor:
        """Return the fraction, in [0, 1]; 0 without images."""
        return self.tp.float() / (self.tp + self.fn).float().clamp_min(1)


class SoftAccuracy(Metric):
    """Mean share of the predicted class in the target, in [0, 1], for soft labels.

    It is the accuracy that the authors of MixUp report. Of classes it is the fraction of correct
    predictions.
    """

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("share", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, answers: Tensor, targets: Tensor) -> None:
        """Add predicted classes int64 (B,), and classes (B,) or their shares (B, K)."""
        soft = targets.dim() == 2
        shares = targets.gather(1, answers[:, None]) if soft else answers == targets
        self.share.add_(shares.sum())
        self.count.add_(len(targets))

    def compute(self) -> Tensor:
        """Return the mean; 0 without images."""
        return self.share / self.count.clamp_min(1)


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
        soft: whether labels may be soft; then the accuracy is ``SoftAccuracy``.
        named: further metrics, see ``convlens.training.named_metrics``.

    Raises:
        UserError: a named metric does not exist, or is not a single number.
    """

    def __init__(
        self, class_names: list[str], *, detailed: bool, soft: bool = False,
        named: Sequence[str] = (),
    ):  # fmt: skip
        super().__init__()
        classes = len(class_names)
        self.class_names = class_names
        self.loss, self.accuracy = MeanLoss(), SoftAccuracy() if soft else Accuracy()
        self.details = nn.ModuleDict()
        if detailed:
            self.details["classes"] = ClassCounts(classes)
        self.named = nn.ModuleDict(build_metrics(named, classes))

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add one batch: its mean loss, logits (B, K or 1), labels (B,) or shares (B, K)."""
        answers = predict_classes(logits)
        self.loss.update(loss.detach(), len(labels))
        self.accuracy.update(answers, labels)
        for metric in self.details.values():
            metric.update(answers, labels)
        if self.named:
            shares = probabilities(logits.detach().float())
            for metric in self.named.values():
                metric.update(shares, labels)

    def compute(self) -> dict[str, float]:
        """Return ``loss`` (nats), ``accuracy`` and the other scores, then reset."""
        values = {"loss": float(self.loss.compute()), "accuracy": float(self.accuracy.compute())}
        if self.details:
            balanced, scores = self.details["classes"].compute()
            values["balanced_accuracy"] = float(balanced)
            if len(self.class_names) > LISTED:
                values["macro_f1"] = float(scores.mean())
            else:
                named = zip(self.class_names, scores.tolist(), strict=True)
                values |= {f"f1/{name}": score for name, score in named}
        values |= {name: float(metric.compute()) for name, metric in self.named.items()}
        for metric in (self.loss, self.accuracy, *self.details.values(), *self.named.values()):
            metric.reset()
        return values
