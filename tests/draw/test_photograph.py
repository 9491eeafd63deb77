"""Maps over photographs: where they lie, and in which colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from convlens.core.photograph import WHOLE, Photograph
from convlens.draw.attribution_panel import smooth_map
from convlens.draw.colour import DIVERGING, HEAT, colour_table
from convlens.draw.palette import INK, WHITE
from convlens.draw.photograph import (
    as_photograph,
    fit_photograph,
    overlay_map,
    overlay_signed_map,
    spread_map,
)
from support.panels import uniform

HALF = (0.25, 0.0, 0.75, 1.0)  # the middle half of the width


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return (uniform(height, width, 3, seed=seed) * 255).astype(np.uint8)


def test_images_are_shown_as_they_are():
    image = torch.rand(1, 5, 4, generator=torch.Generator().manual_seed(0))
    made = as_photograph(image)
    assert made.frame == WHOLE and not made.seen
    expected = (image[0].numpy() * 255).round().astype(np.uint8)
    assert (made.picture == expected[..., None]).all() and made.picture.shape == (5, 4, 3)
    assert as_photograph(made) is made


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((480, 640), (240, 320)), ((640, 200), (320, 100)), ((200, 320), (200, 320)),
     ((150, 100), (320, 213)), ((28, 28), (308, 308)), ((3, 5), (192, 320)), ((1, 900), (1, 320))],
)  # fmt: skip
def test_photographs_keep_their_proportions(size, fitted):
    whole = picture(*size)
    drawn = fit_photograph(Photograph(whole))
    assert drawn.shape == (*fitted, 3)
    if max(size) < 80:
        factor = fitted[1] // size[1]
        assert (drawn == whole.repeat(factor, 0).repeat(factor, 1)).all()
    else:
        theirs = Image.fromarray(whole).resize(fitted[::-1], Image.Resampling.BILINEAR)
        assert (drawn == np.asarray(theirs)).all()


def test_what_the_network_does_not_see_is_darker_behind_a_frame():
    whole = picture(200, 320)
    drawn = fit_photograph(Photograph(whole, HALF))
    inside, outside = drawn[:, 80:240], np.delete(drawn, np.s_[80:240], axis=1)
    assert (inside[2:-2, 2:-2] == whole[2:-2, 82:238]).all()
    dark = np.rint(0.45 * np.delete(whole, np.s_[80:240], axis=1))
    assert np.abs(outside - dark).max() <= 1
    for inset, colour in ((0, INK), (1, WHITE)):
        line = inside[inset, inset : 160 - inset], inside[-1 - inset, inset : 160 - inset]
        sides = inside[inset : 200 - inset, inset], inside[inset : 200 - inset, -1 - inset]
        assert all((edge == colour).all() for edge in (*line, *sides))


@pytest.mark.parametrize("frame", [WHOLE, HALF, (0.0, 0.125, 1.0, 0.875)])
@pytest.mark.parametrize("signed", [False, True])
def test_overlays_leave_untouched_what_lies_outside_the_frame(frame, signed):
    whole = np.full((160, 160, 3), 120, np.uint8)
    values = np.full((3, 5), 2.0)
    if signed:
        drawn = overlay_signed_map(whole, values, frame, high=2.0)
        ground = 90 + (1 - 90 / 255) * 120  # the photograph in pale grey
        colour = colour_table(DIVERGING)[255]
    else:
        drawn, ground = overlay_map(whole, values, frame, high=2.0), 120
        colour = colour_table(HEAT)[255]
    expected = np.full((160, 160, 3), np.rint(ground))
    left, top, right, bottom = (round(edge * 160) for edge in frame)
    expected[top:bottom, left:right] = np.rint(0.25 * ground + 0.75 * colour.astype(float))
    assert (drawn == expected).all()


def test_signed_maps_are_blue_below_zero_and_red_above():
    whole = np.full((100, 100, 3), 200, np.uint8)
    ground = 90 + (1 - 90 / 255) * 200
    for value, level in ((2.0, 255), (-2.0, 0), (9.0, 255), (-9.0, 0), (1.0, 191), (0.0, 128)):
        drawn = overlay_signed_map(whole, np.full((2, 2), value), high=2.0)
        cover = 0.75 * min(1, abs(value) / 2)
        colour = colour_table(DIVERGING)[level].astype(float)
        assert (drawn == np.rint((1 - cover) * ground + cover * colour)).all(), value
    assert (overlay_signed_map(whole, np.zeros((2, 2)), high=0.0) == np.rint(ground)).all()


@pytest.mark.parametrize("value", [0.0, -3.0, np.nan])
def test_no_evidence_leaves_the_photograph(value):
    whole = picture(60, 90)
    assert (overlay_map(whole, np.full((4, 4), value), high=1.0) == whole).all()
    assert (overlay_map(whole, np.ones((4, 4)), high=0.0) == whole).all()


def test_more_evidence_covers_more():
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    grey = np.full((64, 64, 3), 128, np.uint8)
    change = np.abs(overlay_map(grey, ramp, high=1.0).astype(int) - 128).sum(axis=(0, 2))
    assert change[0] == 0 and change[-1] > change[10] > 0


def test_spread_maps_are_cells_or_interpolated():
    values = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    cells = spread_map(values, (8, 16), HALF, pixelated=True)
    assert (cells[:, 4:12] == values.repeat(4, 0).repeat(4, 1)).all()
    assert not cells[:, :4].any() and not cells[:, 12:].any()
    smooth = spread_map(values, (80, 80))
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], (80, 80), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(smooth, theirs[0, 0].numpy(), atol=1e-3)


# --- smoothing


def test_smoothing_is_a_gaussian_that_keeps_constants_and_sums():
    assert np.allclose(smooth_map(np.full((40, 60), 3.0), 0.05), 3.0, atol=1e-5)
    point = np.zeros((101, 101))
    point[50, 50] = 1.0
    smooth = smooth_map(point, 0.03)
    place = np.arange(101) - 50
    line = np.exp(-0.5 * (place / 3.03) ** 2)
    line /= line.sum()
    np.testing.assert_allclose(smooth, np.outer(line, line), atol=1e-7)
    assert smooth_map(point, 0.0) is point


def test_at_the_edge_the_average_is_of_what_lies_inside():
    point = np.zeros((50, 1))
    point[0] = 1.0
    weights = np.exp(-0.5 * (np.arange(50)[:, None] - np.arange(50)) ** 2 / 2.0**2)
    expected = weights[:, 0] / weights.sum(axis=1)
    np.testing.assert_allclose(smooth_map(point, 0.04)[:, 0], expected, atol=1e-6)
