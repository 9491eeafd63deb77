"""The numbers of an epoch: means over pictures, whatever the batches."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from convlens.training.metrics import ClassCounts, EpochMetrics


@pytest.mark.parametrize("sizes", [(10, 10), (16, 4), (19, 1), (7, 7, 6)])
def test_the_loss_is_the_mean_over_pictures_for_uneven_batches(sizes):
    torch.manual_seed(0)
    # the last batch is much worse than the others: a mean over batches would differ
    logits = torch.randn(20, 3)
    logits[-sizes[-1] :] *= 10
    labels = torch.randint(0, 3, (20,))
    metrics = EpochMetrics(["a", "b", "c"], detailed=True)
    for part, answers in zip(logits.split(sizes), labels.split(sizes), strict=True):
        metrics.update(cross_entropy(part, answers), part, answers)
    found = metrics.compute()
    assert found["loss"] == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-6)
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_and_accuracy_are_torchmetrics_bit_for_bit(dtype):
    torch.manual_seed(0)
    metrics = EpochMetrics(list("abcde"), detailed=False)
    loss = MeanMetric(nan_strategy="disable")
    accuracy = MulticlassAccuracy(num_classes=5, average="micro", validate_args=False)
    for count in (1, 7, 20, 64, 1000, 20, 3):
        logits, labels = torch.randn(count, 5, dtype=dtype), torch.randint(5, (count,))
        value = cross_entropy(logits, labels)
        metrics.update(value, logits, labels)
        loss.update(value.expand(count))
        accuracy.update(logits.argmax(1), labels)
    assert metrics.compute() == {
        "loss": float(loss.compute()),
        "accuracy": float(accuracy.compute()),
    }


def test_states_of_torchmetrics_continue():
    """A checkpoint of a stopped epoch, written before these metrics were our own."""
    logits, labels = torch.randn(9, 3), torch.randint(3, (9,))
    whole, part = (EpochMetrics(list("abc"), detailed=False) for _ in range(2))
    old = {
        "loss": MeanMetric(nan_strategy="disable"),
        "accuracy": MulticlassAccuracy(num_classes=3, average="micro", validate_args=False),
    }
    old["loss"].update(torch.tensor(0.5).expand(9))
    old["accuracy"].update(logits.argmax(1), labels)
    for name, metric in old.items():
        for key in metric._defaults:
            setattr(part.get_submodule(name), key, getattr(metric, key))
    whole.update(torch.tensor(0.5), logits, labels)
    for metrics in (whole, part):
        metrics.update(torch.tensor(0.25), logits, labels)
    assert part.compute() == whole.compute()


def test_a_loss_that_is_not_a_number_stays_one():
    metrics = EpochMetrics(["a", "b"], detailed=False)
    metrics.update(torch.tensor(float("nan")), torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))
    assert math.isnan(metrics.compute()["loss"])


@pytest.mark.parametrize(("classes", "count"), [(2, 30), (5, 7), (50, 60), (300, 200)])
def test_numbers_of_classes_are_torchmetrics_bit_for_bit(classes, count):
    for seed in range(5):
        torch.manual_seed(seed)
        answers, labels = torch.randint(classes, (2, count))
        labels[::2] = answers[::2]
        options = {"num_classes": classes, "validate_args": False}
        ours = ClassCounts(classes)
        balanced = MulticlassAccuracy(average="macro", **options)
        f1 = MulticlassF1Score(average="none", **options)
        for metric in (ours, balanced, f1):
            for part, truth in zip(answers.split(13), labels.split(13), strict=True):
                metric.update(part, truth)
        found = ours.compute()
        assert torch.equal(found[0], balanced.compute()) and torch.equal(found[1], f1.compute())


def test_very_many_classes_have_one_f1():
    few, many = [f"c{n}" for n in range(100)], [f"c{n}" for n in range(101)]
    keys = {}
    for names in (few, many):
        metrics = EpochMetrics(names, detailed=True)
        labels = torch.arange(len(names)).repeat(2)
        logits = torch.eye(len(names))[labels]
        logits[: len(names) // 2] = logits[0]  # half of the first round is called c0
        metrics.update(torch.tensor(1.0), logits, labels)
        values = metrics.compute()
        keys[len(names)] = set(values)
    f1 = MulticlassF1Score(num_classes=101, average="macro")
    assert values["macro_f1"] == pytest.approx(float(f1(logits.argmax(1), labels)), abs=1e-6)
    assert keys[100] == {"loss", "accuracy", "balanced_accuracy", *(f"f1/{n}" for n in few)}
    assert keys[101] == {"loss", "accuracy", "balanced_accuracy", "macro_f1"}


def test_a_batch_of_a_thousand_classes_compares_no_million_numbers():
    """What torchmetrics does with deterministic algorithms: B · K · K numbers a batch."""
    metrics = EpochMetrics([f"c{n}" for n in range(1000)], detailed=True)
    labels = torch.randint(1000, (100,))
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as noted:
            metrics.update(torch.tensor(1.0), torch.randn(100, 1000), labels)
    finally:
        torch.use_deterministic_algorithms(False)
    taken = sum(max(0, event.self_cpu_memory_usage) for event in noted.events())
    assert 0 < taken < 5e6
