"""How well scores rank images: area under the ROC curve and average precision, with weights.

With whole numbers as weights, an image counts as often as its weight says; the bootstrap draws
such weights, and images need to be sorted only once for all of its samples.

Legend: N images, R rows of weights.
"""

from __future__ import annotations

import numpy as np


def rank_quality(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return AUROC and average precision of scores, for each row of weights.

    AUROC is the probability that a positive image has a higher score than a negative one; equal
    scores count half (Fawcett, Pattern Recognition Letters 2006). Average precision is the sum over
    the distinct scores, from the highest down, of the increase in recall times the precision.

    Args:
        scores: (N,) finite numbers, higher for positive.
        positive: (N,) bool.
        weights: (R, N), at least 0.

    Returns:
        Two arrays (R,) in [0, 1]; NaN where no weight is on positive images (or, for AUROC, on
        negative ones).

    >>> auroc, precision = rank_quality(
    ...     np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]), np.ones((1, 4))
    ... )
    >>> float(auroc[0]), round(float(precision[0]), 4)
    (0.75, 0.8333)
    """
    order = np.argsort(-scores, kind="stable")
    # equal scores enter together: a threshold cannot separate them
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    weights = np.asarray(weights, dtype=np.float64)[:, order]
    true = _accumulate(weights * positive[order], ends)
    false = _accumulate(weights * ~positive[order], ends)
    positives, negatives = true[:, -1], false[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc = np.trapezoid(true, false, axis=1) / (positives * negatives)
        precision = np.nan_to_num(true / (true + false))[:, 1:]
        average = (np.diff(true, axis=1) * precision).sum(axis=1) / positives
    return auroc, average


def _accumulate(weights: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return sums of the weights up to each of ``ends``, with a first column of zeros."""
    sums = np.cumsum(weights, axis=1)[:, ends]
    return np.concatenate([np.zeros((len(sums), 1)), sums], axis=1)
