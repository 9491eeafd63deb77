"""Sheets of principal components and of similarities of positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convlens.draw.colour import colourise_signed
from convlens.draw.embedding_sheet import component_sheet, position_sheet
from convlens.draw.picture import to_uint8
from support.panels import assert_margin_is_empty, find
from support.panels import uniform_tensor as uniform


def test_each_component_is_magnified_around_grey():
    kernels = uniform(3, 3, 16, 16) - 0.4
    sheet = component_sheet(kernels, torch.tensor([0.5, 0.2, 0.1]), total=9, title="proj")
    assert_margin_is_empty(sheet)
    places = []
    for kernel in kernels:
        picture = to_uint8(kernel / kernel.abs().max() / 2 + 0.5).repeat(4, 0).repeat(4, 1)
        places += find(sheet, picture)
    assert len(places) == 3 and len({top for top, _ in places}) == 1


@pytest.mark.parametrize("grid", [(8, 8), (2, 5), (14, 14)])
def test_each_position_has_a_tile_at_its_place(grid):
    """Also on a grid that is not square, rows are rows."""
    height, width = grid
    values = uniform(height, width, height, width) * 2 - 1
    sheet = position_sheet(values, title="pos_embed")
    assert_margin_is_empty(sheet)
    assert sheet.shape[1] <= 1600
    scale = {(8, 8): 11, (2, 5): 17, (14, 14): 6}[grid]
    corner = None
    for row, column in {(0, 0), (0, width - 1), (height - 1, 0), (1, 1)}:
        picture = colourise_signed(values[row, column], 1).repeat(scale, 0).repeat(scale, 1)
        ((top, left),) = find(sheet, picture)
        corner = corner or (
            top - row * (height * scale + 4), left - column * (width * scale + 4)
        )  # fmt: skip
        assert top == corner[0] + row * (height * scale + 4)
        assert left == corner[1] + column * (width * scale + 4)


def test_a_very_large_grid_has_fewer_tiles_and_no_wider_sheet():
    values = torch.zeros(64, 64, 64, 64)
    assert position_sheet(values, title="pos_embed").shape[1] <= 1600


def test_values_that_are_not_finite_are_said():
    values = torch.zeros(2, 2, 2, 2)
    whole = position_sheet(values, title="pos_embed")
    values[1, 1] = torch.nan
    assert position_sheet(values, title="pos_embed").shape[0] > whole.shape[0]
    kernels = torch.zeros(2, 3, 4, 4)
    kernels[0] = torch.inf
    assert np.isfinite(component_sheet(kernels, torch.ones(2) / 2, total=2, title="x")).all()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"similarities must be \(h, w, h, w\)"):
        position_sheet(torch.zeros(2, 3, 3, 2), title="x")
    with pytest.raises(ValueError, match=r"their shares \(N,\)"):
        component_sheet(torch.zeros(2, 3, 4, 4), torch.zeros(3), total=2, title="x")
