"""The numbers of an epoch: means over pictures, whatever the batches."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from convlens.training.metrics import EpochMetrics


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


def test_a_loss_that_is_not_a_number_stays_one():
    metrics = EpochMetrics(["a", "b"], detailed=False)
    metrics.update(torch.tensor(float("nan")), torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))
    assert math.isnan(metrics.compute()["loss"])
