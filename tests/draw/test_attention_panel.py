"""Attention panels: every map lies on the photograph, by its own scale or the row's."""

import numpy as np
import pytest
import torch

from convlens.core.photograph import Photograph
from convlens.draw.attention_panel import CELL, MapRow, NamedMap, attention_panel
from convlens.draw.colour import HEAT, colour_table
from convlens.draw.palette import RED
from support.panels import any_of, assert_margin_is_empty, is_colour


def grey(size: int = 160) -> torch.Tensor:
    """A picture of the grey level 128."""
    return torch.full((1, size, size), 128 / 255)


def blended(level: int, cover: float) -> np.ndarray:
    """Grey 128 under heat, by the formula: a = 0.75 · cover."""
    a = 0.75 * cover
    return np.rint((1 - a) * 128 + a * colour_table(HEAT)[level].astype(float)).astype(np.uint8)


def panel(*rows: MapRow, **options) -> np.ndarray:
    return attention_panel(grey(), rows, title="probe", **options)


def test_the_maps_of_a_row_share_a_scale_or_have_their_own():
    maps = [NamedMap("head 1", torch.ones(4, 4)), NamedMap("head 2", torch.full((4, 4), 0.5))]
    full, half = blended(255, 1), blended(128, 0.5)
    shared = panel(MapRow("blocks.0", maps))
    assert is_colour(shared, full).sum() == is_colour(shared, half).sum() == CELL * CELL
    own = panel(MapRow("evidence", maps, shared=False))
    assert is_colour(own, full).sum() == 2 * CELL * CELL and not any_of(own, half)
    given = panel(MapRow("evidence", [NamedMap("a", torch.ones(4, 4), scale=2.0)], shared=False))
    assert is_colour(given, half).sum() == CELL * CELL
    for drawn in (shared, own, given):
        assert_margin_is_empty(drawn)


LONG = (  # layers of timm
    "layers.2.blocks.17.attn", "stages.2.blocks.13.attn_grid.attn", "layers.3.blocks.1.attn.qkv",
    "levels.2.transformer_encoder.19.attn", "stages.3.blocks.4.context_module.main.proj",
)  # fmt: skip


@pytest.mark.parametrize("heads", [1, 3])
def test_the_names_of_layers_are_whole_however_few_maps_they_have(heads):
    maps = [NamedMap(f"head {k}", torch.ones(4, 4)) for k in range(heads)]
    wide = panel(MapRow("x", maps * 6)).shape[1]
    for name in LONG:
        drawn = panel(MapRow(name, maps))
        assert drawn.shape[1] <= wide
        # no letter is cut off: each of them makes a difference
        for place in (0, len(name) // 3, len(name) // 2, len(name) - 1):
            other = name[:place] + "W" + name[place + 1 :]
            assert not np.array_equal(panel(MapRow(other, maps)), drawn), (name, place)


def test_a_name_without_end_keeps_both_ends_and_the_number_of_cells():
    maps, endless = [NamedMap("head 1", torch.ones(4, 4))], "a" * 40 + "." + "b" * 400
    drawn = panel(MapRow(endless, maps))
    assert drawn.shape[1] < 900
    finer = [NamedMap("head 1", torch.ones(8, 8))]
    rows = MapRow("c" + endless[1:], maps), MapRow(endless[:-1] + "c", maps), MapRow(endless, finer)
    for other in rows:
        assert not np.array_equal(panel(other), drawn)


def test_cells_of_the_grid_are_where_the_patches_are():
    map = torch.zeros(2, 3)
    map[1, 2] = 1
    drawn = panel(MapRow("x", [NamedMap("a", map)]))
    rows, columns = np.nonzero(is_colour(drawn, blended(255, 1)))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (CELL // 2, CELL // 3)
    # the rest of the photograph is untouched: the large one, and five sixths of the small one
    assert is_colour(drawn, (128, 128, 128)).sum() >= 320 * 320 + CELL * CELL * 5 // 6


def test_maps_lie_in_the_frame_that_the_network_sees():
    picture = np.full((100, 200, 3), 128, np.uint8)
    photograph = Photograph(picture, (0.25, 0.0, 0.75, 1.0), "cropped")
    row = MapRow("x", [NamedMap("a", torch.ones(2, 2))])
    drawn = attention_panel(photograph, [row], title="probe")
    columns = np.nonzero(is_colour(drawn, blended(255, 1)))[1]
    assert np.ptp(columns) + 1 == CELL // 2 - 2 * 2  # without the two lines of the frame


def test_more_maps_than_columns_are_wrapped():
    maps = [NamedMap(f"head {k}", torch.ones(4, 4)) for k in range(5)]
    wide, tall = panel(MapRow("x", maps)), panel(MapRow("x", maps), columns=2)
    assert wide.shape[1] > tall.shape[1]
    assert is_colour(tall, blended(255, 1)).sum() == 5 * CELL * CELL


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_maps_without_a_finite_value_above_zero_are_named(value):
    for shared in (True, False):
        drawn = panel(MapRow("x", [NamedMap("a", torch.full((4, 4), value))], shared))
        assert any_of(drawn, RED)
        assert is_colour(drawn, (128, 128, 128)).sum() >= 320 * 320 + CELL * CELL


def test_a_panel_without_maps_or_with_a_wrong_shape_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        panel()
    with pytest.raises(ValueError, match="at least one"):
        panel(MapRow("x", []))
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        panel(MapRow("x", [NamedMap("a", torch.ones(2, 4, 4))]))
