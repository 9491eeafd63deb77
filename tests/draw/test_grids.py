"""Activation grids: the two rules, the order of channels, places, marks, sizes."""

from __future__ import annotations

import io
import math
import time

import numpy as np
import pytest
import torch
from PIL import Image

from convlens.draw import activation_grid as drawing
from convlens.draw.activation_grid import activation_grid, compute_grid_layout
from convlens.draw.activation_levels import (
    compute_reference_levels,
    compute_shared_levels,
    find_scale_end,
    select_channels,
    signed_table,
)
from convlens.draw.canvas import PAD
from convlens.draw.colour import colour_table
from convlens.draw.jpeg import encode_jpeg
from convlens.draw.palette import BACKGROUND, RED

VIRIDIS, SIGNED = colour_table("viridis"), signed_table()
REFERENCE = {"rule": "reference", "order": "index", "channels": None}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def steps_of(layout) -> tuple[int, int]:
    """Pixels from a cell to the one below, and to the one on its right."""
    return layout.cell_height + layout.caption + layout.gap, layout.cell_width + layout.gap


def size_of(layout) -> tuple[int, int]:
    """Height and width of the whole grid in pixels."""
    down, along = steps_of(layout)
    return layout.rows * down - layout.gap, layout.columns * along - layout.gap


def cell_of(layout, place: int) -> tuple[slice, slice]:
    """The rows and columns of pixels in the grid that belong to the cell number ``place``."""
    down, along = steps_of(layout)
    top, left = place // layout.columns * down, place % layout.columns * along
    return slice(top, top + layout.cell_height), slice(left, left + layout.cell_width)


def grid_part(panel: np.ndarray, layout) -> np.ndarray:
    """The cells of a panel, without heading, numbers and margin."""
    height, width = size_of(layout)
    bottom, left = panel.shape[0] - PAD, PAD
    if (
        layout.rows > 1 and not layout.caption
    ):  # behind the row numbers, which the first cell's left edge ends
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
    levels, flat = compute_reference_levels(maps)
    expected = np.stack([plain_loop(channel) for channel in maps])
    difference = np.abs(levels.astype(int) - expected.astype(int))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01  # truncation at a rounding
    assert not flat.any()


@pytest.mark.parametrize("size", [(4, 4), (14, 14), (50, 50), (7, 3)])
@pytest.mark.parametrize("channels", [1, 6, 16, 37])
def test_channel_c_stands_in_row_c_div_16_column_c_mod_16_in_viridis(channels, size):
    maps = noise(channels, *size)
    layout = compute_grid_layout(channels, *size)
    grid = grid_part(activation_grid(maps, title="layer", **REFERENCE), layout)
    levels, _ = compute_reference_levels(maps.numpy())
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
    grid = grid_part(activation_grid(maps, title="x", **REFERENCE), layout)
    constant_halves = torch.zeros(32, 148, 148)
    constant_halves[:, 74:] = 1
    halves = grid_part(activation_grid(constant_halves, title="x", **REFERENCE), layout)
    cell = halves[cell_of(layout, 5)]
    assert (cell[:40] == VIRIDIS[64]).all() and (cell[-40:] == VIRIDIS[192]).all()
    assert grid.std() > 10


def scale_end(values: np.ndarray) -> float:
    """Where the shared scale ends, from the sorted magnitudes."""
    sizes = sorted(abs(v) for v in values.ravel().tolist() if v)
    return sizes[math.ceil(0.995 * (len(sizes) - 1))]


@pytest.mark.parametrize("size", [(4, 4), (14, 14), (7, 3)])
@pytest.mark.parametrize("channels", [1, 6, 37, 64])
def test_the_shared_rule_draws_every_value_on_one_scale_the_strongest_channel_first(channels, size):
    maps = noise(channels, *size) * torch.linspace(0.1, 3, channels)[:, None, None]
    end = scale_end(maps.numpy())
    layout = compute_grid_layout(channels, *size, captions=True)
    grid = grid_part(activation_grid(maps, title="layer"), layout)
    strengths = [sum(abs(v) for v in each.flatten().tolist()) for each in maps]
    for place, c in enumerate(sorted(range(channels), key=lambda c: -strengths[c])):
        levels = (maps[c] / end * 127).clip(-127, 127).numpy() + 128
        cell = grid[cell_of(layout, place)].astype(int)
        rows = np.arange(layout.cell_height) * size[0] // layout.cell_height
        columns = np.arange(layout.cell_width) * size[1] // layout.cell_width
        wanted = np.stack(
            [SIGNED[np.rint(levels + d).astype(int).clip(1, 255)] for d in (-0.01, 0.01)]
        )
        wanted = wanted[:, rows[:, None], columns].astype(int)
        assert (np.abs(wanted - cell).min(0) == 0).all(), (place, c)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_zero_is_black_in_every_layer_and_channel(scale):
    maps = noise(12, 6, 6) * scale
    maps[:, 2:4] = 0
    for each in (maps, maps.clamp(min=0), -maps.clamp(min=0), maps + 0 * scale):
        layout = compute_grid_layout(12, 6, 6, captions=True)
        grid = grid_part(activation_grid(each, title="x"), layout)
        cells = np.stack([grid[cell_of(layout, place)] for place in range(12)])
        edge = layout.cell_height // 3
        assert (cells[:, edge : 2 * edge] == 0).all()
        assert (cells[:, :edge] > 40).any()


def test_the_shared_scale_brightens_away_from_zero_and_tells_the_signs_apart():
    light = SIGNED.astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (SIGNED[128] == 0).all()
    assert (np.diff(light[128:]) > 0).all() and (np.diff(light[1:129]) < 0).all()
    red, blue = SIGNED[:, 0].astype(int), SIGNED[:, 2].astype(int)
    assert (red[129:] > blue[129:]).all() and (red[1:128] < blue[1:128]).all()


def test_a_few_extreme_values_do_not_darken_the_others_and_zeros_do_not_brighten_them():
    maps = noise(512, 4, 4).clamp(min=0)
    end = find_scale_end(maps.numpy())
    extreme = maps.clone()
    extreme[7, 0, 0] = 1e6
    assert find_scale_end(extreme.numpy()) == pytest.approx(end, rel=0.05)
    sparse = torch.zeros(512, 40, 40)
    sparse[:, :4, :4] = maps
    assert find_scale_end(sparse.numpy()) == end
    assert find_scale_end(np.zeros((3, 2, 2))) == 0
    levels = compute_shared_levels(np.array([0, -2.0, 2.0, 1.0, 9.0, -9.0]), 2.0)
    assert levels.tolist() == [128, 1, 255, 192, 255, 1]


def test_silent_channels_are_left_out_and_equal_ones_keep_their_order():
    maps = np.zeros((7, 2, 2), np.float32)
    maps[[1, 4, 6]] = 1
    maps[2, 0, 0] = -8  # mean magnitude 2
    maps[3, 0, 0] = 1e-30
    assert select_channels(maps, "strength", None).tolist() == [2, 1, 4, 6, 3]
    assert select_channels(maps, "strength", 2).tolist() == [2, 1]
    assert select_channels(maps, "index", None).tolist() == list(range(7))
    assert select_channels(maps, "index", 3).tolist() == [0, 1, 2]


def heading(monkeypatch, maps, **options) -> str:
    """What a grid says above, in one line."""
    said = []
    monkeypatch.setattr(
        drawing, "add_title", lambda sheet, *lines, alert: said.extend([*lines, alert]) or sheet
    )
    activation_grid(maps, title="conv3", **options)
    return " | ".join(said)


def test_the_heading_counts_what_is_shown_and_what_is_silent_and_says_how_to_read_it(monkeypatch):
    maps = noise(512, 4, 4)
    maps[100:137] = 0
    text = heading(monkeypatch, maps)
    assert "strongest 64 of 512 channels of 4×4, 37 of 512 silent" in text
    assert "Black is 0" in text and "blue to cyan below" in text and text.endswith(" | ")
    assert "blue" not in heading(monkeypatch, maps.clamp(min=0))
    few = heading(monkeypatch, noise(8, 4, 4))
    assert "8 channels of 4×4, strongest first." in few and "silent" not in few
    assert "first 64 of 512 channels" in heading(monkeypatch, maps, order="index")
    dead = heading(monkeypatch, maps, dead=np.arange(512) >= 509)
    assert "3 of 512 dead" in dead
    reference = heading(monkeypatch, maps, **REFERENCE)
    assert "512 channels of 4×4, 37 constant here" in reference and "own scale" in reference


def test_a_layer_without_any_response_says_so():
    panel = activation_grid(torch.zeros(20, 5, 5), title="x", image=torch.rand(3, 30, 30))
    assert (panel != np.array(BACKGROUND)).any(-1).sum() > 500


@pytest.mark.parametrize("side", [28, 64, 150, 224, 500])
@pytest.mark.parametrize("options", [{}, REFERENCE])
def test_the_image_stands_beside_the_grid_at_a_size_worth_looking_at(side, options):
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(1))
    panel = activation_grid(noise(10, 7, 7), title="x", image=image, **options)
    picture = (image.numpy() * 255).round().astype(np.uint8).transpose(1, 2, 0)
    if side <= 320:  # a larger one is reduced
        factor = -(-220 // side)
        large = picture.repeat(factor, 0).repeat(factor, 1)
        tops = [
            top
            for top in range(len(panel) - len(large))
            if (panel[top : top + len(large), PAD : PAD + len(large)] == large).all()
        ]
        assert len(tops) == 1 and len(large) >= 200
    without = activation_grid(noise(10, 7, 7), title="x", **options)
    assert panel.shape[1] >= without.shape[1] + 220


@pytest.mark.parametrize("size", [(4, 4), (7, 7), (56, 56), (112, 112)])
@pytest.mark.parametrize("channels", [3, 16, 32, 64])
def test_cells_of_few_channels_are_large_enough_to_see(channels, size):
    assert compute_grid_layout(channels, *size, captions=True).cell_height >= 80
    assert compute_grid_layout(channels, *size).cell_height >= 48


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(("side", "bytes_each"), [(4, 90), (7, 30), (14, 10)])
def test_values_that_are_whole_jpeg_blocks_are_exact_and_small(side, bytes_each, beside):
    """Noise is the hardest to compress; the size is stated by the number of values."""
    maps = noise(64, side, side)
    image = torch.full((3, 30, 30), 0.5) if beside else None
    panel = activation_grid(maps, title="a layer", image=image)
    encoded = encode_jpeg(panel)
    assert len(encoded) <= bytes_each * maps.numel()
    decoded = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)
    layout = compute_grid_layout(64, side, side, captions=True)
    down, along = steps_of(layout)
    height, width = size_of(layout)
    top, left = panel.shape[0] - PAD - height, panel.shape[1] - PAD - width
    step = layout.cell_height // side
    assert step % 8 == down % 8 == along % 8 == 0
    for row in range(0, height - step, down):
        for column in range(0, width - step, along):
            cell = decoded[top + row :, left + column :][:step, :step]
            assert (top + row) % 8 == (left + column) % 8 == 0
            assert np.ptp(cell, axis=(0, 1)).max() <= 2, "one colour"
            drawn = panel[top + row, left + column].astype(int)
            assert np.abs(cell - drawn).max() <= 12


def test_large_maps_are_not_larger_than_needed():
    heights = {
        side: compute_grid_layout(64, side, side, captions=True).cell_height
        for side in (37, 74, 112, 149, 299)
    }
    assert heights == {37: 74, 74: 74, 112: 112, 149: 112, 299: 112}


def test_the_order_of_the_index_keeps_every_channel_in_its_place():
    layout = compute_grid_layout(20, 6, 6)
    before, after = noise(20, 6, 6), noise(20, 6, 6, seed=1)
    after[4] = before[4]
    after *= find_scale_end(before.numpy()) / find_scale_end(after.numpy())
    before[4] = after[4]
    grids = [
        grid_part(activation_grid(m, title="x", order="index"), layout) for m in (before, after)
    ]
    assert (
        np.abs(grids[0][cell_of(layout, 4)].astype(int) - grids[1][cell_of(layout, 4)]).max() < 30
    )


def test_constant_channels_are_flat_and_marked_without_warnings(recwarn):
    maps = noise(20, 6, 6)
    maps[3], maps[11], maps[12] = 0, 5.1234567, -1e-30
    levels, flat = compute_reference_levels(maps.numpy())
    assert np.flatnonzero(flat).tolist() == [3, 11, 12] and (levels[flat] == 0).all()
    layout = compute_grid_layout(20, 6, 6)
    panel = activation_grid(maps, title="x", **REFERENCE)
    cell = grid_part(panel, layout)[cell_of(layout, 11)]
    on_table = (cell == VIRIDIS[0]).all(-1)
    assert 0.8 < on_table.mean() < 1  # a thin diagonal
    assert not len(recwarn)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_spoil_only_their_own_channel(value, recwarn):
    maps = noise(8, 5, 5)
    sound = compute_reference_levels(maps.numpy())[0]
    maps[2, 1, 1] = value
    levels, _ = compute_reference_levels(maps.numpy())
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
    alive = grid_part(activation_grid(maps, title="layer", **REFERENCE), layout)
    marked = activation_grid(maps, title="layer", dead=dead, **REFERENCE)
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
    assert not (activation_grid(maps, title="layer", **REFERENCE)[:60] == RED).all(-1).any()


@pytest.mark.parametrize(
    "shape",
    [
        *[(1,), (10,), (512,), (4096,), (3, 1, 1)],
        *[(2048, 8, 8), (512, 4, 4), (32, 148, 148), (64, 224, 224), (1, 500, 500), (6, 24, 24)],
        *[(17, 1, 9), (16, 300, 2), (5, 2000, 10)],
    ],
)
@pytest.mark.parametrize("options", [{}, {"channels": None}, {"order": "index"}, REFERENCE])
def test_every_shape_gives_a_panel_of_sensible_size(shape, options):
    panel = activation_grid(noise(*shape), title="a layer", **options)
    assert panel.dtype == np.uint8 and panel.ndim == 3 and panel.shape[2] == 3
    assert panel.shape[1] <= 1600 and panel.shape[0] <= 7000
    assert panel.std() > 5
    background = np.array(BACKGROUND)
    for edge in (panel[: PAD - 2], panel[1 - PAD :], panel[:, : PAD - 2], panel[:, 1 - PAD :]):
        assert (edge == background).all()
    layout = compute_grid_layout(shape[0], *(shape[1:] or (1, 1)))
    assert max(layout.cell_height, layout.cell_width) >= 24


@pytest.mark.parametrize("rule", ["shared", "reference"])
def test_a_dense_vector_is_drawn_on_the_shared_scale(rule):
    vector = torch.linspace(-1, 3, 41)
    layout = compute_grid_layout(41, 1, 1)
    panel = activation_grid(vector, title="dense", rule=rule, order="index")
    grid = grid_part(panel, layout)
    for unit, level in ((0, 128 - round(127 / 3)), (10, 128), (40, 255)):
        assert (grid[cell_of(layout, unit)] == SIGNED[level]).all()


def test_wrong_input_is_refused():
    for maps in (noise(2, 3, 4, 5), noise(0, 4, 4), torch.tensor(1.0), noise(4, 4)):
        with pytest.raises(ValueError, match="activations must be"):
            activation_grid(maps, title="x")
    with pytest.raises(ValueError, match="dead"):
        activation_grid(noise(4, 2, 2), title="x", dead=np.zeros(5, bool))
    with pytest.raises(ValueError, match="rule"):
        activation_grid(noise(4, 2, 2), title="x", rule="other")
    with pytest.raises(ValueError, match="order"):
        activation_grid(noise(4, 2, 2), title="x", order="other")


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
