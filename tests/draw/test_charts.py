"""No text of a chart lies on a line: legends, headings and names of marks are outside the axes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from convlens.draw import charts
from convlens.draw.activation_grid import activation_grid
from convlens.draw.activation_levels import grey_table
from support.figures import keep_figures


@pytest.fixture
def figures(monkeypatch):
    """Return the list of the figures that are drawn."""
    return keep_figures(monkeypatch, charts)


def boxes(axes) -> list:
    """Return the extents in pixels of all texts of a chart that are not numbers at its axes."""
    renderer = axes.figure.canvas.get_renderer()
    texts = [*axes.texts, axes.title, axes._left_title, axes.get_legend()]
    return [text.get_window_extent(renderer) for text in texts if getattr(text, "_text", "x")]


MARKS = [
    {},
    {"head": 0, "last_block unfrozen": 5},
    {"a phase with a long name": 3, "another phase with a long name": 4, "all": 20},
    {"the end": 20},
]


@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("best", [0, 7, 20])
def test_texts_of_learning_curves_are_above_the_chart_and_apart(figures, marks, best):
    epochs = list(range(21))
    losses = [1.0 + abs(epoch - best) / 10 for epoch in epochs]
    history = {"train/loss": losses[::-1], "val/loss": losses, "val/accuracy": losses}
    charts.learning_curves(history, epochs, title="run", marks=marks)
    for axes in figures[0].axes:
        found = boxes(axes)
        assert len(found) == len(marks) + 2  # and heading and legend
        assert all(box.y0 >= axes.bbox.y1 - 1 for box in found)
        assert not any(one.overlaps(other) for one, other in itertools.combinations(found, 2))
        assert f"{1.0:.3f} at epoch {best}" in [t.get_text() for t in axes.get_legend().texts]


def test_texts_of_the_other_charts_are_above_them(figures):
    charts.depth_chart(["a", "b"], [0.1, 0.9], [0.9, 0.1], title="x", what="sparsity")
    charts.rate_curve([1e-3, 1e-2, 1e-1], [2, 1, 2], [2.1, 0.9, 2], 1e-2, title="x")
    for drawn in figures:
        (axes,) = drawn.axes
        assert all(box.y0 >= axes.bbox.y1 - 1 for box in boxes(axes))


# --- activation grids in grey


def test_grey_levels_are_black_at_zero_or_at_the_negative_end():
    positive, signed = grey_table(False), grey_table(True)
    assert positive[128].tolist() == [0] * 3 and positive[255].tolist() == [255] * 3
    assert signed[1].tolist() == [0] * 3 and signed[255].tolist() == [255] * 3
    assert signed[128].tolist() == [128] * 3
    for table in (positive, signed):
        assert (np.diff(table[:, 0].astype(int)) >= 0).all() and (table == table[:, :1]).all()


@pytest.mark.parametrize("rule", ["shared", "reference"])
@pytest.mark.parametrize("low", [0.0, -1.0])
def test_a_grey_grid_has_no_colour_and_is_as_bright_as_its_values(rule, low):
    values = np.linspace(low, 1, 8 * 8, dtype=np.float32).reshape(1, 8, 8)
    grid = activation_grid(values, title="x", rule=rule, colours="grey").astype(int)
    assert np.abs(grid - grid[..., :1]).max() < 25  # the palette of texts is slightly blue
    cell = grid[-60:-30, 20:80]
    assert cell.std() > 5
    coloured = activation_grid(values, title="x", rule=rule).astype(int)
    assert np.abs(coloured - coloured[..., :1]).max() > 100


def test_unknown_colours_are_refused():
    with pytest.raises(ValueError, match="unknown colours 'gray'"):
        activation_grid(np.zeros((1, 4, 4)), title="x", colours="gray")
