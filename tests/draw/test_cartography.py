"""The map of a data set: every known image is drawn where its numbers say, suspects are ringed."""

from __future__ import annotations

import numpy as np
import pytest

from convlens.draw.cartography import cartography_map
from convlens.draw.palette import RED


def draw(confidence, suspected=False, classes: int = 2) -> np.ndarray:
    confidence = np.asarray(confidence, float)
    count = len(confidence)
    return cartography_map(
        confidence, np.full(count, 0.25), np.arange(count) % classes,
        np.full(count, suspected), [f"class {n} 狗 $x" for n in range(classes)], title="map",
    )  # fmt: skip


def find_red(picture: np.ndarray) -> np.ndarray:
    """Return (n, 2): rows and columns of pixels in the colour of suspects."""
    return np.argwhere((np.abs(picture.astype(int) - RED) < 40).all(axis=2))


def test_suspects_are_ringed_where_their_numbers_say():
    assert not len(find_red(draw([0.1, 0.9])))
    low, high = (find_red(draw([value], suspected=True))[:, 0] for value in (0.1, 0.9))
    assert np.median(low) > np.median(high) + 200  # pixels: low confidence is further down


@pytest.mark.parametrize("classes", [1, 8, 9, 40])
def test_any_number_of_classes_and_of_images_has_one_size(classes):
    pictures = [draw(np.linspace(0, 1, count), classes=classes) for count in (1, 7000)]
    assert pictures[0].dtype == np.uint8 and pictures[0].shape == pictures[1].shape


def test_unknown_images_are_left_out_and_a_map_of_none_is_refused():
    assert np.array_equal(draw([0.5, np.nan, 0.2]), draw([0.5, np.nan, 0.2]))
    with pytest.raises(ValueError, match="at least one"):
        draw([np.nan])
