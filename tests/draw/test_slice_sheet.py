"""The sheet of slices: a row each, with as many images as there are."""

import numpy as np
import pytest

from convlens.core.photograph import Photograph
from convlens.draw.slice_sheet import SliceRow, slice_sheet


def make_row(images: int = 4, name: str = "dog") -> SliceRow:
    rng = np.random.default_rng(0)
    pictures = [
        Photograph(rng.integers(0, 255, (90 + 20 * k, 120, 3), np.uint8)) for k in range(images)
    ]
    captions = [f"a class with a long name {k}" for k in range(images)]
    return SliceRow(
        name, ["12 images, accuracy 0.08", "the rest of the class 0.92 (chance 0.0002)"],
        pictures, captions, [""] * (images // 2) + ["a/long/name.jpg"] * (images - images // 2),
    )  # fmt: skip


def test_each_slice_is_a_row():
    one, two = (slice_sheet([make_row()] * count, title="x") for count in (1, 2))
    assert one.dtype == np.uint8 and one.shape[1] > 600
    assert two.shape[0] > 1.6 * one.shape[0] and two.shape[1] == one.shape[1]


@pytest.mark.parametrize("images", [0, 1, 2])
def test_few_images_and_long_names(images):
    assert slice_sheet([make_row(images, name="x" * 300)], title="y" * 400).ndim == 3


def test_no_slice_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        slice_sheet([], title="x")
