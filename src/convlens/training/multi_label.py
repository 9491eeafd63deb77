"""Metrics of images with several classes: a decision for each image and class.

Legend: N images, K classes, B images of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from convlens.training.metrics import LISTED, Accuracy, MeanLoss
from convlens.training.named_metrics import build_metrics
from convlens.training.ranking import rank_quality


class ScoreRecord(Metric):
    """Keeps probabilities and true classes of all images of a pass."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        for name in ("scores", "present"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, present: Tensor) -> None:
        """Add probabilities, float (B, K), and true classes, bool (B, K)."""
        self.scores.append(scores)
        self.present.append(present)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return both for all images, (N, K) each, in any order."""
        parts = (self.scores, self.present)
        return tuple(torch.cat(part) if isinstance(part, list) else part for part in parts)


class SoftDecisions(Metric):
    """Mean agreement of decisions and shares of classes, in [0, 1], for images that are mixed.

    A class that is predicted agrees by its share, another one by the rest. Without mixing it is the
    fraction of correct decisions.
    """

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("share", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, decisions: Tensor, targets: Tensor) -> None:
        """Add decisions, bool (B, K), and classes, bool (B, K), or their shares."""
        shares = targets.float()
        self.share.add_(torch.where(decisions, shares, 1 - shares).sum())
        self.count.add_(targets.numel())

    def compute(self) -> Tensor:
        """Return the mean; 0 without images."""
        return self.share / self.count.clamp_min(1)


class MultiLabelMetrics(nn.Module):
    """Mean loss and accuracy; if ``detailed``, also average precision and F1 of each class.

    ``accuracy`` is the fraction of the N · K decisions that are right at a probability of 0.5.
    ``mean_ap`` is the mean over classes of the average precision ``ap/<class>``, and ``macro_f1``
    that of ``f1/<class>``; classes without images are left out of both means. F1 is measured at the
    ``given`` thresholds, or else at those that maximise it on the same images.

    With more than ``LISTED`` classes only the means are listed.

    Args:
        class_names: K names.
        detailed: whether to keep the probabilities.
        soft: whether targets may be shares of the classes, because images are mixed.
        named: further metrics, see ``convlens.training.named_metrics``.

    Attributes:
        given: thresholds (K,), or None to choose them.
        thresholds: (K,) float32 on the CPU, used by the last ``compute`` with details.

    Raises:
        UserError: a named metric does not exist, or is not a single number.
    """

    def __init__(
        self, class_names: Sequence[str], *, detailed: bool, soft: bool = False,
        named: Sequence[str] = (),
    ):  # fmt: skip
        super().__init__()
        self.class_names = list(class_names)
        self.loss, self.accuracy = MeanLoss(), SoftDecisions() if soft else Accuracy()
        self.record = ScoreRecord() if detailed else None
        self.named = nn.ModuleDict(build_metrics(named, len(class_names), several=True))
        self.given: Tensor | None = None
        self.thresholds = torch.full((len(class_names),), 0.5)

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add one batch: its mean loss, logits (B, K), labels bool (B, K), or shares if soft."""
        self.loss.update(loss.detach(), len(labels))
        self.accuracy.update(logits > 0, labels)
        if self.record is not None:
            scores = logits.detach().float().sigmoid()
            self.record.update(scores, labels)
            for metric in self.named.values():
                metric.update(scores, labels.long())

    def compute(self) -> dict[str, float]:
        """Return ``loss`` (nats), ``accuracy`` and the other scores, then reset."""
        values = {"loss": float(self.loss.compute()), "accuracy": float(self.accuracy.compute())}
        if self.record is not None:
            scores, present = (each.cpu().numpy() for each in self.record.compute())
            if self.given is None:
                self.thresholds = torch.from_numpy(choose_thresholds(scores, present))
            else:
                self.thresholds = self.given.cpu()
            values |= self._score(scores, present)
            self.record.reset()
        values |= {name: float(metric.compute()) for name, metric in self.named.items()}
        for metric in (self.loss, self.accuracy, *self.named.values()):
            metric.reset()
        return values

    def _score(self, scores: np.ndarray, present: np.ndarray) -> dict[str, float]:
        precisions = compute_average_precisions(scores, present)
        f1 = compute_f1(scores >= self.thresholds.numpy(), present)
        known = present.any(axis=0)
        if not known.any():
            return {}
        values = {"mean_ap": float(precisions[known].mean()), "macro_f1": float(f1[known].mean())}
        if len(self.class_names) <= LISTED:
            for prefix, numbers in (("ap", precisions), ("f1", f1)):
                named = zip(self.class_names, numbers.tolist(), known, strict=True)
                values |= {f"{prefix}/{name}": value for name, value, is_known in named if is_known}
        return values


def compute_average_precisions(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return the average precision of each class, (K,) in [0, 1]; NaN without images.

    Args:
        scores: (N, K) probabilities; one that is not finite counts as the lowest.
        present: (N, K) bool.
    """
    scores, once = np.nan_to_num(scores, nan=-1.0), np.ones((1, len(scores)))
    columns = zip(scores.T, present.T, strict=True)
    return np.array([rank_quality(own, true, once)[1][0] for own, true in columns])


def compute_f1(predicted: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return F1 of each class, (K,) in [0, 1]; 0 if a class neither occurs nor is predicted.

    Args:
        predicted: (N, K) bool.
        present: (N, K) bool.
    """
    both = predicted.sum(axis=0) + present.sum(axis=0)
    return 2 * (predicted & present).sum(axis=0) / np.maximum(both, 1)


def choose_thresholds(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return for each class the probability from which on F1 is highest, (K,) float32.

    It is halfway between two images' probabilities; of equally good ones the highest. A class
    without images, or with probabilities that are not finite, gets 0.5.

    Args:
        scores: (N, K) probabilities, float32.
        present: (N, K) bool.

    >>> scores, present = np.float32([[0.9], [0.4], [0.2]]), np.array([[True], [True], [False]])
    >>> choose_thresholds(scores, present).round(3).tolist()
    [0.3]
    """
    chosen = [_choose(own, true) for own, true in zip(scores.T, present.T, strict=True)]
    return np.array(chosen, np.float32)


def _choose(scores: np.ndarray, positive: np.ndarray) -> np.float32:
    if not positive.any() or not np.isfinite(scores).all():
        return np.float32(0.5)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # equal probabilities are on the same side of any threshold
    ends = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
    found = np.cumsum(positive[order])[ends]
    best = int(np.argmax(2 * found / (ends + 1 + positive.sum())))
    lowest = np.float32(ranked[ends[best]])
    below = np.float32(ranked[ends[best + 1]] if best + 1 < len(ends) else 0)
    middle = np.float32((float(lowest) + float(below)) / 2)
    return middle if below < middle else lowest  # neighbouring numbers have no middle
