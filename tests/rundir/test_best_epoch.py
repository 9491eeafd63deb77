"""The best epoch has the lowest finite validation loss, and is never epoch 0."""

from __future__ import annotations

import math

import pytest

from convlens.experiment.summary import select_best_row
from convlens.rundir.read import find_best_row

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([0.1, 0.5, 0.4, 0.6], 2),  # never the network before training
        ([9.0, 0.4, 0.4], 1),
        ([9.0, NAN, 0.5, INF], 2),  # as the checkpoint that is kept as the best
        ([9.0, 0.5, None], 1),
    ],
)
def test_the_lowest_finite_loss_of_a_trained_epoch(losses, best):
    rows = [
        {"epoch": epoch} | ({} if loss is None else {"val/loss": loss})
        for epoch, loss in enumerate(losses)
    ]
    assert find_best_row(rows)["epoch"] == select_best_row(rows)["epoch"] == best


@pytest.mark.parametrize(("losses", "first"), [([0.1], 0), ([0.1, NAN, INF], 1)])
def test_where_there_is_none_a_page_names_none_and_a_summary_the_first(losses, first):
    rows = [{"epoch": epoch, "val/loss": loss} for epoch, loss in enumerate(losses)]
    assert find_best_row(rows) is None and select_best_row(rows)["epoch"] == first
