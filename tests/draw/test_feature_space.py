"""The feature space: thumbnails where there is room, dots where not, mistakes in red."""

from __future__ import annotations

import numpy as np
import pytest

from convlens.draw.feature_space import THUMBNAIL, feature_space, make_thumbnail
from convlens.draw.palette import CLASSES, GREY, RED

SHARES = np.array([0.5, 0.25])
NAMES = ("cat", "dog")


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=-1).sum())


def draw(points, labels=None, wrong=None, names=NAMES, shares=SHARES) -> np.ndarray:
    points = np.asarray(points, float)
    labels = np.zeros(len(points), int) if labels is None else np.asarray(labels)
    wrong = np.zeros(len(points), bool) if wrong is None else np.asarray(wrong)
    thumbnails = [np.full((THUMBNAIL, THUMBNAIL, 3), 90, np.uint8)] * len(points)
    return feature_space(points, thumbnails, labels, wrong, names, shares, title="x")


def test_each_image_is_at_its_place_in_the_colour_of_its_class():
    picture = draw([[0, 0], [4, 2]], labels=[0, 1])
    assert count(picture, (90, 90, 90)) == 2 * THUMBNAIL**2
    first, second = (
        np.argwhere((picture == CLASSES[k]).all(axis=-1))[200:].mean(axis=0) for k in (0, 1)
    )
    assert second[0] < first[0] and second[1] > first[1]  # up and to the right
    assert (second - first)[1] == pytest.approx(-2 * (second - first)[0], rel=0.1)
    assert not count(picture, RED)


def test_what_has_no_room_is_a_dot():
    apart, near = draw([[0, 0], [1, 1]]), draw([[0, 0], [0.01, 0], [1, 1]])
    covered = count(apart, (90, 90, 90)) - count(near, (90, 90, 90))
    assert 40 < covered < 300  # the third image is a dot above the first
    assert count(near, CLASSES[0]) > count(apart, CLASSES[0])
    # many images: no thumbnail covers another, and all are drawn
    rng = np.random.default_rng(0)
    crowd = draw(rng.normal(size=(300, 2)), labels=rng.integers(0, 2, 300))
    assert count(crowd, (90, 90, 90)) > 20 * THUMBNAIL**2


def test_mistakes_are_marked_as_thumbnails_and_as_dots():
    points = [[0, 0], [0, 0], [5, 3]]
    none = draw(points)
    for wrong in ([True, False, False], [False, True, False], [False, False, True]):
        assert count(draw(points, wrong=wrong), RED) > count(none, RED) == 0


def test_unknown_classes_and_too_many_are_grey():
    for labels, names in (([-1, -1], NAMES), ([0, 1], [f"c{k}" for k in range(40)])):
        picture = draw([[0, 0], [4, 2]], labels=labels, names=names)
        assert count(picture, GREY) > 500
        assert not any(count(picture, colour) for colour in CLASSES)


def test_degenerate_places():
    nan = np.array([np.nan, np.nan])
    for points in ([[0, 0]], [[0, 0]] * 5, [[1, 0], [2, 0]]):
        assert draw(points, shares=nan).std() > 5
    with_gap = draw([[0, 0], [np.nan, np.nan], [4, 2]])
    assert len(with_gap) > len(draw([[0, 0], [4, 2]]))  # a line says so
    with pytest.raises(ValueError, match="finite"):
        draw([[np.nan, np.nan]])
    with pytest.raises(ValueError, match="N, 2"):
        draw([[0, 0, 0]])
    with pytest.raises(ValueError, match="2 labels"):
        draw([[0, 0]], labels=[0, 1])


@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 28, 28), (3, 8, 60), (3, 300, 7)])
def test_thumbnails_keep_proportions(shape):
    thumbnail = make_thumbnail(np.random.default_rng(0).random(shape, np.float32))
    height, width = thumbnail.shape[:2]
    assert max(height, width) == THUMBNAIL and thumbnail.dtype == np.uint8
    assert abs(height - THUMBNAIL * shape[1] / max(shape[1:])) <= 1
    assert abs(width - THUMBNAIL * shape[2] / max(shape[1:])) <= 1
