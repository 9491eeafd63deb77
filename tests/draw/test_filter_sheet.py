"""Filter sheets with real patches beside the made pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convlens.draw.filter_sheet import filter_sheet
from convlens.draw.palette import EMPTY
from convlens.draw.picture import to_uint8
from support.panels import NAMES, any_of, assert_margin_is_empty, find
from support.panels import uniform_tensor as uniform


def magnified(picture: torch.Tensor, factor: int) -> np.ndarray:
    return to_uint8(picture).repeat(factor, 0).repeat(factor, 1)


def test_patches_stand_right_of_their_picture_in_two_rows():
    pictures, patches = uniform(3, 3, 32, 32), uniform(3, 4, 3, 10, 10, seed=1)
    sheet = filter_sheet(pictures, [1, 2, 3], title="x", patches=patches)
    for unit in range(3):
        (top, left), *others = find(sheet, magnified(pictures[unit], 3))
        assert not others
        places = [find(sheet, magnified(patch, 4)) for patch in patches[unit]]
        assert [len(found) for found in places] == [1] * 4
        (first,), (second,), (third,), (fourth,) = places
        assert first[0] == second[0] and third[0] == fourth[0] > first[0] + 40
        assert first[1] == third[1] and second[1] == fourth[1] > first[1] + 40
        assert top <= first[0] and fourth[0] + 40 <= top + 96  # beside, neither above nor below
        assert left + 96 < first[1] < left + 110


def test_large_patches_are_reduced_and_keep_their_shape():
    pictures, patches = uniform(1, 3, 100, 100), torch.zeros(1, 4, 3, 90, 30)
    patches[:, :, 0] = 1
    sheet = filter_sheet(pictures, [0], title="x", patches=patches)
    red = (sheet == (255, 0, 0)).all(-1)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    assert red.sum() == 4 * 49 * 16 and len(rows) == 2 * 49 and len(columns) == 2 * 16


@pytest.mark.parametrize(("side", "shown"), [(9, 45), (10, 40), (24, 47), (33, 47), (47, 47)])
def test_small_patches_fill_their_room(side, shown):
    patches = torch.zeros(1, 4, 3, side, side)
    patches[:, :, 0] = 1
    sheet = filter_sheet(uniform(1, 3, 32, 32), [0], title="x", patches=patches)
    assert (sheet == (255, 0, 0)).all(-1).sum() == 4 * shown**2


def test_patches_are_shown_also_where_the_gradient_was_zero():
    pictures, patches = uniform(2, 3, 32, 32), uniform(2, 1, 3, 32, 32, seed=1)
    sheet = filter_sheet(pictures, [0, 1], title="x", marks=["stuck", None], patches=patches)
    assert not find(sheet, magnified(pictures[0], 3)) and any_of(sheet, EMPTY)
    for unit in range(2):
        assert len(find(sheet, magnified(patches[unit, 0], 3))) == 1


def test_patches_that_are_not_finite_are_crossed(recwarn):
    pictures, patches = uniform(1, 3, 32, 32), uniform(1, 2, 3, 40, 40, seed=1)
    whole = filter_sheet(pictures, [0], title="x", patches=patches)
    patches[0, 1, 0, 0, 0] = torch.nan
    sheet = filter_sheet(pictures, [0], title="x", patches=patches)
    assert any_of(sheet, EMPTY) and not any_of(whole, EMPTY) and not len(recwarn)
    assert len(find(sheet, magnified(patches[0, 0], 1))) == 1


def test_the_line_below_the_title_tells_of_the_patches():
    pictures, patches = uniform(8, 3, 64, 64), uniform(8, 4, 3, 9, 9)
    plain = filter_sheet(pictures, list(range(8)), title="x", patches=patches)
    told = filter_sheet(pictures, list(range(8)), title="x", patches=patches, note="of 200")
    assert plain.shape == told.shape
    changed = np.flatnonzero((plain != told).any((1, 2)))
    assert 0 < len(changed) < 20 and changed.max() < 80


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (150, 150), (400, 300), (100, 4)])
@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("number", [1, 3, 9])
def test_sheets_with_patches_of_all_sizes_and_names(count, number, size):
    labels = [NAMES[i % len(NAMES)] for i in range(count)]
    marks = [None if i % 3 else "stuck, and a long story about it" for i in range(count)]
    sheet = filter_sheet(
        uniform(count, 1, *size), list(range(count)), title="x", labels=labels, marks=marks,
        patches=uniform(count, number, 3, *size),
    )  # fmt: skip
    assert sheet.shape[1] <= 1900
    assert_margin_is_empty(sheet)


def test_patches_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"patches must be \(2, N, C, h, w\)"):
        filter_sheet(uniform(2, 3, 8, 8), [0, 1], title="x", patches=uniform(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"patches must be \(2, N, C, h, w\)"):
        filter_sheet(uniform(2, 3, 8, 8), [0, 1], title="x", patches=uniform(3, 1, 3, 8, 8))
