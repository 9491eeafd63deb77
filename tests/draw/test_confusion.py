"""The confusion matrix: counted right, coloured by share, legible at any number of classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convlens.draw.colour import colour_table
from convlens.draw.confusion_matrix import FRACTIONS, confusion_matrix, count_confusions
from convlens.draw.palette import GREEN, GREY, RED
from support.panels import assert_margin_is_empty, is_colour, names, some_counts

# --- counting


def test_counts_are_true_by_predicted_and_leave_out_unknown_classes():
    labels, answers = torch.tensor([0, 0, 2, 2, -1]), torch.tensor([0, 1, 2, 0, 1])
    counts = count_confusions(labels, answers, 3)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert count_confusions([], [], 2).tolist() == [[0, 0], [0, 0]]


def test_counts_equal_torchmetrics():
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    rng = np.random.default_rng(0)
    labels, answers = rng.integers(0, 7, 500), rng.integers(0, 7, 500)
    theirs = multiclass_confusion_matrix(torch.tensor(answers), torch.tensor(labels), 7)
    assert (count_confusions(labels, answers, 7) == theirs.numpy()).all()


@pytest.mark.parametrize(
    ("labels", "answers"), [([0, 1], [0]), ([3], [0]), ([0], [3]), ([0], [-1]), ([[0]], [[0]])]
)
def test_classes_that_do_not_exist_are_not_counted_elsewhere(labels, answers):
    with pytest.raises(ValueError, match="label"):
        count_confusions(labels, answers, 3)


# --- the confusion matrix


def cells_of(panel: np.ndarray, counts: np.ndarray, edge: int, root: bool) -> np.ndarray:
    """The upper left pixels of all cells, found by the matrix's own colours; asserts they fit."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    levels = np.rint((np.sqrt(shares) if root else shares) * 255).astype(np.uint8)
    expected = colour_table(FRACTIONS)[levels]
    height = len(counts) * edge
    first = np.argwhere(is_colour(panel, expected[0, 0]))
    for y, x in first:
        corner = panel[y : y + height : edge, x : x + height : edge]
        if corner.shape == expected.shape and (corner == expected).all():
            return np.array([y, x])
    raise AssertionError("the matrix is not in the panel")


@pytest.mark.parametrize(
    ("classes", "edge", "root"),
    [(2, 64, False), (5, 64, False), (20, 45, False), (21, 42, True), (60, 15, True)],
)
def test_a_cell_has_the_colour_of_its_share_of_the_true_class(classes, edge, root):
    counts = some_counts(classes)
    panel = confusion_matrix(counts, names(classes), title="epoch 3")
    cells_of(panel, counts, edge, root)
    assert_margin_is_empty(panel)


@pytest.mark.parametrize(("classes", "edge"), [(61, 14), (450, 2), (1000, 1)])
def test_many_classes_are_heat_without_lines(classes, edge):
    counts = np.eye(classes, dtype=int) * 4
    counts[3, 40] = 12  # 3 of 4 pictures of class 3 are taken for class 40
    panel = confusion_matrix(counts, names(classes), title="epoch 3")
    y, x = cells_of(panel, counts, edge, root=True)
    assert (panel[y + 3 * edge, x + 40 * edge] != colour_table(FRACTIONS)[0]).any()
    assert panel.shape[0] < 1300 and panel.shape[1] < 1300
    assert_margin_is_empty(panel)


def test_true_is_down_and_predicted_along():
    counts = np.array([[0, 9], [0, 9]])  # everything is called the second class
    panel = confusion_matrix(counts, ["a", "b"], title="x")
    y, x = cells_of(panel, counts, 64, root=False)
    dark, light = colour_table(FRACTIONS)[255], colour_table(FRACTIONS)[0]
    assert (panel[y + 2, x + 66] == dark).all() and (panel[y + 66, x + 2] == light).all()


def test_numbers_are_written_up_to_twenty_classes_and_fit_their_cells():
    few = confusion_matrix(np.full((20, 20), 123456), names(20), title="x")
    y, x = cells_of(few, np.full((20, 20), 123456), _edge_of(few, 20), root=False)
    edge = _edge_of(few, 20)
    background = colour_table(FRACTIONS)[np.rint(255 / 20).astype(int)]
    for row, column in ((0, 0), (7, 13), (19, 19)):
        cell = few[y + row * edge : y + (row + 1) * edge - 1, x + column * edge :][:, : edge - 1]
        inked = ~is_colour(cell, background)
        assert inked.any()
        assert not inked[:, :3].any() and not inked[:, -3:].any()
    counts = some_counts(21)
    many = confusion_matrix(counts, names(21), title="x")
    y, x = cells_of(many, counts, 42, root=True)
    cell = many[y : y + 41, x : x + 41]
    assert (cell == cell[0, 0]).all()


def _edge_of(panel: np.ndarray, classes: int) -> int:
    """The edge of a cell, from the height of the green and grey accuracy bars."""
    column = is_colour(panel, (222, 225, 230)).sum(axis=1) > classes * 20
    lines = np.flatnonzero(column)
    return int(np.bincount(np.diff(lines)).argmax())


def test_the_bar_at_the_right_is_the_rows_accuracy():
    counts = np.array([[3, 1, 0], [0, 4, 0], [2, 2, 0]])
    panel = confusion_matrix(counts, ["a", "b", "c"], title="x")
    y, _ = cells_of(panel, counts, 64, root=False)
    lengths = [int(is_colour(panel[y + 64 * row + 30], GREEN).sum()) for row in range(3)]
    assert lengths == [round(0.75 * 70), 70, 0]


def test_a_class_without_pictures_is_grey_and_told():
    counts = some_counts(4)
    full = confusion_matrix(counts, list("abcd"), title="x")
    counts[2] = 0
    panel = confusion_matrix(counts, list("abcd"), title="x")
    assert is_colour(panel, RED).any() and not is_colour(full, RED).any()
    rows = np.flatnonzero(is_colour(panel, GREY).sum(axis=1) > 4 * 60)
    assert 60 <= len(rows) <= 64 and np.ptp(rows) < 64
    assert not is_colour(full, GREY).sum(axis=1).max() > 60


@pytest.mark.parametrize("classes", [1, 2, 9, 30, 200])
def test_any_class_names_and_no_pictures_at_all(classes, recwarn):
    for counts in (some_counts(classes), np.zeros((classes, classes))):
        panel = confusion_matrix(counts, names(classes), title="x" * 300)
        assert_margin_is_empty(panel)
        assert panel.dtype == np.uint8
    assert not len(recwarn)


def test_different_names_are_seen_at_both_sides():
    counts = some_counts(3)
    one = confusion_matrix(counts, ["aa", "bb", "cc"], title="x")
    other = confusion_matrix(counts, ["aa", "bo", "cc"], title="x")
    assert one.shape == other.shape
    y, x = cells_of(one, counts, 64, root=False)
    differs = (one != other).any(-1)
    assert differs[y : y + 192, :x].any() and differs[:y, x : x + 192].any()
    assert not differs[y:, x:].any()
    assert not differs[y : y + 64, :x].any() and not differs[y + 128 :, :x].any()


def test_wrong_counts_are_refused():
    for wrong in (np.zeros((2, 3)), np.zeros((3, 3)), -np.eye(2)):
        with pytest.raises(ValueError, match="counts must be"):
            confusion_matrix(wrong, ["a", "b"], title="x")
    with pytest.raises(ValueError, match="counts must be"):
        confusion_matrix(np.zeros((0, 0)), [], title="x")
