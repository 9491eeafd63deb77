"""Scores of a test with intervals: against scikit-learn, closed forms and the plain bootstrap."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from convlens.training.details import SAMPLES, describe_answers
from convlens.training.ranking import rank_quality


def make_scores(count: int, seed: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    positive = random.random(count) < 0.4
    scores = random.normal(size=count) + positive
    return (np.round(scores, 0) if ties else scores), positive


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [2, 3, 17, 200])
def test_ranking_is_that_of_scikit_learn_with_weights(count, ties):
    reference = pytest.importorskip("sklearn.metrics", reason="comes with the extra `proofs`")
    random = np.random.default_rng(count)
    scores, positive = make_scores(count, count, ties=ties)
    positive[:2] = [True, False]
    weights = random.integers(0, 4, (5, count))
    weights[:, :2] += 1  # both kinds have weight
    auroc, average = rank_quality(scores, positive, weights)
    for row, found, precision in zip(weights, auroc, average, strict=True):
        drawn = np.repeat(np.arange(count), row)
        assert found == pytest.approx(
            reference.roc_auc_score(positive, scores, sample_weight=row), abs=1e-12
        )
        assert found == pytest.approx(reference.roc_auc_score(positive[drawn], scores[drawn]))
        assert precision == pytest.approx(
            reference.average_precision_score(positive[drawn], scores[drawn]), abs=1e-12
        )


def test_auroc_is_the_fraction_of_pairs_in_the_right_order():
    scores, positive = make_scores(60, 1, ties=True)
    pairs = scores[positive][:, None] - scores[~positive]
    wanted = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert rank_quality(scores, positive, np.ones((1, 60)))[0] == pytest.approx([wanted])


@pytest.mark.parametrize("kind", [True, False])
def test_ranking_of_one_kind_is_undefined(kind):
    auroc, average = rank_quality(np.arange(4.0), np.full(4, kind), np.ones((1, 4)))
    assert np.isnan(auroc[0]) and np.isnan(average[0]) == (not kind)


def make_answers(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    shares = random.random((count, classes))
    shares[np.arange(count), labels] += 0.4
    return shares / shares.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize(("count", "classes"), [(150, 5), (90, 8), (40, 2)])
def test_scores_are_those_of_scikit_learn(count, classes):
    reference = pytest.importorskip("sklearn.metrics", reason="comes with the extra `proofs`")
    shares, labels = make_answers(count, classes)
    names = [f"c{n}" for n in range(classes)]
    found = describe_answers(shares, labels, names)
    predicted, one_hot = shares.argmax(axis=1), np.eye(classes)[labels]
    wanted = {
        "accuracy": reference.accuracy_score(labels, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
        "macro_f1": reference.f1_score(labels, predicted, average="macro"),
        "cohen_kappa": reference.cohen_kappa_score(labels, predicted),
        "auroc": reference.roc_auc_score(one_hot, shares, average="macro"),
        "average_precision": reference.average_precision_score(one_hot, shares, average="macro"),
    }
    if classes > 5:
        wanted["top5_accuracy"] = reference.top_k_accuracy_score(labels, shares, k=5)
    assert {name: each["value"] for name, each in found["scores"].items()} == pytest.approx(wanted)
    table = reference.classification_report(
        labels, predicted, target_names=names, output_dict=True, zero_division=0
    )
    for name in names:
        row = found["classes"][name]
        theirs = {"support": table[name]["support"], "precision": table[name]["precision"],
                  "recall": table[name]["recall"], "f1": table[name]["f1-score"]}  # fmt: skip
        assert {key: row[key] for key in theirs} == pytest.approx(theirs)
    assert found["images"] == count
    json.dumps(found, allow_nan=False)


def test_intervals_are_those_of_drawing_images_again():
    """The scores of 150 plain samples lie in the interval about as often as it says."""
    shares, labels = make_answers(80, 4)
    names = list("abcd")
    found = describe_answers(shares, labels, names)["scores"]
    random = np.random.default_rng(5)
    values = {name: [] for name in found}
    for _ in range(150):
        drawn = random.integers(80, size=80)
        again = describe_values(shares[drawn], labels[drawn], names)
        for name in values:
            values[name].append(again[name])
    for name, score in found.items():
        low, high = np.percentile(values[name], [2.5, 97.5])
        width = score["high"] - score["low"]
        assert score["low"] <= score["value"] <= score["high"]
        assert score["low"] == pytest.approx(low, abs=0.2 * width), name
        assert score["high"] == pytest.approx(high, abs=0.2 * width), name


def describe_values(shares, labels, names) -> dict[str, float]:
    """Scores without samples, from scikit-learn."""
    reference = pytest.importorskip("sklearn.metrics", reason="comes with the extra `proofs`")
    predicted, one_hot = shares.argmax(axis=1), np.eye(len(names))[labels]
    return {
        "accuracy": reference.accuracy_score(labels, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
        "macro_f1": reference.f1_score(labels, predicted, average="macro"),
        "cohen_kappa": reference.cohen_kappa_score(labels, predicted),
        "auroc": reference.roc_auc_score(one_hot, shares, average="macro"),
        "average_precision": reference.average_precision_score(one_hot, shares, average="macro"),
    }


@pytest.mark.parametrize(("count", "right"), [(100, 90), (400, 300)])
def test_the_interval_of_the_accuracy_is_about_the_normal_one(count, right):
    """A closed form: p ± 1.96 · sqrt(p (1 - p) / N)."""
    labels = np.zeros(count, int)
    shares = np.tile([0.9, 0.1], (count, 1))
    shares[right:] = [0.1, 0.9]
    labels[: count // 2] = 0
    score = describe_answers(shares, labels, ["a", "b"])["scores"]["accuracy"]
    half = 1.96 * math.sqrt(right / count * (1 - right / count) / count)
    assert score["value"] == right / count
    assert score["low"] == pytest.approx(right / count - half, abs=0.2 * half)
    assert score["high"] == pytest.approx(right / count + half, abs=0.2 * half)


def test_what_is_not_defined_is_missing():
    shares = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]])
    found = describe_answers(shares, np.array([0, 0]), ["a", "b", "c"])
    assert found["classes"]["a"] == {
        "support": 2, "precision": 1.0, "recall": 1.0, "f1": 1.0, "average_precision": 1.0
    }  # fmt: skip
    assert found["classes"]["b"] == {"support": 0}
    assert "auroc" not in found["scores"] and "cohen_kappa" not in found["scores"]
    assert found["scores"]["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    json.dumps(found, allow_nan=False)


def test_probabilities_that_are_not_numbers_rank_nothing():
    shares, labels = make_answers(20, 3)
    shares[4] = np.nan
    found = describe_answers(shares, labels, list("abc"))["scores"]
    assert "accuracy" in found and "auroc" not in found


def test_very_many_classes_rank_without_an_interval():
    count, classes = 700, 500
    shares, labels = make_answers(count, classes)
    assert count * classes * SAMPLES > 3e8
    found = describe_answers(shares, labels, [f"c{n}" for n in range(classes)])["scores"]
    assert "low" in found["accuracy"] and "low" in found["top5_accuracy"]
    assert "low" not in found["auroc"]


def test_the_same_answers_have_the_same_intervals_and_no_random_state_moves():
    shares, labels = make_answers(30, 3)
    before = np.random.get_state()[1].tolist()
    first, second = (describe_answers(shares, labels, list("abc")) for _ in range(2))
    assert first == second
    assert np.random.get_state()[1].tolist() == before
