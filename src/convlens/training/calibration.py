"""Calibration: do probabilities mean what they say?

A network is calibrated if, of the images to which it gives a class the probability p, the fraction
p has that class. One number, fitted on validation, repairs what one number can: the temperature
(Guo et al. 2017, arXiv:1706.04599). The predicted class never changes.

Legend: N images, K classes, M bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

KEY = "convlens_calibration"  # of a checkpoint
BINS = 15
FEWEST = 100  # validation images from which a temperature is fitted
PRECISIONS = (0.9, 0.95, 0.99)  # of the table of coverage
_LOWEST, _HIGHEST = 0.05, 20.0  # temperatures
_ARRAYS = {"raw": np.float64, "confidences": np.float64, "correct": bool}


class Bins(NamedTuple):
    """Images by confidence, in M bins of equal width; NaN in empty ones.

    Attributes:
        counts: (M,) number of images.
        confidences: (M,) mean confidence, in [0, 1].
        accuracies: (M,) fraction of correct predictions, in [0, 1].
    """

    counts: np.ndarray
    confidences: np.ndarray
    accuracies: np.ndarray


@dataclass(frozen=True, eq=False)
class Calibration:
    """How sure a network with one class per image is of N images, and how often it is right.

    Attributes:
        temperature: the logits are divided by it; 1.0 if validation does not determine it.
        raw: (N,) float64, the probability of the predicted class without the temperature.
        confidences: (N,) float64, the same with the temperature, descending.
        correct: (N,) bool, whether that class is the true one.
    """

    temperature: float
    raw: np.ndarray
    confidences: np.ndarray
    correct: np.ndarray

    @cached_property
    def ece(self) -> float:
        """Expected calibration error without the temperature, in [0, 1]."""
        return compute_ece(self.raw, self.correct)

    @cached_property
    def ece_calibrated(self) -> float:
        """Expected calibration error with the temperature, in [0, 1]."""
        return compute_ece(self.confidences, self.correct)

    def to_state(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        arrays = {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}
        return {"temperature": self.temperature, **arrays}

    def find_threshold(self, precision: float) -> float | None:
        """Return the lowest confidence from which on predictions have a precision.

        Args:
            precision: wanted fraction of correct predictions, in (0, 1).

        Returns:
            The confidence of an image; None if no threshold gives the precision with at least
            ``count_needed(precision)`` images.
        """
        coverage, precisions = trace_coverage(self.confidences, self.correct)
        counts = np.rint(coverage * len(self.correct)).astype(int)
        enough = (precisions >= precision - 1e-12) & (counts >= count_needed(precision))
        count = counts[enough].max(initial=0)
        return float(self.confidences[count - 1]) if count else None

    def answer(self, threshold: float) -> tuple[float, float | None]:
        """Return which fraction of the images has the threshold, and the precision of these.

        The precision is None if no image has it.
        """
        answered = self.confidences >= threshold
        precision = float(self.correct[answered].mean()) if answered.any() else None
        return float(answered.mean()), precision


def describe_calibration(validation: Calibration, test: Calibration) -> dict[str, Any]:
    """Return the numbers for a summary.

    Args:
        validation: the images to which the temperature was fitted.
        test: images to which nothing was fitted, with the same temperature.

    Returns:
        ``temperature``, ``images`` (of validation), ``ece`` and ``ece_calibrated`` of validation,
        ``test_ece`` and ``test_ece_calibrated``, and ``abstain``: by precision, the ``threshold``
        that validation supports, with its ``coverage`` there, and ``test_coverage`` and
        ``test_precision``; or None if validation supports none. Without a temperature,
        ``uncalibrated`` says why.
    """
    found = {
        "temperature": validation.temperature, "images": len(validation.correct),
        "ece": validation.ece, "ece_calibrated": validation.ece_calibrated,
        "test_ece": test.ece, "test_ece_calibrated": test.ece_calibrated,
        "abstain": {f"{each:g}": _describe_answers(validation, test, each) for each in PRECISIONS},
    }  # fmt: skip
    if validation.temperature == 1:
        few = len(validation.correct) < FEWEST
        found["uncalibrated"] = (
            f"it takes {FEWEST} validation images, there are {len(validation.correct)}"
            if few else "validation does not determine it"
        )  # fmt: skip
    return found


def _describe_answers(
    validation: Calibration, test: Calibration, precision: float
) -> dict[str, float | None] | None:
    threshold = validation.find_threshold(precision)
    if threshold is None:
        return None
    coverage, reached = test.answer(threshold)
    return {
        "threshold": threshold, "coverage": validation.answer(threshold)[0],
        "test_coverage": coverage, "test_precision": reached,
    }  # fmt: skip


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


def bin_confidences(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Bins:
    """Sort images by confidence into M bins of equal width, those of ``compute_ece``.

    Args:
        confidences: (N,) in [0, 1].
        correct: (N,) bool.
        bins: M.
    """
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    place = np.searchsorted(edges, confidences, side="right")
    counts = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights=each, minlength=bins) for each in (confidences, correct))
    with np.errstate(invalid="ignore"):
        return Bins(counts, *(each / counts for each in sums))


def compute_ece(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error: sum over bins of n/N · |accuracy - mean confidence|.

    Naeini et al. 2015, by torchmetrics. It jumps where a confidence passes the edge of a bin.

    Args:
        confidences: (N,) in [0, 1], at least one.
        correct: (N,) bool.
        bins: of equal width.
    """
    found = binary_calibration_error(
        torch.from_numpy(confidences), torch.from_numpy(correct).long(), n_bins=bins
    )
    return float(found)


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
    """Fit the temperature to validation images, and measure both with and without it.

    Args:
        logits: (N, K), or (N, 1) for a one-logit network.
        labels: (N,) true classes.

    Returns:
        None without images, or if a logit is not finite.
    """
    return measure(logits, labels, fit_temperature(logits, labels) or 1.0)


def measure(logits: Tensor, labels: Tensor, temperature: float) -> Calibration | None:
    """Measure how sure a network is, with and without a given temperature, and how often right.

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
    raw, own = ((logits / each).softmax(1).amax(1).numpy() for each in (1.0, temperature))
    order = np.argsort(-own, kind="stable")
    return Calibration(temperature, raw[order], own[order], correct[order])


def read_calibration(checkpoint: Mapping[str, Any]) -> Calibration | None:
    """Return the calibration that a checkpoint holds; None in one of an earlier version.

    Raises:
        ValueError: it is damaged.
    """
    state = checkpoint.get(KEY)
    if state is None:
        return None
    try:
        temperature = float(state["temperature"])
        arrays = {name: state[name].numpy().astype(kind) for name, kind in _ARRAYS.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"its calibration is damaged: {error}") from error
    shapes = {each.shape for each in arrays.values()}
    sound = len(shapes) == 1 and arrays["correct"].ndim == 1 and len(arrays["correct"])
    sound = sound and 0 < temperature < math.inf
    if not sound or not all(((arrays[key] >= 0) & (arrays[key] <= 1)).all() for key in _ARRAYS):
        raise ValueError("its calibration is damaged")
    return Calibration(temperature, **arrays)
