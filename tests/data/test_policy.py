"""RandAugment, TrivialAugment, erasing and colours against torchvision's own classes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from convlens.config.checks import replace_values
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.data.augment import COLUMNS, DRAWS, Augmentation
from convlens.data.policy import POLICIES, Policy

NOTHING = compose(["exp=reproduce/cats_dogs_overfit"])  # augments nothing
SIZES = [(3, 20, 26), (1, 17, 16), (3, 48, 48)]


def ranges(**values):
    found = replace_values(NOTHING, {f"data.augment.{key}": value for key, value in values.items()})
    return found.data.augment


def pictures(count: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    """Random images in the layout of the cache, one of them flat: it has nothing to stretch."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, *shape[1:], shape[0]), dtype=np.uint8)
    pixels[0] = 90
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def feed(monkeypatch, row: np.ndarray) -> None:
    """Let torchvision draw our numbers: operation, level and sign of one operation after another.

    It draws the level and the sign only where it needs them.
    """
    state = {"slot": -1}

    def randint(high, size=()):
        if high == len(POLICIES["rand_augment"]):
            state["slot"] += 1
            return torch.tensor(int(row[3 * state["slot"]] * high))
        return torch.tensor(int(row[3 * state["slot"] + 1] * high))

    def rand(size=()):
        return torch.tensor(row[3 * state["slot"] + 2], dtype=torch.float64)

    monkeypatch.setattr(torch, "randint", randint)
    monkeypatch.setattr(torch, "rand", rand)


def rows(slots: int) -> Iterator[np.ndarray]:
    """Every operation with both signs, its levels at random."""
    rng = np.random.default_rng(1)
    for operation in range(14):
        for sign in (0.2, 0.8):
            row = rng.random(3 * slots)
            row[0], row[2] = (operation + 0.5) / 14, sign
            yield row


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_rand_augment_is_torchvisions(monkeypatch, shape, magnitude):
    ours = Policy(ranges(policy="rand_augment", policy_operations=2, policy_magnitude=magnitude))
    theirs = v2.RandAugment(2, magnitude, interpolation=v2.InterpolationMode.BILINEAR)
    images = pictures(28, shape)
    drawn = np.stack(list(rows(2)))
    assert ours.numbers == drawn.shape[1]
    found = ours(images, drawn)
    for number, row in enumerate(drawn):
        with monkeypatch.context() as patch:
            feed(patch, row)
            expected = theirs(images[number])
        torch.testing.assert_close(found[number], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SIZES)
def test_trivial_augment_is_torchvisions(monkeypatch, shape):
    ours = Policy(ranges(policy="trivial_augment"))
    theirs = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)
    levels = [0.0, 0.34, 0.5, 0.97]
    drawn = np.stack([np.array([row[0], level, row[2]]) for level in levels for row in rows(1)])
    images = pictures(len(drawn), shape)
    found = ours(images, drawn)
    for number, row in enumerate(drawn):
        with monkeypatch.context() as patch:
            feed(patch, row)
            expected = theirs(images[number])
        torch.testing.assert_close(found[number], expected, rtol=0, atol=1e-6)


def test_an_image_does_not_depend_on_the_others_in_its_batch():
    """To the bit, in the same layout in memory: processes share a batch in any way."""
    augmentation = Augmentation(ranges(policy="rand_augment", erasing=0.5, contrast=0.3))
    rng = np.random.default_rng(3)
    images = pictures(30, (3, 19, 21))
    draws = torch.from_numpy(rng.random((30, DRAWS))).float()
    choices = rng.random((30, augmentation.policy.numbers))
    whole = augmentation(images, draws, choices)
    assert whole.stride() == images.stride()
    for part in (slice(0, 1), slice(1, 8), slice(8, 30)):
        found = augmentation(images[part], draws[part], choices[part])
        assert torch.equal(found, whole[part])


def test_images_that_are_given_stay_as_they_are():
    policy = Policy(ranges(policy="trivial_augment", erasing=1.0))
    images = pictures(6, (3, 16, 16))
    before = images.clone()
    changed = policy(images, np.random.default_rng(0).random((6, policy.numbers)))
    assert torch.equal(images, before) and not torch.equal(changed, before)


def rectangle(image: torch.Tensor, grey: float) -> tuple[int, int, int, int] | None:
    """Top, left, height and width of what is erased, which is a whole rectangle."""
    erased = (image == grey).all(0)
    if not erased.any():
        return None
    tall, wide = (torch.where(erased.any(axis))[0] for axis in (1, 0))
    top, left, bottom, right = (int(each) for each in (tall[0], wide[0], tall[-1], wide[-1]))
    assert erased[top : bottom + 1, left : right + 1].all()
    assert int(erased.sum()) == (bottom + 1 - top) * (right + 1 - left)
    return top, left, bottom + 1 - top, right + 1 - left


def test_erased_rectangles_have_the_areas_and_ratios_of_the_config():
    policy = Policy(
        ranges(erasing=0.6, erasing_area=[0.1, 0.3], erasing_ratio=[0.5, 2.0], erasing_grey=0.25)
    )
    count, height, width = 4000, 40, 60
    images = torch.ones(count, 1, height, width)
    numbers = np.random.default_rng(0).random((count, policy.numbers))
    found = [rectangle(image, 0.25) for image in policy(images, numbers)]
    sizes = [each for each in found if each is not None]
    assert abs(len(sizes) / count - 0.6) < 0.03
    areas = np.array([tall * wide / (height * width) for _, _, tall, wide in sizes])
    ratios = np.array([tall / wide for _, _, tall, wide in sizes])
    assert 0.09 < areas.min() < 0.11 and 0.29 < areas.max() < 0.31
    assert 0.45 < ratios.min() < 0.55 and 1.85 < ratios.max() < 2.2
    assert abs(np.log(ratios).mean()) < 0.02  # uniform in its logarithm
    # they lie anywhere, at all edges too
    assert min(top for top, *_ in sizes) == 0 and min(left for _, left, *_ in sizes) == 0
    assert max(top + tall for top, _, tall, _ in sizes) == height
    assert max(left + wide for _, left, _, wide in sizes) == width


def test_a_rectangle_is_torchvisions(monkeypatch):
    """With the numbers in the order in which it draws them, refused ones included."""
    values = dict(erasing=1.0, erasing_area=[0.3, 0.9], erasing_ratio=[0.2, 5.0], erasing_grey=0.5)
    policy = Policy(ranges(**values))
    theirs = v2.RandomErasing(1.0, scale=(0.3, 0.9), ratio=(0.2, 5.0), value=0.5)
    images = pictures(200, (3, 24, 31))[1:]
    drawn = np.random.default_rng(5).random((len(images), policy.numbers))
    found, missed = policy(images, drawn), 0
    for image, row, changed in zip(images, drawn, found, strict=True):
        pairs, corner = iter(row[3:]), iter(row[1:3])

        def uniform_(tensor, low, high, pairs=pairs):
            return tensor.fill_(float(low) + (float(high) - float(low)) * next(pairs))

        def randint(low, high, size, corner=corner):
            return torch.tensor([int(next(corner) * (high - low))])

        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "uniform_", uniform_)
            patch.setattr(torch, "randint", randint)
            patch.setattr(torch, "rand", lambda *_: torch.zeros(1))
            expected = theirs(image)
        assert torch.equal(changed, expected)
        missed += torch.equal(expected, image)
    assert 0 < missed < 100  # some found no rectangle that fits


@pytest.mark.parametrize(
    ("key", "apply"),
    [
        ("brightness", v2.functional.adjust_brightness),
        ("contrast", v2.functional.adjust_contrast),
        ("saturation", v2.functional.adjust_saturation),
    ],
)
def test_colour_jitter_is_torchvisions(key, apply):
    """Its weights of red, green and blue have one digit less."""
    images = pictures(9, (3, 12, 15))
    draws = torch.full((9, DRAWS), 0.5)
    draws[:, COLUMNS.index(key)] = torch.linspace(0, 0.99, 9)
    found = Augmentation(ranges(**{key: 0.7}))(images, draws)
    for image, draw, changed in zip(images, draws, found, strict=True):
        factor = 1 + 0.7 * (2 * float(draw[COLUMNS.index(key)]) - 1)
        torch.testing.assert_close(changed, apply(image, factor), rtol=0, atol=2e-4)


def test_only_what_changes_an_image_counts_as_augmentation():
    details = dict(policy_operations=3, policy_magnitude=5, erasing_grey=0.1, mix_fraction=0.5)
    nothing = Augmentation(ranges(**details))
    assert not nothing.active and not nothing.changes_images and not nothing.policy.numbers
    mixing = Augmentation(ranges(cutmix=1.0))
    assert mixing.active and not mixing.changes_images
    images = pictures(2, (3, 8, 8))
    assert torch.equal(mixing(images, torch.rand(2, DRAWS)), images)
    for values in ({"policy": "trivial_augment"}, {"erasing": 0.1}):
        assert Augmentation(ranges(**values)).changes_images


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"policy": "randaugment"}, "policy=randaugment: expected null, rand_augment or trivial"),
        ({"policy_magnitude": 31}, "policy_magnitude=31: expected a whole number from 0 to 30"),
        ({"erasing": 2}, "data.augment.erasing=2"),
        ({"erasing_area": [0.5, 1.5]}, "data.augment.erasing_area"),
        ({"mixup": -1}, "data.augment.mixup=-1: expected a number of at least 0"),
        ({"mix_fraction": math.inf}, "data.augment.mix_fraction"),
    ],
)
def test_bad_values_are_named(values, named):
    with pytest.raises(UserError, match=named):
        ranges(**values)
