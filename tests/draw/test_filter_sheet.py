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
        (top, left), *others = find(sheet, magnified(pictures[unit], 4))
        assert not others
        places = [find(sheet, magnified(patch, 6)) for patch in patches[unit]]
        assert [len(found) for found in places] == [1] * 4
        (first,), (second,), (third,), (fourth,) = places
        assert first[0] == second[0] and third[0] == fourth[0] > first[0] + 60
        assert first[1] == third[1] and second[1] == fourth[1] > first[1] + 60
        assert top <= first[0] and fourth[0] + 60 <= top + 128  # beside, neither above nor below
        assert left + 128 < first[1] < left + 142


def test_large_patches_are_reduced_and_keep_their_shape():
    pictures, patches = uniform(1, 3, 128, 128), torch.zeros(1, 4, 3, 90, 30)
    patches[:, :, 0] = 1
    sheet = filter_sheet(pictures, [0], title="x", patches=patches)
    red = (sheet == (255, 0, 0)).all(-1)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    assert red.sum() == 4 * 63 * 21 and len(rows) == 2 * 63 and len(columns) == 2 * 21


@pytest.mark.parametrize(("side", "shown"), [(9, 63), (10, 60), (24, 63), (33, 63), (63, 63)])
def test_small_patches_fill_their_room(side, shown):
    patches = torch.zeros(1, 4, 3, side, side)
    patches[:, :, 0] = 1
    sheet = filter_sheet(uniform(1, 3, 32, 32), [0], title="x", patches=patches)
    assert (sheet == (255, 0, 0)).all(-1).sum() == 4 * shown**2


def test_patches_are_shown_also_where_the_gradient_was_zero():
    pictures, patches = uniform(2, 3, 32, 32), uniform(2, 1, 3, 32, 32, seed=1)
    sheet = filter_sheet(pictures, [0, 1], title="x", marks=["stuck", None], patches=patches)
    assert not find(sheet, magnified(pictures[0], 4)) and any_of(sheet, EMPTY)
    for unit in range(2):
        assert len(find(sheet, magnified(patches[unit, 0], 4))) == 1


def test_patches_that_are_not_finite_are_crossed(recwarn):
    pictures, patches = uniform(1, 3, 32, 32), uniform(1, 2, 3, 60, 60, seed=1)
    whole = filter_sheet(pictures, [0], title="x", patches=patches)
    patches[0, 1, 0, 0, 0] = torch.nan
    sheet = filter_sheet(pictures, [0], title="x", patches=patches)
    assert any_of(sheet, EMPTY) and not any_of(whole, EMPTY) and not len(recwarn)
    assert len(find(sheet, magnified(patches[0, 0], 1))) == 1


def test_cells_are_large_enough_to_look_at():
    """A picture is at least 128 pixels wide, a patch beside it at least 60, whatever their size."""
    for side in (16, 32, 48, 64, 96, 128, 150, 224, 300):
        for number, patch_side in ((1, 7), (4, 32), (4, 90), (9, 50)):
            pictures = torch.zeros(1, 3, side, side)
            patches = torch.zeros(1, number, 3, patch_side, patch_side)
            pictures[:, 0], patches[:, :, 2] = 1, 1
            sheet = filter_sheet(pictures, [0], title="x", patches=patches)
            red, blue = (sheet == (255, 0, 0)).all(-1), (sheet == (0, 0, 255)).all(-1)
            assert 128**2 <= red.sum() <= 256**2
            assert blue.sum() >= number * 48**2  # whole magnifications fill four fifths of 60


def test_the_text_below_the_title_says_how_to_read_it():
    pictures, patches = uniform(8, 3, 64, 64), uniform(8, 4, 3, 9, 9)
    options = {"title": "x", "patches": patches}
    plain = filter_sheet(pictures, list(range(8)), **options)
    for told in ({"source": "200 pictures"}, {"choice": "evenly spread"}):
        sheet = filter_sheet(pictures, list(range(8)), **options, **told)
        assert plain.shape == sheet.shape
        changed = np.flatnonzero((plain != sheet).any((1, 2)))
        assert 0 < len(changed) < 40 and changed.max() < 100


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
