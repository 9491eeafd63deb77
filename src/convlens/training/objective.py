"""Loss functions and predictions, for K logits and for one."""

from __future__ import annotations

import math

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

    Targets are classes, or soft labels: the shares of the classes in each image, as MixUp and
    CutMix make them. One-hot shares give the loss of their class.

    - ``cross_entropy`` of K logits.
    - ``binary``: binary cross-entropy of one logit, which is that of class 1.
    - ``focal``: cross-entropy in which each class's term is multiplied by (1 - p)^gamma, so that
      images that are predicted well hardly count (Lin et al. 2017, arXiv:1708.02002, for softmax).
    - ``multi_label``: the mean binary cross-entropy of K logits, for images with several classes.
    - ``mse``: squared error of the probabilities, mean over the classes (Brier 1950, over K).

    Args:
        loss: one of them.
        label_smoothing: fraction of the target that is spread evenly over the classes, in [0, 1)
            (Szegedy et al. 2016).
        weights: K weights or None; the mean is weighted, as in ``torch.nn.CrossEntropyLoss``.
        gamma: exponent of ``focal``; unused otherwise.
    """

    def __init__(
        self, loss: str, label_smoothing: float, weights: list[float] | None, gamma: float = 0.0
    ):
        super().__init__()
        self.loss, self.label_smoothing, self.gamma = loss, label_smoothing, gamma
        weight = None if weights is None else torch.tensor(weights)
        self.register_buffer("weights", weight, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean loss.

        Args:
            logits: (B, K) or (B, 1).
            targets: classes (B,) int64, or shares of the classes (B, K), which sum to 1; for
                ``multi_label`` bool (B, K), or shares in [0, 1], each class's own.

        Returns:
            A scalar: nats, for ``mse`` in [0, 1].
        """
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        if self.loss == "multi_label":
            smoothed = targets.to(logits.dtype) * (1 - self.label_smoothing)
            return F.binary_cross_entropy_with_logits(logits, smoothed + self.label_smoothing / 2)
        if targets.dim() == 2 or self.loss in ("focal", "mse"):
            return self._compute_softly(logits, targets)
        labels, smoothing = targets, self.label_smoothing
        if self.loss == "cross_entropy" and self.weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        if self.loss == "cross_entropy":
            total = F.cross_entropy(
                logits, labels, self.weights, reduction="sum", label_smoothing=smoothing
            )
            return total / self.divisor(labels)
        smoothed = labels.to(logits.dtype) * (1 - smoothing) + smoothing / 2
        each = F.binary_cross_entropy_with_logits(logits[:, 0], smoothed, reduction="none")
        if self.weights is None:
            return each.mean()
        return (each * self.weights[labels]).sum() / self.divisor(labels)

    def _compute_softly(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean loss of any target, as shares of the classes."""
        shares = targets
        if targets.dim() == 1:
            classes = torch.arange(logits.shape[1], device=targets.device)
            shares = targets[:, None] == classes
        shares = shares.to(logits.dtype)
        smoothed = shares * (1 - self.label_smoothing) + self.label_smoothing / shares.shape[1]
        weights = torch.ones_like(shares[0]) if self.weights is None else self.weights
        if self.loss in ("cross_entropy", "focal"):
            logs = logits.log_softmax(dim=1)
            terms = -smoothed * logs * weights
            if self.loss == "focal":
                least = torch.finfo(logs.dtype).eps  # at 0, a power below 1 has no gradient
                terms = terms * (-logs.expm1()).clamp_min(least) ** self.gamma
            return terms.sum() / self.divisor(targets)
        if self.loss == "mse":
            each = (logits.softmax(dim=1) - smoothed).square().mean(dim=1)
        else:
            each = F.binary_cross_entropy_with_logits(
                logits[:, 0], smoothed[:, 1], reduction="none"
            )
        return (each * (shares @ weights.to(shares))).sum() / self.divisor(targets)

    def divisor(self, targets: Tensor) -> Tensor | int:
        """Return the divisor of the mean over images: their number or total weight.

        It is 1 if the total weight is 0; the mean is 0 then. Mixing does not change the total of a
        global batch, because every image is the partner of one other.

        Args:
            targets: as in ``forward``.
        """
        if self.weights is None:
            return len(targets)
        shared = targets.dim() == 2
        each = targets.to(self.weights) @ self.weights if shared else self.weights[targets]
        weight = each.sum()
        return torch.where(weight > 0, weight, 1.0)


def select_targets(batch: dict) -> Tensor:
    """Return what a batch is trained on: soft labels (B, K) if it has any, else its labels."""
    return batch.get("target", batch["label"])


def predict_classes(logits: Tensor) -> Tensor:
    """Return the predicted classes (B,) for logits (B, K) or (B, 1)."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)


def average_predictions(logits: list[Tensor], *, several: bool = False) -> Tensor:
    """Return logits of the mean probabilities of several predictions.

    Args:
        logits: of each prediction, (B, K) or (B, 1).
        several: whether the K probabilities are independent, because images may have several
            classes.
    """
    stacked = torch.stack(logits).float()
    if several or stacked.shape[2] == 1:
        yes, no = (F.logsigmoid(sign * stacked).logsumexp(dim=0) for sign in (1, -1))
        return yes - no
    return stacked.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(logits))
