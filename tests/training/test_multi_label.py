"""Loss, metrics and thresholds of images with several classes, against other libraries."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchmetrics.classification import MultilabelAccuracy, MultilabelAveragePrecision

from convlens.core.errors import UserError
from convlens.training.details import describe_several
from convlens.training.multi_label import (
    MultiLabelMetrics,
    choose_thresholds,
    compute_average_precisions,
    compute_f1,
)
from convlens.training.named_metrics import build_metrics
from convlens.training.objective import Objective, average_predictions, count_outputs

NAMES = list("abcd")


def make_answers(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    present = torch.rand(count, classes, generator=random) < 0.4
    present[:2] = torch.tensor([[True], [False]])
    return torch.randn(count, classes, generator=random) + 1.5 * present, present


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_loss_is_the_mean_binary_cross_entropy(smoothing, dtype):
    logits, present = make_answers(12, 4)
    loss = Objective("multi_label", smoothing, None)(logits.to(dtype), present)
    shares = logits.to(dtype).double().sigmoid()
    targets = present.double() * (1 - smoothing) + smoothing / 2
    each = -(targets * shares.log() + (1 - targets) * (1 - shares).log())
    assert float(loss) == pytest.approx(float(each.mean()), rel=1e-5)
    assert count_outputs("multi_label", 4) == 4


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_mixture_costs_the_mixture_of_both_losses(smoothing):
    """As the authors of MixUp compute it: share · loss(own) + (1 - share) · loss(partner)."""
    (logits, own), (_, partner), share = make_answers(12, 4), make_answers(12, 4, seed=1), 0.3
    logits = logits.double()
    target = share * own.double() + (1 - share) * partner.double()
    objective = Objective("multi_label", smoothing, None)
    expected = share * objective(logits, own) + (1 - share) * objective(logits, partner)
    torch.testing.assert_close(objective(logits, target), expected)


def test_accuracy_of_mixtures_is_the_mixture_of_the_accuracies():
    (logits, own), (_, partner), share = make_answers(12, 4), make_answers(12, 4, seed=1), 0.3
    target = share * own.float() + (1 - share) * partner.float()
    metrics = MultiLabelMetrics(NAMES, detailed=False, soft=True)
    for part in (slice(0, 5), slice(5, 12)):
        metrics.update(torch.tensor(1.0), logits[part], target[part])
    found, each = metrics.compute()["accuracy"], []
    for truth in (own, partner):
        accuracy = MultilabelAccuracy(4, average="micro")
        accuracy.update(logits.sigmoid(), truth.long())
        each.append(float(accuracy.compute()))
    assert found == pytest.approx(share * each[0] + (1 - share) * each[1], abs=1e-6)
    # and of unmixed images the usual accuracy, in a phase without augmentation
    metrics.update(torch.tensor(1.0), logits, own)
    assert metrics.compute()["accuracy"] == pytest.approx(each[0], abs=1e-6)


@pytest.mark.parametrize("sizes", [50, 7])
def test_metrics_are_those_of_torchmetrics(sizes):
    logits, present = make_answers(50, 4)
    metrics = MultiLabelMetrics(NAMES, detailed=True)
    objective = Objective("multi_label", 0.0, None)
    accuracy = MultilabelAccuracy(4, average="micro")
    precision = MultilabelAveragePrecision(4, average=None)
    for part, truth in zip(logits.split(sizes), present.split(sizes), strict=True):
        metrics.update(objective(part, truth), part, truth)
        accuracy.update(part.sigmoid(), truth.long())
        precision.update(part.sigmoid(), truth.long())
    found = metrics.compute()
    wanted = F.binary_cross_entropy_with_logits(logits, present.float())
    assert found["loss"] == pytest.approx(float(wanted), rel=1e-6)
    assert found["accuracy"] == pytest.approx(float(accuracy.compute()))
    each = precision.compute().tolist()
    assert [found[f"ap/{name}"] for name in NAMES] == pytest.approx(each, abs=1e-6)
    assert found["mean_ap"] == pytest.approx(np.mean(each), abs=1e-6)


def test_average_precision_and_f1_are_those_of_scikit_learn():
    reference = pytest.importorskip("sklearn.metrics", reason="comes with the extra `proofs`")
    logits, present = make_answers(80, 5)
    scores, truth = logits.sigmoid().mul(20).round().div(20).numpy(), present.numpy()  # with ties
    for k, found in enumerate(compute_average_precisions(scores, truth)):
        assert found == pytest.approx(reference.average_precision_score(truth[:, k], scores[:, k]))
    predicted = scores >= 0.6
    wanted = reference.f1_score(truth, predicted, average=None)
    assert compute_f1(predicted, truth) == pytest.approx(wanted)


def best_f1(scores: np.ndarray, truth: np.ndarray) -> float:
    """The highest F1 of all thresholds, by trying each."""
    edges = [*np.unique(scores), 2.0]
    return max(float(compute_f1((scores >= e)[:, None], truth[:, None])[0]) for e in edges)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("steps", [3, 20, 0])
def test_thresholds_give_the_best_f1_of_all(seed, steps):
    logits, present = make_answers(30, 4, seed)
    scores, truth = logits.sigmoid().numpy(), present.numpy()
    if steps:
        scores = (np.round(scores * steps) / steps).astype(np.float32)
    chosen = choose_thresholds(scores, truth)
    assert chosen.dtype == np.float32 and ((chosen > 0) & (chosen <= 1)).all()
    found = compute_f1(scores >= chosen, truth)
    wanted = [best_f1(scores[:, k], truth[:, k]) for k in range(4)]
    assert found == pytest.approx(wanted, abs=1e-12)


def test_a_threshold_is_between_two_images():
    scores = np.float32([[0.9], [0.8], [0.2]])
    assert choose_thresholds(scores, np.array([[True], [True], [False]])) == pytest.approx([0.5])
    assert choose_thresholds(scores, np.array([[True], [False], [False]])) == pytest.approx([0.85])


def test_neighbouring_numbers_are_told_apart():
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    (chosen,) = choose_thresholds(np.array([[high], [low]]), np.array([[True], [False]]))
    assert low < chosen <= high


@pytest.mark.parametrize("scores", [[[0.9], [0.1]], [[np.nan], [0.1]]])
def test_without_anything_to_choose_by_the_threshold_is_a_half(scores):
    truth = np.array([[False], [np.isnan(scores[0][0])]])
    assert choose_thresholds(np.float32(scores), truth).tolist() == [0.5]


def test_given_thresholds_are_used_and_not_chosen():
    logits, present = make_answers(40, 4)
    given = torch.tensor([0.2, 0.5, 0.7, 0.9])
    metrics = MultiLabelMetrics(NAMES, detailed=True)
    metrics.given = given
    metrics.update(torch.tensor(0.1), logits, present)
    found = metrics.compute()
    wanted = compute_f1(logits.sigmoid().numpy() >= given.numpy(), present.numpy())
    assert [found[f"f1/{name}"] for name in NAMES] == pytest.approx(wanted)
    assert metrics.thresholds.tolist() == given.tolist()


def test_classes_without_images_are_left_out():
    logits, present = make_answers(40, 4)
    present[:, 2] = False
    metrics = MultiLabelMetrics(NAMES, detailed=True)
    metrics.update(torch.tensor(0.1), logits, present)
    found = metrics.compute()
    assert "ap/c" not in found and "f1/c" not in found and found["mean_ap"] > 0
    assert found["mean_ap"] == pytest.approx(np.mean([found[f"ap/{n}"] for n in "abd"]))


def test_metrics_start_anew():
    logits, present = make_answers(40, 4)
    metrics, fresh = (MultiLabelMetrics(NAMES, detailed=True, named=["auroc"]) for _ in range(2))
    metrics.update(torch.tensor(0.3), -logits, present)
    metrics.compute()
    for each in (metrics, fresh):
        each.update(torch.tensor(0.2), logits, present)
    assert metrics.compute() == fresh.compute()


def test_very_many_classes_have_means_only():
    names = [f"c{n}" for n in range(101)]
    logits, present = make_answers(20, 101)
    metrics = MultiLabelMetrics(names, detailed=True)
    metrics.update(torch.tensor(0.3), logits, present)
    assert set(metrics.compute()) == {"loss", "accuracy", "mean_ap", "macro_f1"}


def test_named_metrics_are_the_multilabel_ones():
    reference = pytest.importorskip("sklearn.metrics", reason="comes with the extra `proofs`")
    logits, present = make_answers(60, 4)
    metrics = MultiLabelMetrics(
        NAMES, detailed=True, named=["auroc", "hamming_distance", "ranking_loss"]
    )
    metrics.update(torch.tensor(0.3), logits, present)
    found, scores = metrics.compute(), logits.sigmoid().numpy()
    truth = present.numpy()
    assert found["auroc"] == pytest.approx(reference.roc_auc_score(truth, scores), abs=1e-5)
    wrong = reference.hamming_loss(truth, scores > 0.5)
    assert found["hamming_distance"] == pytest.approx(wrong, abs=1e-6)
    loss = reference.label_ranking_loss(truth, scores)
    assert found["ranking_loss"] == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("name", ["top5", "cohen_kappa", "confusion_matrix", "mean_ap"])
def test_what_several_classes_do_not_have_is_refused(name):
    with pytest.raises(UserError, match=name):
        build_metrics([name], 8, several=True)


def test_details_are_those_of_scikit_learn():
    reference = pytest.importorskip("sklearn.metrics", reason="comes with the extra `proofs`")
    logits, present = make_answers(70, 4)
    scores, truth = logits.sigmoid().numpy(), present.numpy()
    thresholds = np.float32([0.3, 0.5, 0.6, 0.8])
    found = describe_several(scores, truth, thresholds, NAMES)
    predicted = scores >= thresholds
    wanted = {
        "accuracy": 1 - reference.hamming_loss(truth, scores > 0.5),
        "exact_match": reference.accuracy_score(truth, predicted),
        "macro_f1": reference.f1_score(truth, predicted, average="macro"),
        "mean_ap": reference.average_precision_score(truth, scores, average="macro"),
        "auroc": reference.roc_auc_score(truth, scores, average="macro"),
    }
    assert {name: each["value"] for name, each in found["scores"].items()} == pytest.approx(wanted)
    for each in found["scores"].values():
        assert each["low"] <= each["value"] <= each["high"]
    for k, name in enumerate(NAMES):
        row = found["classes"][name]
        assert row["support"] == truth[:, k].sum()
        assert row["threshold"] == pytest.approx(thresholds[k])
        assert row["recall"] == pytest.approx(reference.recall_score(truth[:, k], predicted[:, k]))
        assert row["precision"] == pytest.approx(
            reference.precision_score(truth[:, k], predicted[:, k])
        )
    json.dumps(found, allow_nan=False)


def test_two_predictions_are_averaged_class_by_class():
    logits = list(4 * torch.randn(2, 6, 3, dtype=torch.float64))
    mean = average_predictions(logits, several=True).sigmoid()
    expected = torch.stack(logits).sigmoid().mean(dim=0)
    torch.testing.assert_close(mean.double(), expected, rtol=1e-5, atol=1e-7)
