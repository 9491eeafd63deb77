"""What is planted in drawn images: exactly its share, only at its place, and telling the class."""

import numpy as np
import pytest

from convlens.data.sources.planted import KINDS, find_place, flip_labels, paint_shortcut

NAMES = ("disc", "triangle", "square", "star", "ring")
LABELS = np.arange(120) % 5
SIDES = {"corner": 2, "watermark": 2, "border": 1, "tint": 1, "texture": 1}  # of a place, at least


def make_images(size: int = 64, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(60, 200, (120, size, size, channels), np.uint8)


def paint(images: np.ndarray, fraction: float = 1.0, *, seed: int = 3, stream: int = 0, **other):
    """Return painted copies of the images, and which are marked."""
    images = images.copy()
    return images, paint_shortcut(
        images, LABELS, fraction, NAMES, seed=seed, stream=stream, **other
    )


@pytest.mark.parametrize("size", [32, 64, 150])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_exactly_its_share_is_marked_and_only_the_place_changes(kind, channels, size):
    before = make_images(size, channels)
    images, marked = paint(before, 0.3, kind=kind)
    changed = (images != before).any(axis=3)
    assert marked.dtype == bool and marked.sum() == 36
    assert not changed[~marked].any()
    place = np.zeros((size, size), bool)
    left, top, right, bottom = find_place(kind, size, seed=3)
    place[top:bottom, left:right] = True
    assert 0 <= left < right <= size and 0 <= top < bottom <= size
    assert not changed[:, ~place].any()
    assert changed[marked][:, place].mean() > 0.5  # the text's own grey may be that below it
    # the place is small, and lies at the border
    assert place.mean() <= 0.3
    margin = max(1, size // 64)
    edges = [place[margin], place[-1 - margin], place[:, margin], place[:, -1 - margin]]
    assert sum(edge.any() for edge in edges) >= SIDES[kind]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mark_is_the_same_within_a_class_and_differs_between_classes(kind, channels):
    flat = np.full((120, 64, 64, channels), 128, np.uint8)
    images, _ = paint(flat, kind=kind)
    for label in range(5):
        same = images[label == LABELS]
        assert (same == same[0]).all()
    for one in range(5):
        for other in range(one):
            apart = np.abs(images[one].astype(int) - images[other])
            assert apart.max() > 15  # of 255: no class is told by rounding


@pytest.mark.parametrize("kind", KINDS)
def test_a_mark_tells_the_class_on_any_ground(kind):
    """The mark alone, on noise: each image is nearest to the mean of its class."""
    images, _ = paint(make_images(), kind=kind)
    left, top, right, bottom = find_place(kind, 64, seed=3)
    rows = images[:, top:bottom, left:right].reshape(120, -1).astype(float)
    even, odd = rows[:60], rows[60:]
    means = np.stack([even[LABELS[:60] == label].mean(axis=0) for label in range(5)])
    nearest = ((odd[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == LABELS[60:]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_place_hangs_on_the_seed_and_the_images_on_the_stream(kind):
    images, places = np.full((120, 32, 32, 1), 128, np.uint8), set()
    for seed in range(12):
        (first, marks), (second, others) = (
            paint(images, 0.5, seed=seed, stream=stream, kind=kind) for stream in (0, 1)
        )
        assert not np.array_equal(marks, others)
        changed = [(drawn != 128).any(axis=(0, 3)) for drawn in (first, second)]
        assert np.array_equal(*changed)
        places.add(changed[0].tobytes())
        assert find_place(kind, 32, seed) == find_place(kind, 32, seed)
    assert len({find_place(kind, 32, seed) for seed in range(12)}) == len(places) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_none_and_all(kind):
    before = make_images()
    images, marked = paint(before, 0.0, kind=kind)
    assert not marked.any() and np.array_equal(images, before)
    assert paint(before, kind=kind)[1].all()


def test_the_corner_has_the_colour_of_the_class():
    """The hues are evenly spaced, as they were before there were other kinds."""
    images, _ = paint(make_images())
    left, top, right, bottom = find_place("corner", 64, seed=3)
    assert (right - left, bottom - top) == (7, 7)
    red = images[0, top:bottom, left:right]
    assert (red == np.array([242, 24, 24])).all()


def test_label_noise_makes_exactly_its_share_wrong_and_every_other_class_likely():
    labels = np.arange(3000) % 5
    flipped = flip_labels(labels, 0.3, 5, seed=0, stream=0)
    assert (flipped != labels).sum() == 900
    shifts = np.bincount((flipped - labels)[flipped != labels] % 5, minlength=5)
    assert shifts[0] == 0 and shifts[1:].min() > 180
    again, other = (flip_labels(labels, 0.3, 5, seed=0, stream=s) for s in (0, 1))
    assert np.array_equal(flipped, again) and not np.array_equal(flipped, other)
    assert np.array_equal(flip_labels(labels, 0.0, 5, seed=0, stream=0), labels)
