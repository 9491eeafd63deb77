"""Losses, weights, learning rates and optimizers against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from convlens.config.schema import OptimizerConfig, SchedulerConfig
from convlens.core.errors import UserError
from convlens.training.objective import (
    Objective,
    compute_class_weights,
    count_outputs,
    predict_classes,
)
from convlens.training.optimizers import build_optimizer, compute_rate_factor


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def test_binary_equals_two_logits_at_plus_and_minus_half(rng):
    """One logit z is the same model as the two logits (0, z)."""
    logits, labels = torch.randn(16, 1, generator=rng), torch.arange(16) % 2
    both = torch.cat([torch.zeros(16, 1), logits], dim=1)
    for smoothing in (0.0, 0.1):
        for weights in (None, [0.5, 2.0]):
            one = Objective("binary", smoothing, weights)(logits, labels)
            if weights is None:
                two = Objective("cross_entropy", smoothing, weights)(both, labels)
                torch.testing.assert_close(one, two)
            else:
                each = F.cross_entropy(both, labels, reduction="none", label_smoothing=smoothing)
                weight = torch.tensor(weights)[labels]
                torch.testing.assert_close(one, (each * weight).sum() / weight.sum())
    assert torch.equal(predict_classes(logits), predict_classes(both))


def test_label_smoothing_by_hand():
    logits = torch.tensor([[2.0, 0.0, 0.0]])
    p = logits.softmax(1)[0]
    target = torch.tensor([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])
    expected = -(target * p.log()).sum()
    loss = Objective("cross_entropy", 0.1, None)(logits, torch.tensor([0]))
    torch.testing.assert_close(loss, expected)


def test_balanced_weights_weigh_every_class_the_same():
    counts = [10, 30, 60]
    weights = compute_class_weights("balanced", counts)
    assert [w * c for w, c in zip(weights, counts, strict=True)] == pytest.approx([100 / 3] * 3)
    assert compute_class_weights(None, counts) is None
    assert compute_class_weights([1, 2, 3], counts) == [1.0, 2.0, 3.0]
    for wrong in ("even", [1, 2], [1, 2, -1]):
        with pytest.raises(UserError, match=r"training\.class_weights"):
            compute_class_weights(wrong, counts)


def test_outputs():
    assert (count_outputs("binary", 2), count_outputs("cross_entropy", 2)) == (1, 2)
    with pytest.raises(UserError, match="two classes"):
        count_outputs("binary", 3)


def scheduler(name: str, **keys) -> SchedulerConfig:
    """Also one of a name that no config may have."""
    known = {"warmup_epochs": 0.0, "floor": 0.0, "every": 10, "factor": 0.1, **keys}
    return SchedulerConfig.model_construct(name=name, **known)


def test_rates():
    assert compute_rate_factor(scheduler("constant"), 3.3, 10) == 1
    assert compute_rate_factor(scheduler("cosine"), 5, 10) == pytest.approx(0.5)
    assert compute_rate_factor(scheduler("cosine", floor=0.2), 10, 10) == pytest.approx(0.2)
    assert compute_rate_factor(scheduler("linear"), 2.5, 10) == pytest.approx(0.75)
    assert compute_rate_factor(scheduler("step"), 25, 30) == pytest.approx(0.01)
    assert compute_rate_factor(scheduler("exponential", factor=0.5), 3, 30) == pytest.approx(0.125)
    warm = scheduler("cosine", warmup_epochs=2.0)
    assert [compute_rate_factor(warm, t, 10) for t in (0, 1, 2)] == pytest.approx([0, 0.5, 1])
    assert compute_rate_factor(warm, 6, 10) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)


def test_rmsprop_is_keras_two():
    """a ← 0.9 a + 0.1 g², w ← w - lr · g / (√a + 1e-7), written out."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    keys = dict(name="rmsprop", lr=0.1, alpha=0.9, eps=1e-7, momentum=0.0, weight_decay=0.0)
    steps = build_optimizer(OptimizerConfig(**keys), [{"name": "model", "params": [weight]}])
    average, expected = torch.zeros(2), weight.detach().clone()
    for gradient in (torch.tensor([0.3, -0.1]), torch.tensor([0.2, 0.4])):
        weight.grad = gradient.clone()
        steps.step()
        average = 0.9 * average + 0.1 * gradient**2
        expected = expected - 0.1 * gradient / (average.sqrt() + 1e-7)
        torch.testing.assert_close(weight.detach(), expected)


def test_optimizer_mistakes_are_named():
    group = [{"name": "model", "params": [torch.nn.Parameter(torch.zeros(1))]}]
    with pytest.raises(UserError, match="did you mean adam"):
        build_optimizer(OptimizerConfig(name="adamm", lr=1.0), group)
    with pytest.raises(UserError, match="optimizer=sgd"):
        keys = {"name": "sgd", "lr": 0.1, "momentum": -1.0, "nesterov": False}
        build_optimizer(OptimizerConfig.model_construct(**keys), group)
