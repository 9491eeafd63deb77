"""Calibration: do probabilities mean what they say?

A network is calibrated if, of the images to which it gives a class the probability p, the fraction
p has that class. After every validation, from the logits that it computed, one number is fitted
that repairs what one number can: the temperature (Guo et al. 2017, arXiv:1706.04599). The predicted
class never changes.

Legend: N images, K classes, M bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

KEY = "convlens_calibration"  # of a checkpoint
BINS = 15
FEWEST = 100  # validation images from which a temperature is fitted
NUMBERS = 2**24  # logits kept from one pass: 64 MiB
PRECISIONS = (0.9, 0.95, 0.99)  # of the table of coverage
_LOWEST, _HIGHEST = 0.05, 20.0  # temperatures


class LogitRecord(Metric):
    """Keeps logits, true classes and rows of the images of a pass, in all processes.

    At most ``numbers`` logits are kept. Whenever there are more, a fixed half of the rows is left
    out, by a hash, so that neither the order of the images nor the number of processes matters.
    """

    full_state_update = False

    def __init__(self, numbers: int = NUMBERS):
        super().__init__()
        self.numbers, self._halvings = numbers, 0
        for name in ("logits", "labels", "rows"):
            self.add_state(name, [], dist_reduce_fx="cat")
        self.add_state("halvings", torch.tensor(0), dist_reduce_fx="max")

    def update(self, logits: Tensor, labels: Tensor, rows: Tensor) -> None:
        """Add logits (B, K) or (B, 1), with labels and rows, both int64 (B,)."""
        part = logits.detach().float(), labels, rows.to(logits.device)
        if self._halvings:
            part = _thin(part, self._halvings)
        for kept, new in zip((self.logits, self.labels, self.rows), part, strict=True):
            kept.append(new)
        if sum(each.numel() for each in self.logits) > self.numbers:
            self._halvings += 1
            self.halvings.fill_(self._halvings)
            joined = map(torch.cat, (self.logits, self.labels, self.rows))
            thinned = _thin(tuple(joined), self._halvings)
            self.logits, self.labels, self.rows = ([each] for each in thinned)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return logits (N, K or 1) and labels on the CPU, in the order of rows, each row once."""
        parts = (self.logits, self.labels, self.rows)
        if not len(self.rows):
            return torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64)
        parts = tuple((torch.cat(part) if isinstance(part, list) else part).cpu() for part in parts)
        first = torch.from_numpy(np.unique(parts[2].numpy(), return_index=True)[1])
        parts, halvings = tuple(part[first] for part in parts), int(self.halvings)
        parts = _thin(parts, halvings)
        while parts[0].numel() > self.numbers:
            parts = _thin(parts, halvings := halvings + 1)
        return parts[0], parts[1]

    def reset(self) -> None:
        """Forget the pass."""
        super().reset()
        self._halvings = 0


def _thin(part: tuple[Tensor, ...], halvings: int) -> tuple[Tensor, ...]:
    """Keep about one of 2^halvings rows (the last tensor), whatever pattern the classes have."""
    kept = part[-1] * 2654435761 % 2**32 < 2**32 >> halvings  # Knuth's multiplicative hash
    return tuple(each[kept] for each in part)


@dataclass(frozen=True)
class Calibration:
    """What validation says about the probabilities of a network with one class per image.

    Attributes:
        temperature: the logits are divided by it; 1.0 if validation does not determine it.
        ece: expected calibration error, in [0, 1], without the temperature.
        ece_calibrated: the same with the temperature, on the images to which it was fitted.
        confidences: (N,) float64, the calibrated probability of the predicted class, descending.
        correct: (N,) bool, whether that class is the true one.
        gap: mean confidence without the temperature minus accuracy, in [-1, 1].
        noise: standard error of ``gap``, if the images are a random sample.
    """

    temperature: float
    ece: float
    ece_calibrated: float
    confidences: np.ndarray
    correct: np.ndarray
    gap: float
    noise: float

    def to_state(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        arrays = {
            name: torch.from_numpy(getattr(self, name)) for name in ("confidences", "correct")
        }
        numbers = ("temperature", "ece", "ece_calibrated", "gap", "noise")
        return {name: getattr(self, name) for name in numbers} | arrays

    def describe(self) -> dict[str, Any]:
        """Return the numbers for a summary, with the coverage at some precisions or None."""
        return {
            "images": len(self.correct), "temperature": self.temperature, "ece": self.ece,
            "ece_calibrated": self.ece_calibrated,
            "coverage": {f"{each:g}": self.find_coverage(each) for each in PRECISIONS},
        }  # fmt: skip

    def find_threshold(self, precision: float) -> float | None:
        """Return the lowest confidence from which on predictions have a precision on validation.

        Args:
            precision: wanted fraction of correct predictions, in (0, 1).

        Returns:
            A confidence of a validation image; None if no threshold gives the precision with at
            least ``count_needed(precision)`` images.
        """
        count = self._count_answered(precision)
        return float(self.confidences[count - 1]) if count else None

    def find_coverage(self, precision: float) -> float | None:
        """Return the fraction of validation images from the threshold on; None without one."""
        count = self._count_answered(precision)
        return count / len(self.correct) if count else None

    def _count_answered(self, precision: float) -> int:
        """Return the largest number of most confident images with the precision, or 0."""
        if not len(self.correct):
            return 0
        coverage, precisions = trace_coverage(self.confidences, self.correct)
        counts = np.rint(coverage * len(self.correct)).astype(int)
        enough = (precisions >= precision - 1e-12) & (counts >= count_needed(precision))
        return int(counts[enough].max(initial=0))


def count_needed(precision: float) -> int:
    """Return how many answered images can support a precision.

    By the rule of three (Hanley and Lippman-Hand 1983), n images without an error show, with 95 %
    confidence, that errors are rarer than 3 / n: fewer images cannot support the precision.

    >>> count_needed(0.99), count_needed(0.9)
    (300, 30)
    """
    return math.ceil(3 / (1 - precision) - 1e-6)


def trace_coverage(confidences: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the fraction answered and its precision for each possible threshold, ascending.

    Args:
        confidences: (N,) in descending order; equal ones are on the same side of any threshold.
        correct: (N,) bool.

    >>> correct = np.array([True, True, False])
    >>> coverage, precision = trace_coverage(np.array([0.9, 0.8, 0.8]), correct)
    >>> coverage.round(2).tolist(), precision.round(2).tolist()
    ([0.33, 1.0], [1.0, 0.67])
    """
    ends = np.flatnonzero(np.append(np.diff(confidences) != 0, True))
    return (ends + 1) / len(correct), np.cumsum(correct)[ends] / (ends + 1)


def bin_confidences(
    confidences: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return count, mean confidence and accuracy of M bins of equal width; NaN in empty ones.

    Args:
        confidences: (N,) in [0, 1].
        correct: (N,) bool, or the fraction of cases that occur.
        bins: M.
    """
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    place = np.searchsorted(edges, confidences, side="right")
    counts = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights=each, minlength=bins) for each in (confidences, correct))
    with np.errstate(invalid="ignore"):
        means, fractions = (each / counts for each in sums)
    return counts, means, fractions


def compute_ece(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error: sum over bins of n/N · |accuracy - mean confidence|.

    Naeini et al. 2015; for one class per image it equals torchmetrics' MulticlassCalibrationError.

    Args:
        confidences: (N,) in [0, 1].
        correct: (N,) bool.
        bins: of equal width.
    """
    counts, means, fractions = bin_confidences(confidences, correct, bins)
    full = counts > 0
    return float((counts[full] * np.abs(means - fractions)[full]).sum() / max(1, len(correct)))


def expand_logits(logits: Tensor) -> Tensor:
    """Return logits (N, K), float64; one logit z becomes the two logits 0 and z."""
    logits = logits.double()
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """Return the temperature with the lowest mean negative log-likelihood.

    The likelihood is convex in the inverse temperature, so the zero of its slope, found by Newton's
    method inside an interval that halves where Newton's step would leave it, is the only minimum.

    Args:
        logits: (N, K), or (N, 1) for a one-logit network.
        labels: (N,) true classes.

    Returns:
        A number between 0.05 and 20; None if there are fewer than ``FEWEST`` images, a logit is not
        finite, or the minimum is outside (if all images are predicted correctly, there is none).
    """
    logits = expand_logits(logits)
    if len(labels) < FEWEST or not bool(torch.isfinite(logits).all()):
        return None
    true = logits.gather(1, labels[:, None].long())[:, 0].mean()

    def slopes(inverse: float) -> tuple[float, float]:
        shares = (logits * inverse).softmax(1)
        means = (shares * logits).sum(1, keepdim=True)
        spread = (shares * (logits - means) ** 2).sum(1).mean()
        return float(means.mean() - true), float(spread)

    low, high = 1 / _HIGHEST, 1 / _LOWEST
    if slopes(low)[0] >= 0 or slopes(high)[0] <= 0:
        return None
    inverse = 1.0
    for _ in range(100):
        slope, curvature = slopes(inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else low
        following = step if low < step < high else (low + high) / 2
        if abs(following - inverse) <= 1e-12 * inverse:
            break
        inverse = following
    return 1 / inverse


def calibrate(logits: Tensor, labels: Tensor) -> Calibration | None:
    """Return the calibration of a network from its logits on validation images.

    Args:
        logits: (N, K), or (N, 1) for a one-logit network.
        labels: (N,) true classes.

    Returns:
        None without images, or if a logit is not finite.
    """
    if not len(labels) or not bool(torch.isfinite(logits).all()):
        return None
    temperature = fit_temperature(logits, labels) or 1.0
    logits = expand_logits(logits)
    correct = (logits.argmax(1) == labels).numpy()
    raw, own = ((logits / each).softmax(1).amax(1).numpy() for each in (1.0, temperature))
    order = np.argsort(-own, kind="stable")
    return Calibration(
        temperature, compute_ece(raw, correct), compute_ece(own, correct), own[order],
        correct[order], float(raw.mean() - correct.mean()),
        float((raw - correct).std() / math.sqrt(len(correct))),
    )  # fmt: skip


def measure_ece(logits: Tensor, labels: Tensor, temperature: float) -> tuple[float, float] | None:
    """Return the calibration error of logits without and with a temperature, in [0, 1].

    Args:
        logits: (N, K), or (N, 1) for a one-logit network.
        labels: (N,) true classes.
        temperature: above 0.

    Returns:
        None without images, or if a logit is not finite.
    """
    if not len(labels) or not bool(torch.isfinite(logits).all()):
        return None
    logits = expand_logits(logits)
    correct = (logits.argmax(1) == labels).numpy()
    before, after = (
        compute_ece((logits / each).softmax(1).amax(1).numpy(), correct)
        for each in (1.0, temperature)
    )
    return before, after


def read_calibration(checkpoint: Mapping[str, Any]) -> Calibration | None:
    """Return the calibration that a checkpoint holds; None in one of an earlier version.

    Raises:
        ValueError: it is damaged.
    """
    state = checkpoint.get(KEY)
    if state is None:
        return None
    try:
        arrays = {
            name: state[name].numpy().astype(kind)
            for name, kind in (("confidences", np.float64), ("correct", bool))
        }
        numbers = {
            name: float(state[name])
            for name in ("temperature", "ece", "ece_calibrated", "gap", "noise")
        }
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"its calibration is damaged: {error}") from error
    shapes = {each.shape for each in arrays.values()}
    finite = all(map(math.isfinite, numbers.values())) and numbers["temperature"] > 0
    if len(shapes) != 1 or arrays["correct"].ndim != 1 or not finite:
        raise ValueError("its calibration is damaged")
    return Calibration(**numbers, **arrays)


class Calibrator(nn.Module):
    """Calibrates a network after every validation, and keeps the result in its checkpoints.

    Args:
        active: False, for several classes per image, keeps the temperature 1.0.

    Attributes:
        calibration: of the last validation, or of the checkpoint; None if there is none.
        test_ece: calibration error of the last test, without and with the temperature, or None.
    """

    def __init__(self, active: bool):
        super().__init__()
        self.record = LogitRecord() if active else None
        self.calibration: Calibration | None = None
        self.test_ece: tuple[float, float] | None = None

    @property
    def temperature(self) -> float:
        """The logits are divided by it to get probabilities; 1.0 without a calibration."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    def take(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Record a batch of a pass, and return its logits.

        A batch without ``row`` is not recorded: its images could not be told apart.
        """
        if self.record is not None and "row" in batch:
            self.record.update(logits, batch["label"], batch["row"])
        return logits

    def end_validation(self) -> dict[str, float]:
        """Calibrate by the recorded pass; return ``val/ece``, the error without temperature."""
        if self.record is None:
            return {}
        self.calibration = calibrate(*self.record.compute())
        self.record.reset()
        return {} if self.calibration is None else {"val/ece": self.calibration.ece}

    def end_test(self) -> None:
        """Measure the calibration error of the recorded pass."""
        if self.record is not None:
            self.test_ece = measure_ece(*self.record.compute(), self.temperature)
            self.record.reset()

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Put the calibration into a checkpoint."""
        if self.calibration is not None:
            checkpoint[KEY] = self.calibration.to_state()

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the calibration of the checkpoint whose weights the network has.

        Raises:
            ValueError: it is damaged.
        """
        self.calibration = read_calibration(checkpoint)
