"""The reliability chart: points lie where the numbers say, at the same place at every epoch."""

from __future__ import annotations

import numpy as np
import pytest

from convlens.draw import reliability
from convlens.draw.figure import BLUE, ORANGE
from convlens.draw.reliability import Curve, reliability_chart
from support.figures import keep_figures


@pytest.fixture
def figures(monkeypatch):
    """Return the list of the figures that are drawn."""
    return keep_figures(monkeypatch, reliability)


def make_curve(accuracies, name: str = "x $y", counts=None) -> Curve:
    accuracies = np.asarray(accuracies, float)
    bins = len(accuracies)
    counts = np.where(np.isnan(accuracies), 0, 10) if counts is None else np.asarray(counts)
    centres = (np.arange(bins) + 0.5) / bins
    return Curve(name, counts, np.where(counts > 0, centres, np.nan), accuracies)


def test_points_bars_and_shares_are_those_of_the_bins(figures):
    curves = [make_curve([np.nan, 0.25, 1.0], counts=[0, 30, 10]), make_curve([0.5, 0.5, 0.5])]
    picture = reliability_chart(curves, title="reliability")
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    upper, lower = figures[0].axes
    _, first, second = upper.lines  # the first is the diagonal
    assert np.allclose(first.get_xydata(), [[0.5, 0.25], [5 / 6, 1.0]])
    assert (first.get_color(), second.get_color()) == (BLUE, ORANGE)
    bars = upper.collections[0].get_segments()
    half = 1.96 * np.sqrt(0.25 / 30)
    assert np.allclose(bars[0], [[0.5, 0.5 - half], [0.5, 0.5 + half]])
    assert np.allclose(bars[1][1], [5 / 6, 1.0])  # no accuracy is above 1
    assert np.allclose([bar.get_height() for bar in lower.patches[:3]], [0, 0.75, 0.25])
    assert [axes.get_ylabel() for axes in (upper, lower)] == ["accuracy", "share of images"]
    assert lower.get_xlabel().startswith("confidence")


def test_texts_are_above_the_chart_and_the_size_is_always_the_same(figures):
    sizes = {
        reliability_chart([make_curve([share, np.nan], name)], title="x").shape
        for share in (0.0, 1.0) for name in ("as the network says: error 0.123", "x")
    }  # fmt: skip
    assert len(sizes) == 1
    for drawn in figures:
        renderer = drawn.canvas.get_renderer()
        upper, lower = drawn.axes
        assert upper.get_legend().get_window_extent(renderer).y0 >= upper.bbox.y1 - 1
        assert upper.get_tightbbox(renderer).y0 > lower.bbox.y1
        box = drawn.get_tightbbox(renderer)  # inches
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 5.2 and box.y1 <= 5.2


def test_a_chart_of_nothing_is_refused():
    for curves in ([], [make_curve([np.nan, np.nan])]):
        with pytest.raises(ValueError, match="at least one"):
            reliability_chart(curves, title="x")
