"""The results of a test in detail: scores with confidence intervals, and a row for each class.

Intervals are percentile bootstrap intervals (Efron, Annals of Statistics 1979): the test images are
drawn again with replacement, 1,000 times, and 95 % of the scores of these samples are inside the
interval. They describe the uncertainty that comes from the choice of test images, not from the
training.

Legend: N images, K classes, R samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from convlens.training.ranking import rank_quality

SAMPLES = 1000
LEVEL = 0.95
TOP = 5
_LARGEST = 3e8  # N · K · SAMPLES: with more, ranking scores have no interval (it takes minutes)
_CHUNK = 4_000_000  # weights that are in memory at a time

Details = dict[str, Any]
"""``images`` N, ``samples``, ``scores`` (by name: ``value`` and, where known, ``low`` and ``high``)
and ``classes`` (by name: ``support`` and scores in [0, 1]); undefined numbers are missing."""


def describe_answers(
    probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> Details:
    """Return the scores of one class per image.

    ``auroc`` and ``average_precision`` take each class against the rest, and average over the
    classes that occur. ``top5_accuracy`` is computed for more than five classes.

    Args:
        probabilities: (N, K) in [0, 1].
        labels: (N,) true classes.
        class_names: K names.
    """
    count, classes = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    is_true = labels[:, None] == np.arange(classes)
    in_top = _find_in_top(probabilities, labels) if classes > TOP else None
    samples: list[dict[str, np.ndarray]] = []
    for weights in _draw_weights(count):
        tables = _count(weights, predicted, labels, classes)
        found = _score_counts(*tables)
        if in_top is not None:
            found[f"top{TOP}_accuracy"] = (weights * in_top).sum(axis=1) / count
        if not samples:
            rows = _describe_classes(*(table[0] for table in tables), class_names)
        samples.append(found)
    scores = {key: np.concatenate([each[key] for each in samples]) for key in samples[0]}
    scores |= rank_classes(probabilities, is_true, rows, class_names)
    return summarise_samples(scores, rows, count)


def rank_classes(
    probabilities: np.ndarray,
    is_true: np.ndarray,
    rows: dict[str, dict],
    class_names: Sequence[str],
) -> dict[str, np.ndarray]:
    """Return ``auroc`` and ``average_precision``, averaged over classes, for all samples.

    The classes' own values are added to ``rows``. Without finite probabilities there are none.

    Args:
        probabilities: (N, K).
        is_true: (N, K) bool.
        rows: by class, changed in place.
        class_names: K names.
    """
    count, classes = probabilities.shape
    if not np.isfinite(probabilities).all():
        return {}
    samples = SAMPLES if count * classes * SAMPLES <= _LARGEST else 0
    parts = []
    for weights in _draw_weights(count, samples):
        ranked = [rank_quality(probabilities[:, k], is_true[:, k], weights) for k in range(classes)]
        parts.append(np.array(ranked))  # (K, 2, r)
    values = np.concatenate(parts, axis=2)
    names = ("auroc", "average_precision")
    for k, name in enumerate(class_names):
        own = zip(names, values[k, :, 0], strict=True)
        rows[name] |= {score: float(value) for score, value in own if np.isfinite(value)}
    return {name: _mean_defined(values[:, place]) for place, name in enumerate(names)}


def summarise_samples(scores: dict[str, np.ndarray], rows: dict[str, dict], count: int) -> Details:
    """Return the details.

    Args:
        scores: by name: the value on the N images, followed by those of the samples, if any.
        rows: by class.
        count: N.
    """
    found = {}
    for name, values in scores.items():
        if not np.isfinite(values[0]):
            continue
        found[name] = {"value": float(values[0])}
        if len(values) > 1:
            edges = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
            low, high = np.nanpercentile(values[1:], edges)
            found[name] |= {"low": float(low), "high": float(high)}
    return {"images": count, "samples": SAMPLES, "scores": found, "classes": rows}


def _draw_weights(count: int, samples: int = SAMPLES) -> Iterator[np.ndarray]:
    """Yield how often each image is drawn, (r, N) int64; the first row of all is ones."""
    random, size = np.random.default_rng(0), max(1, _CHUNK // count)
    rows = [np.ones(count, np.int64)]
    for _ in range(samples):
        if len(rows) == size:
            yield np.stack(rows)
            rows = []
        rows.append(np.bincount(random.integers(count, size=count), minlength=count))
    yield np.stack(rows)


def _count(
    weights: np.ndarray, predicted: np.ndarray, labels: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how many images of each class are correct, predicted and actual, (r, K) each."""
    correct = weights * (predicted == labels)

    def tally(numbers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(numbers, row, minlength=classes) for row in rows])

    return tally(labels, correct), tally(predicted, weights), tally(labels, weights)


def _score_counts(
    correct: np.ndarray, predicted: np.ndarray, actual: np.ndarray
) -> dict[str, np.ndarray]:
    """Return accuracy, balanced accuracy, macro F1 and Cohen's kappa from counts (r, K)."""
    total, both = actual.sum(axis=1), predicted + actual
    accuracy = correct.sum(axis=1) / total
    chance = (predicted * actual).sum(axis=1) / total**2
    with np.errstate(divide="ignore", invalid="ignore"):
        recalls = np.where(actual > 0, correct / actual, 0.0)
        f1 = np.where(both > 0, 2 * correct / both, 0.0)
        # Cohen, Educational and Psychological Measurement 1960
        kappa = (accuracy - chance) / (1 - chance)
    occurs = both > 0
    balanced = (recalls * occurs).sum(axis=1) / occurs.sum(axis=1)
    return {
        "accuracy": accuracy, "balanced_accuracy": balanced, "macro_f1": f1.mean(axis=1),
        "cohen_kappa": kappa,
    }  # fmt: skip


def _describe_classes(
    correct: np.ndarray, predicted: np.ndarray, actual: np.ndarray, class_names: Sequence[str]
) -> dict[str, dict]:
    """Return support, precision, recall and F1 of each class from counts (K,)."""
    rows: dict[str, dict] = {}
    for name, right, answers, support in zip(
        class_names, correct.tolist(), predicted.tolist(), actual.tolist(), strict=True
    ):
        rows[name] = {"support": int(support)}
        if answers:
            rows[name]["precision"] = right / answers
        if support:
            rows[name]["recall"] = right / support
        if answers + support:
            rows[name]["f1"] = 2 * right / (answers + support)
    return rows


def _find_in_top(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (N,) whether the true class is among the ``TOP`` most probable ones.

    Of equally probable classes, the first ones are counted as more probable.
    """
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    before = (probabilities > own) | ((probabilities == own) & earlier)
    return before.sum(axis=1) < TOP


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis of the numbers that are not NaN; NaN if there are none.

    Args:
        values: (K, R).
    """
    defined = ~np.isnan(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(defined, values, 0.0).sum(axis=0) / defined.sum(axis=0)


def describe_several(
    probabilities: np.ndarray, present: np.ndarray, thresholds: np.ndarray,
    class_names: Sequence[str],
) -> Details:  # fmt: skip
    """Return the scores of images with several classes.

    ``accuracy`` is the fraction of the N · K decisions that are right at a probability of 0.5,
    ``exact_match`` the fraction of images with all decisions right at the thresholds, and
    ``mean_ap`` the mean average precision. Means leave out classes without images.

    Args:
        probabilities: (N, K) in [0, 1].
        present: (N, K) bool, the classes of each image.
        thresholds: (K,), the probability from which each class counts as predicted.
        class_names: K names.
    """
    count = len(present)
    predicted = probabilities >= thresholds
    right = ((probabilities > 0.5) == present).mean(axis=1)
    exact = (predicted == present).all(axis=1)
    samples: list[dict[str, np.ndarray]] = []
    for weights in _draw_weights(count):
        correct, answers, actual = (
            weights @ values.astype(np.int64)
            for values in (predicted & present, predicted, present)
        )
        if not samples:
            rows = _describe_classes(correct[0], answers[0], actual[0], class_names)
        with np.errstate(divide="ignore", invalid="ignore"):
            f1 = np.where(actual > 0, 2 * correct / (answers + actual), np.nan)
        samples.append(
            {
                "accuracy": weights @ right / count, "exact_match": weights @ exact / count,
                "macro_f1": _mean_defined(f1.T),
            }
        )  # fmt: skip
    for name, threshold in zip(class_names, thresholds.tolist(), strict=True):
        rows[name] = {"support": rows[name].pop("support"), "threshold": threshold, **rows[name]}
    scores = {key: np.concatenate([each[key] for each in samples]) for key in samples[0]}
    ranked = rank_classes(probabilities, present, rows, class_names)
    if ranked:
        scores |= {"mean_ap": ranked["average_precision"], "auroc": ranked["auroc"]}
    return summarise_samples(scores, rows, count)
