"""Augmentation against Keras's own steps, written out slowly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from convlens.config.checks import replace_values
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.data.augment import COLUMNS, DRAWS, Augmentation

NOTHING = compose(["exp=reproduce/cats_dogs_overfit"])  # augments nothing


def augmentation(**ranges) -> Augmentation:
    """One with these ranges, everything else off."""
    found = replace_values(NOTHING, {f"data.augment.{key}": value for key, value in ranges.items()})
    return Augmentation(found.data.augment)


def keras_affine(image, theta, tx, ty, shear, zx, zy):
    """``apply_affine_transform`` of Keras with fill_mode nearest, pixel by pixel.

    ``image`` is (H, W, C); angles in degrees, tx (rows) and ty (columns) in pixels.
    """
    theta, shear = math.radians(theta), math.radians(shear)
    rotation = [[math.cos(theta), -math.sin(theta), 0], [math.sin(theta), math.cos(theta), 0]]
    shearing = [[1, -math.sin(shear), 0], [0, math.cos(shear), 0]]
    matrix = (
        np.array([*rotation, [0, 0, 1]])
        @ np.array([[1, 0, tx], [0, 1, ty], [0, 0, 1]])
        @ np.array([*shearing, [0, 0, 1]])
        @ np.diag([zx, zy, 1.0])
    )
    height, width, _ = image.shape
    centre = np.array([height / 2 - 0.5, width / 2 - 0.5])
    out = np.empty_like(image, dtype=float)
    for row in range(height):
        for column in range(width):
            place = matrix @ np.array([row - centre[0], column - centre[1], 1.0])
            r = min(max(place[0] + centre[0], 0), height - 1)
            c = min(max(place[1] + centre[1], 0), width - 1)
            r0, c0 = int(r), int(c)
            r1, c1 = min(r0 + 1, height - 1), min(c0 + 1, width - 1)
            a, b = r - r0, c - c0
            out[row, column] = (1 - a) * ((1 - b) * image[r0, c0] + b * image[r0, c1]) + a * (
                (1 - b) * image[r1, c0] + b * image[r1, c1]
            )
    return out


RANGES = dict(
    rotation_degrees=40, width_shift=0.2, height_shift=0.2, shear_degrees=12, zoom=0.2
)  # fmt: skip


def test_geometry_equals_keras_on_many_draws():
    rng = np.random.default_rng(1)
    pictures = rng.random((12, 20, 26, 3))
    draws = torch.from_numpy(rng.random((12, DRAWS)))
    augment = augmentation(**RANGES)
    ours = augment(torch.from_numpy(pictures).permute(0, 3, 1, 2), draws).permute(0, 2, 3, 1)

    def within(picture, name, limit):
        return (2 * float(draws[picture, COLUMNS.index(name)]) - 1) * limit

    for n in range(12):
        theirs = keras_affine(
            pictures[n],
            within(n, "rotation", 40),
            within(n, "height_shift", 0.2) * 20,
            within(n, "width_shift", 0.2) * 26,
            within(n, "shear", 12),
            1 + within(n, "zoom_height", 0.2),
            1 + within(n, "zoom_width", 0.2),
        )
        assert np.abs(ours[n].numpy() - theirs).max() < 1e-9


def test_zoom_below_one_magnifies():
    draws = torch.full((1, DRAWS), 0.5)
    draws[0, COLUMNS.index("zoom_height")] = draws[0, COLUMNS.index("zoom_width")] = 0.0
    picture = torch.zeros(1, 1, 21, 21)
    picture[0, 0, 8:13, 8:13] = 1
    larger = augmentation(zoom=0.5)(picture, draws)
    assert larger.sum() > 2 * picture.sum()


@pytest.mark.parametrize(("key", "axis"), [("horizontal_flip", 3), ("vertical_flip", 2)])
def test_flips_mirror_half_of_the_pictures(key, axis):
    draws = torch.full((2, DRAWS), 0.75)
    draws[0, COLUMNS.index(key)] = 0.25
    pictures = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    flipped = augmentation(**{key: True})(pictures, draws)
    torch.testing.assert_close(flipped[0], pictures[0].flip(axis - 1))
    torch.testing.assert_close(flipped[1], pictures[1])


def test_random_resized_crop_is_a_cut_out_resized():
    draws = torch.full((1, DRAWS), 0.5)
    draws[0, COLUMNS.index("crop_top")] = draws[0, COLUMNS.index("crop_left")] = 0.0
    augment = augmentation(random_resized_crop=[0.25, 0.25], crop_ratio=[1.0, 1.0])
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    cut = torch.nn.functional.interpolate(picture[:, :, :8, :8], size=16, mode="bilinear")
    # interpolate clamps at the cut's own edge, a sampling grid sees the pixels behind it
    torch.testing.assert_close(augment(picture, draws)[..., :14, :14], cut[..., :14, :14])


def test_a_picture_depends_on_its_own_draws_only():
    rng = torch.Generator().manual_seed(0)
    pictures, draws = torch.rand(5, 3, 12, 12, generator=rng), torch.rand(5, DRAWS, generator=rng)
    augment = augmentation(**RANGES, horizontal_flip=True, brightness=0.3, hue=0.1, saturation=0.4)
    together = augment(pictures, draws)
    for n in range(5):
        torch.testing.assert_close(
            together[n : n + 1], augment(pictures[n : n + 1], draws[n : n + 1])
        )


def test_colours():
    draws = torch.full((1, DRAWS), 0.5)
    picture = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    everything = augmentation(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.5)
    torch.testing.assert_close(everything(picture, draws), picture)
    draws[0, COLUMNS.index("brightness")] = 0.0
    torch.testing.assert_close(augmentation(brightness=0.5)(picture, draws), picture * 0.5)
    draws[0, COLUMNS.index("saturation")] = 0.0
    grey = augmentation(saturation=1.0)(picture, draws)
    assert float((grey.amax(1) - grey.amin(1)).max()) < 1e-6
    draws[0, COLUMNS.index("hue")] = (1 / 3 + 0.5) / 1
    turned = augmentation(hue=0.5)(picture, draws)
    torch.testing.assert_close(turned, picture.roll(1, dims=1), atol=1e-5, rtol=0)


def test_nothing_on_changes_nothing():
    pictures = torch.rand(2, 3, 8, 8)
    assert not augmentation().active
    assert torch.equal(augmentation()(pictures, torch.rand(2, DRAWS)), pictures)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"rotation_degrees": 200}, "data.augment.rotation_degrees=200"),
        ({"zoom": 1.5}, "data.augment.zoom=1.5"),
        ({"fill": "nearst"}, "fill=nearst: expected nearest, reflect or constant"),
        ({"random_resized_crop": [0.5]}, "data.augment.random_resized_crop"),
    ],
)
def test_bad_ranges_are_named(keys, named):
    with pytest.raises(UserError, match=named):
        augmentation(**keys)
