"""Loss functions and predictions, for K logits and for one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convlens.core.errors import UserError


def count_outputs(loss: str, classes: int) -> int:
    """Return the number of logits of the head: K, or one for ``binary``.

    Args:
        loss: ``training.loss``.
        classes: K.

    Raises:
        UserError: ``binary`` without exactly two classes.
    """
    if loss == "binary" and classes != 2:
        raise UserError(
            f"training.loss=binary needs two classes, but the data has {classes}; "
            f"try training.loss=cross_entropy"
        )
    return 1 if loss == "binary" else classes


def compute_class_weights(value: str | list | None, counts: list[int]) -> list[float] | None:
    """Return the weight of each class in the loss, or None for equal weights.

    Args:
        value: ``training.class_weights``. ``balanced`` is N / (K · N_k): every class has the same
            total weight.
        counts: training images of each class.

    Raises:
        UserError: ``value`` is neither null, ``balanced``, nor a list of K numbers of at least 0.
    """
    if value is None:
        return None
    if value == "balanced":
        return [sum(counts) / (len(counts) * count) for count in counts]
    if isinstance(value, list) and len(value) == len(counts) and all(w >= 0 for w in value):
        return [float(weight) for weight in value]
    raise UserError(
        f"training.class_weights={value}: choose null, balanced, or a list of {len(counts)} numbers"
    )


class Objective(torch.nn.Module):
    """The training loss.

    Args:
        loss: ``cross_entropy`` of K logits; ``binary``: binary cross-entropy of one logit, which
            is that of class 1; or ``multi_label``: the mean binary cross-entropy of K logits.
        label_smoothing: fraction of the target that is spread evenly over the classes, in [0, 1)
            (Szegedy et al. 2016).
        weights: K weights or None; the mean is weighted, as in ``torch.nn.CrossEntropyLoss``.
    """

    def __init__(self, loss: str, label_smoothing: float, weights: list[float] | None):
        super().__init__()
        self.loss, self.label_smoothing = loss, label_smoothing
        weight = None if weights is None else torch.tensor(weights)
        self.register_buffer("weights", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean loss in nats from logits (B, K) or (B, 1) and labels (B,).

        For ``multi_label``, labels are bool (B, K).
        """
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        smoothing = self.label_smoothing
        if self.loss == "cross_entropy" and self.weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        if self.loss == "cross_entropy":
            total = F.cross_entropy(
                logits, labels, self.weights, reduction="sum", label_smoothing=smoothing
            )
            return total / self.divisor(labels)
        targets = labels.to(logits.dtype)
        targets = targets * (1 - smoothing) + smoothing / 2
        if self.loss == "multi_label":
            return F.binary_cross_entropy_with_logits(logits, targets)
        each = F.binary_cross_entropy_with_logits(logits[:, 0], targets, reduction="none")
        if self.weights is None:
            return each.mean()
        return (each * self.weights[labels]).sum() / self.divisor(labels)

    def divisor(self, labels: Tensor) -> Tensor | int:
        """Return the divisor of the mean over images with labels (B,): number or total weight.

        It is 1 if the total weight is 0; the mean is 0 then.
        """
        if self.weights is None:
            return len(labels)
        weight = self.weights[labels].sum()
        return torch.where(weight > 0, weight, 1.0)


def predict_classes(logits: Tensor) -> Tensor:
    """Return the predicted classes (B,) for logits (B, K) or (B, 1)."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)
