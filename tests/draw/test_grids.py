"""Activation grids: the reference rule, places, marks, sizes."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from convlens.draw.activation_grid import (
    activation_grid,
    compute_channel_levels,
    compute_grid_layout,
)
from convlens.draw.canvas import PAD
from convlens.draw.colour import colour_table
from convlens.draw.palette import BACKGROUND, RED

VIRIDIS = colour_table("viridis")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def size_of(layout) -> tuple[int, int]:
    """Height and width of the whole grid in pixels."""
    down, along = layout.cell_height + layout.gap, layout.cell_width + layout.gap
    return layout.rows * down - layout.gap, layout.columns * along - layout.gap


def cell_of(layout, channel: int) -> tuple[slice, slice]:
    """The rows and columns of pixels in the grid that belong to ``channel``."""
    top = channel // layout.columns * (layout.cell_height + layout.gap)
    left = channel % layout.columns * (layout.cell_width + layout.gap)
    return slice(top, top + layout.cell_height), slice(left, left + layout.cell_width)


def grid_part(panel: np.ndarray, layout) -> np.ndarray:
    """The cells of a panel, without heading, numbers and margin."""
    height, width = size_of(layout)
    bottom, left = panel.shape[0] - PAD, PAD
    if layout.rows > 1:  # behind the row numbers, which the first cell's left edge ends
        inner = panel[bottom - height : bottom]
        left = next(
            x
            for x in range(PAD, panel.shape[1])
            if (inner[: layout.cell_height, x] != BACKGROUND).any(1).all()
        )
    return panel[bottom - height : bottom, left : left + width]


def plain_loop(channel: np.ndarray) -> np.ndarray:
    """One channel as the documents' loop draws it."""
    channel = channel.astype(np.float64)
    channel = channel - channel.mean()
    channel = channel / channel.std()
    return np.clip(channel * 64 + 128, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shift", [0.0, 100.0, -3.0])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_the_reference_rule_is_the_documents_loop(shift, scale):
    maps = ((noise(20, 9, 11) + shift) * scale).numpy()
    levels, flat = compute_channel_levels(maps, "reference")
    expected = np.stack([plain_loop(channel) for channel in maps])
    difference = np.abs(levels.astype(int) - expected.astype(int))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01  # truncation at a rounding
    assert not flat.any()


@pytest.mark.parametrize("size", [(4, 4), (14, 14), (50, 50), (7, 3)])
@pytest.mark.parametrize("channels", [1, 6, 16, 37])
def test_channel_c_stands_in_row_c_div_16_column_c_mod_16_in_viridis(channels, size):
    maps = noise(channels, *size)
    layout = compute_grid_layout(channels, *size)
    grid = grid_part(activation_grid(maps, title="layer"), layout)
    levels, _ = compute_channel_levels(maps.numpy())
    down, along = layout.cell_height + layout.gap, layout.cell_width + layout.gap
    assert layout.columns == min(16, channels)
    for c in range(channels):
        top, left = c // 16 * down, c % 16 * along
        cell = grid[top : top + layout.cell_height, left : left + layout.cell_width]
        rows = np.arange(layout.cell_height) * size[0] // layout.cell_height
        columns = np.arange(layout.cell_width) * size[1] // layout.cell_width
        assert (cell == VIRIDIS[levels[c]][rows[:, None], columns]).all(), c
    for place in range(channels, layout.rows * layout.columns):
        assert (grid[cell_of(layout, place)] == BACKGROUND).all()
    assert (grid[:, layout.cell_width : along] == BACKGROUND).all()


def test_large_maps_are_reduced_by_averaging():
    maps = noise(32, 148, 148)
    layout = compute_grid_layout(32, 148, 148)
    assert layout.cell_height < 148
    grid = grid_part(activation_grid(maps, title="x"), layout)
    constant_halves = torch.zeros(32, 148, 148)
    constant_halves[:, 74:] = 1
    halves = grid_part(activation_grid(constant_halves, title="x"), layout)
    cell = halves[cell_of(layout, 5)]
    assert (cell[:40] == VIRIDIS[64]).all() and (cell[-40:] == VIRIDIS[192]).all()
    assert grid.std() > 10


def test_the_shared_rule_has_one_scale():
    maps = torch.zeros(4, 3, 3)
    maps[1], maps[2, 0, 0], maps[3] = 1, 4, 2
    levels, _ = compute_channel_levels(maps.numpy(), "shared")
    assert [int(levels[c].max()) for c in range(4)] == [0, 64, 255, 128]
    lonely = compute_channel_levels(np.full((3, 2, 2), 7.0), "shared")[0]
    assert (lonely == 0).all()


def test_constant_channels_are_flat_and_marked_without_warnings(recwarn):
    maps = noise(20, 6, 6)
    maps[3], maps[11], maps[12] = 0, 5.1234567, -1e-30
    levels, flat = compute_channel_levels(maps.numpy())
    assert np.flatnonzero(flat).tolist() == [3, 11, 12] and (levels[flat] == 0).all()
    layout = compute_grid_layout(20, 6, 6)
    cell = grid_part(activation_grid(maps, title="x"), layout)[cell_of(layout, 11)]
    on_table = (cell == VIRIDIS[0]).all(-1)
    assert 0.8 < on_table.mean() < 1  # a thin diagonal
    assert not len(recwarn)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_spoil_only_their_own_channel(value, recwarn):
    maps = noise(8, 5, 5)
    sound = compute_channel_levels(maps.numpy())[0]
    maps[2, 1, 1] = value
    levels, _ = compute_channel_levels(maps.numpy())
    keep = np.arange(8) != 2
    assert (levels[keep] == sound[keep]).all()
    for rule in ("reference", "shared"):
        assert activation_grid(maps, title="x", rule=rule).std() > 10
    assert activation_grid(torch.full((4, 2, 2), value), title="all gone").shape[2] == 3
    assert not len(recwarn)


@pytest.mark.parametrize("shape", [(40, 7, 7), (40,), (40, 90, 120), (6, 28, 28)])
def test_dead_marks_change_exactly_the_dead_cells(shape):
    maps, channels = noise(*shape), shape[0]
    layout = compute_grid_layout(channels, *(shape[1:] or (1, 1)))
    dead = torch.zeros(channels, dtype=torch.bool)
    dead[[1, 5, channels - 1]] = True
    alive = grid_part(activation_grid(maps, title="layer"), layout)
    marked = activation_grid(maps, title="layer", dead=dead)
    changed = (alive != grid_part(marked, layout)).any(-1)
    for c in range(channels):
        cell = cell_of(layout, c)
        assert changed[cell].any() == bool(dead[c])
        if dead[c]:
            corner = grid_part(marked, layout)[cell][0, 0]
            assert (corner == RED).all()
            changed[cell] = False
    assert not changed.any()
    heading = marked[: -size_of(layout)[0] - PAD]
    assert (heading == RED).all(-1).any()  # the count, in red
    assert not (activation_grid(maps, title="layer")[:60] == RED).all(-1).any()


@pytest.mark.parametrize(
    "shape",
    [
        *[(1,), (10,), (512,), (4096,), (3, 1, 1)],
        *[(2048, 8, 8), (512, 4, 4), (32, 148, 148), (64, 224, 224), (1, 500, 500), (6, 24, 24)],
        *[(17, 1, 9), (16, 300, 2), (5, 2000, 10)],
    ],
)
def test_every_shape_gives_a_panel_of_sensible_size(shape):
    panel = activation_grid(noise(*shape), title="a layer")
    assert panel.dtype == np.uint8 and panel.ndim == 3 and panel.shape[2] == 3
    assert panel.shape[1] <= 1600 and panel.shape[0] <= 7000
    assert panel.std() > 5
    background = np.array(BACKGROUND)
    for edge in (panel[: PAD - 2], panel[1 - PAD :], panel[:, : PAD - 2], panel[:, 1 - PAD :]):
        assert (edge == background).all()
    layout = compute_grid_layout(shape[0], *(shape[1:] or (1, 1)))
    assert max(layout.cell_height, layout.cell_width) >= 24


def test_a_dense_vector_is_drawn_on_one_scale():
    vector = torch.linspace(-1, 3, 40)
    layout = compute_grid_layout(40, 1, 1)
    grid = grid_part(activation_grid(vector, title="dense"), layout)
    assert (grid[cell_of(layout, 0)] == VIRIDIS[0]).all()
    assert (grid[cell_of(layout, 39)] == VIRIDIS[255]).all()
    assert (grid[cell_of(layout, 20)] == VIRIDIS[round(20 / 39 * 255)]).all()


def test_wrong_input_is_refused():
    for maps in (noise(2, 3, 4, 5), noise(0, 4, 4), torch.tensor(1.0), noise(4, 4)):
        with pytest.raises(ValueError, match="activations must be"):
            activation_grid(maps, title="x")
    with pytest.raises(ValueError, match="dead"):
        activation_grid(noise(4, 2, 2), title="x", dead=np.zeros(5, bool))
    with pytest.raises(ValueError, match="rule"):
        activation_grid(noise(4, 2, 2), title="x", rule="other")


def test_the_panel_is_deterministic_and_leaves_input_and_random_states_alone():
    maps = noise(32, 9, 9)
    before, torch_state, numpy_state = maps.clone(), torch.get_rng_state(), np.random.get_state()
    first, second = (activation_grid(maps, title="x") for _ in range(2))
    assert (first == second).all() and torch.equal(maps, before)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state[1] == np.random.get_state()[1]).all()
    for other in (maps.numpy(), maps.double().requires_grad_()):
        assert (activation_grid(other, title="x") == first).mean() > 0.999


def test_512_channels_are_drawn_fast():
    maps = noise(512, 4, 4)
    activation_grid(maps, title="warm")
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        activation_grid(maps, title="block5_conv3", dead=np.arange(512) % 9 == 0)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.15  # 0.015 on an idle machine
