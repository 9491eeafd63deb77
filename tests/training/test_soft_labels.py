"""Losses of soft labels, focal loss and squared error against torch, torchvision and by hand."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from convlens.training.metrics import EpochMetrics
from convlens.training.objective import Objective, average_predictions, predict_classes

LOSSES = ("cross_entropy", "binary", "focal", "mse")
WEIGHTS = (None, [0.5, 2.0, 0.0, 1.0])
SMOOTHING = (0.0, 0.2)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def logits_for(loss: str, count: int, classes: int, rng) -> torch.Tensor:
    columns = 1 if loss == "binary" else classes
    return 3 * torch.randn(count, columns, generator=rng, dtype=torch.float64)


def objective(loss: str, smoothing: float, weights, classes: int) -> Objective:
    return Objective(loss, smoothing, weights and weights[:classes], 2.0).double()


@pytest.mark.parametrize(
    ("loss", "smoothing", "weights"), list(product(LOSSES, SMOOTHING, WEIGHTS))
)
def test_one_hot_shares_give_the_loss_of_their_class(rng, loss, smoothing, weights):
    classes = 2 if loss == "binary" else 4
    logits = logits_for(loss, 12, classes, rng)
    labels = torch.arange(12) % classes
    shares = F.one_hot(labels, classes).float()
    each = objective(loss, smoothing, weights, classes)
    torch.testing.assert_close(each(logits, shares), each(logits, labels), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        torch.as_tensor(each.divisor(shares)).double(),
        torch.as_tensor(each.divisor(labels)).double(),
    )


@pytest.mark.parametrize(("loss", "weights"), list(product(LOSSES[:3], WEIGHTS[:1])))
def test_a_mixture_costs_the_mixture_of_both_losses(rng, loss, weights):
    """As the authors of MixUp compute it: share · loss(own) + (1 - share) · loss(partner)."""
    classes, share = (2 if loss == "binary" else 4), 0.3
    logits = logits_for(loss, 12, classes, rng)
    own, partner = torch.arange(12) % classes, torch.arange(12) // 3 % classes
    hot = [F.one_hot(each, classes).double() for each in (own, partner)]
    target = share * hot[0] + (1 - share) * hot[1]
    for smoothing in SMOOTHING:
        each = objective(loss, smoothing, weights, classes)
        expected = share * each(logits, own) + (1 - share) * each(logits, partner)
        torch.testing.assert_close(each(logits, target), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_cross_entropy_of_shares_is_torchs(rng, smoothing):
    logits = logits_for("cross_entropy", 9, 5, rng)
    target = torch.rand(9, 5, generator=rng, dtype=torch.float64).softmax(1)
    for weights in (None, torch.tensor([0.2, 1.0, 3.0, 0.5, 1.5], dtype=torch.float64)):
        ours = Objective("cross_entropy", smoothing, None if weights is None else weights.tolist())
        theirs = F.cross_entropy(
            logits, target, weights, reduction="sum", label_smoothing=smoothing
        )
        total = len(logits) if weights is None else (target @ weights).sum()  # torch divides by B
        torch.testing.assert_close(ours.double()(logits, target), theirs / total, rtol=1e-6, atol=0)


def test_focal_loss_of_two_classes_is_torchvisions(rng):
    """Two logits (0, z) are the same model as one logit z of the second class."""
    z, labels = logits_for("binary", 20, 2, rng), torch.arange(20) % 2
    both = torch.cat([torch.zeros_like(z), z], dim=1)
    for gamma in (0.0, 0.5, 2.0, 5.0):
        ours = Objective("focal", 0.0, None, gamma)(both, labels)
        theirs = sigmoid_focal_loss(z[:, 0], labels.double(), alpha=-1, gamma=gamma)
        torch.testing.assert_close(ours, theirs.mean(), rtol=1e-9, atol=1e-12)


def test_focal_loss_by_hand(rng):
    logits, labels = logits_for("focal", 8, 3, rng), torch.arange(8) % 3
    weights = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    p = logits.softmax(1)[torch.arange(8), labels]
    terms = weights[labels] * (1 - p) ** 2 * -p.log()
    ours = Objective("focal", 0.0, weights.tolist(), 2.0).double()(logits, labels)
    torch.testing.assert_close(ours, terms.sum() / weights[labels].sum())
    without = Objective("focal", 0.1, None, 0.0)(logits, labels)
    torch.testing.assert_close(without, F.cross_entropy(logits, labels, label_smoothing=0.1))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_certain_predictions_have_finite_gradients(gamma):
    logits = torch.tensor([[60.0, 0.0], [0.0, 60.0], [200.0, 0.0]], requires_grad=True)
    Objective("focal", 0.0, None, gamma)(logits, torch.tensor([0, 0, 0])).backward()
    assert torch.isfinite(logits.grad).all()


def test_squared_error_is_that_of_the_probabilities(rng):
    logits, labels = logits_for("mse", 10, 4, rng), torch.arange(10) % 4
    hot = F.one_hot(labels, 4).double()
    ours = Objective("mse", 0.0, None)(logits, labels)
    torch.testing.assert_close(ours, F.mse_loss(logits.softmax(1), hot))
    smooth = Objective("mse", 0.2, None)(logits, labels)
    torch.testing.assert_close(smooth, F.mse_loss(logits.softmax(1), hot * 0.8 + 0.05))
    soft = 0.6 * hot + 0.4 * hot.roll(1, 0)
    torch.testing.assert_close(
        Objective("mse", 0.0, None)(logits, soft), F.mse_loss(logits.softmax(1), soft)
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_float32(rng, loss):
    logits = logits_for(loss, 6, 2, rng)
    target = torch.rand(6, 2, generator=rng).softmax(1)
    each = Objective(loss, 0.1, [1.0, 2.0], 2.0)
    half = each(logits.bfloat16(), target)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, each(logits.bfloat16().float(), target))


def test_accuracy_of_soft_labels_is_the_share_of_the_predicted_class(rng):
    logits = torch.randn(11, 3, generator=rng)
    own, partner, share = torch.arange(11) % 3, torch.arange(11) // 4, 0.7
    target = share * F.one_hot(own, 3) + (1 - share) * F.one_hot(partner, 3)
    metrics = EpochMetrics(list("abc"), detailed=False, soft=True)
    for part in (slice(0, 4), slice(4, 11)):
        metrics.update(torch.tensor(1.0), logits[part], target[part])
    answers = predict_classes(logits)
    expected = share * (answers == own).float() + (1 - share) * (answers == partner).float()
    assert metrics.compute()["accuracy"] == pytest.approx(float(expected.mean()), abs=1e-6)
    # and of classes the usual accuracy, in a phase without augmentation
    usual = EpochMetrics(list("abc"), detailed=False)
    for each in (metrics, usual):
        each.update(torch.tensor(1.0), logits, own)
    assert metrics.compute() == usual.compute()


def test_averaged_predictions_are_the_mean_of_the_probabilities(rng):
    some = [torch.randn(7, 4, generator=rng) * 5 for _ in range(3)]
    mean = torch.stack([each.softmax(1) for each in some]).mean(0)
    torch.testing.assert_close(average_predictions(some).softmax(1), mean)
    single = [torch.randn(7, 1, generator=rng) * 5 for _ in range(3)]
    mean = torch.stack([each.sigmoid() for each in single]).mean(0)
    torch.testing.assert_close(average_predictions(single).sigmoid(), mean)
    sure = [torch.tensor([[200.0]]), torch.tensor([[150.0]])]
    assert torch.isfinite(average_predictions(sure)).all()
