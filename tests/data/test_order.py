"""The order of the images and the batches made from it."""

from __future__ import annotations

import numpy as np
import pytest

from convlens.data.loader import EvaluationLoader, TrainingLoader
from convlens.data.order import TrainingOrder, draw_even_sample
from convlens.data.pixels.dataset import Images


def pictures(count: int) -> Images:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    return Images(images, np.arange(count, dtype=np.int64), [str(i) for i in range(count)])


def test_a_pass_holds_every_picture_once_and_epochs_differ():
    order = TrainingOrder(23, 5, seed=3)
    first, second = (np.concatenate(list(order.batches(epoch))) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(23))
    assert not np.array_equal(first, second)
    assert len(order) == 5


def test_fixed_steps_draw_everything_before_anything_again():
    """250 steps of 20 from 2,000, as in the documents: 2.5 passes an epoch, 5 in two."""
    order = TrainingOrder(2000, 20, seed=0, steps=250)
    rows = np.concatenate([b for epoch in (0, 1) for b in order.batches(epoch)])
    assert len(rows) == 10_000
    assert (np.bincount(rows) == 5).all()
    for turn in range(5):
        assert len(set(rows[turn * 2000 : (turn + 1) * 2000])) == 2000


def test_fixed_steps_cross_a_pass_within_a_batch():
    order = TrainingOrder(7, 5, seed=0, steps=3)
    rows = np.concatenate([b for epoch in range(7) for b in order.batches(epoch)])
    assert (np.bincount(rows) == 15).all()


def test_an_epoch_is_the_same_whenever_it_is_asked_for():
    """What a resumed run relies on."""
    for steps in (None, 4):
        one, other = (TrainingOrder(30, 8, seed=1, steps=steps) for _ in range(2))
        list(one.batches(0))
        for a, b in zip(one.batches(5), other.batches(5), strict=True):
            assert np.array_equal(a, b)


def test_processes_share_out_the_global_batch_and_its_draws():
    whole = TrainingLoader(pictures(11), TrainingOrder(11, 4, 0), seed=0)
    parts = [TrainingLoader(pictures(11), TrainingOrder(11, 4, 0), 0, rank, 2) for rank in (0, 1)]
    for loader in (whole, *parts):
        loader.set_epoch(2)
    for together, *shares in zip(whole, *parts, strict=True):
        for key in ("image", "label", "row", "draws"):
            joined = np.concatenate([share[key].numpy() for share in shares])
            assert np.array_equal(together[key].numpy(), joined)


def test_evaluation_sees_each_picture_once_over_all_processes():
    rows = [
        int(row)
        for rank in range(3)
        for batch in EvaluationLoader(pictures(10), 2, rank, 3)
        for row in batch["row"]
    ]
    assert sorted(rows) == list(range(10))


def test_batches_lie_channels_last():
    batch = next(iter(EvaluationLoader(pictures(4), 4)))
    assert batch["image"].shape == (4, 3, 1, 1)
    assert batch["image"].stride()[1] == 1


@pytest.mark.parametrize("seed", range(5))
def test_an_even_sample_is_in_proportion_and_so_are_its_beginnings(seed):
    sizes = [50, 30, 20, 1]
    labels = np.repeat(np.arange(4), sizes)
    sample = draw_even_sample(labels, 80, seed)
    assert len(set(sample.tolist())) == 80
    for count in range(1, 81):
        shares = np.bincount(labels[sample[:count]], minlength=4)
        assert np.abs(shares - count * np.array(sizes) / sum(sizes)).max() < 2
    assert draw_even_sample(labels, 30, seed).tolist() == sample[:30].tolist()
    assert sorted(draw_even_sample(labels, 1000, seed)) == list(range(101))


# ------------------------------------------------------------------------------ balanced classes

UNEVEN = np.repeat([0, 1, 2, 5], [900, 80, 15, 5])  # class 3 and 4 have no training image


@pytest.mark.parametrize("steps", [None, 40])
def test_balanced_epochs_draw_all_classes_equally_often(steps):
    order = TrainingOrder(1000, 25, seed=2, steps=steps, labels=UNEVEN)
    rows = np.concatenate([b for epoch in range(40) for b in order.batches(epoch)])
    assert len(rows) == 40_000 and len(order) == 40
    shares = np.bincount(UNEVEN[rows], minlength=6) / len(rows)
    np.testing.assert_allclose(shares, [1 / 4, 1 / 4, 1 / 4, 0, 0, 1 / 4], atol=0.01)
    # and within a class all images: counts of 2,000 draws of each of five images
    counts = np.bincount(rows, minlength=1000)[-5:]
    assert counts.min() > 1800 and counts.max() < 2200


def test_balanced_draws_have_the_probabilities_of_torchs_sampler():
    """``WeightedRandomSampler`` with the weight 1 / (images of the class), against its shares."""
    import torch
    from torch.utils.data import WeightedRandomSampler

    weights = 1 / np.bincount(UNEVEN)[UNEVEN]
    rng = torch.Generator().manual_seed(0)
    theirs = np.array(list(WeightedRandomSampler(weights.tolist(), 40_000, generator=rng)))
    order = TrainingOrder(1000, 1000, seed=0, labels=UNEVEN)
    ours = np.concatenate([b for epoch in range(40) for b in order.batches(epoch)])
    found = [np.bincount(UNEVEN[rows], minlength=6) / 40_000 for rows in (ours, theirs)]
    np.testing.assert_allclose(*found, atol=0.015)


def test_of_several_classes_a_class_is_drawn_and_then_one_of_its_images():
    """Against the two draws themselves; the frequent companion of the rare class comes more often.

    Class 3 has no training image.
    """
    present = np.zeros((1000, 4), bool)
    present[:900, 0] = present[850:, 1] = present[995:, 2] = True
    rng = np.random.default_rng(0)
    theirs = [rng.choice(np.flatnonzero(present[:, k])) for k in rng.integers(0, 3, 40_000)]
    order = TrainingOrder(1000, 1000, seed=0, labels=present)
    ours = np.concatenate([b for epoch in range(40) for b in order.batches(epoch)])
    found = [present[rows].mean(axis=0) for rows in (ours, theirs)]
    np.testing.assert_allclose(*found, atol=0.015)
    exact = np.array([1 / 3 + 50 / 150 / 3, 1 / 3 + 50 / 900 / 3 + 1 / 3, 1 / 3 + 5 / 150 / 3, 0])
    np.testing.assert_allclose(found[0], exact, atol=0.01)
    # of exclusive classes it is the sampler of one class an image
    hot = UNEVEN[:, None] == np.arange(6)
    one, other = (TrainingOrder(1000, 64, seed=1, labels=each) for each in (UNEVEN, hot))
    np.testing.assert_allclose(one._chances, other._chances, rtol=1e-12)


def test_a_balanced_epoch_is_the_same_whenever_it_is_asked_for():
    one, other = (TrainingOrder(1000, 64, seed=1, labels=UNEVEN) for _ in range(2))
    list(one.batches(0))
    batches = [np.concatenate(list(each.batches(5))) for each in (one, other)]
    assert np.array_equal(*batches) and not np.array_equal(batches[0][:100], np.arange(100))
    assert not np.array_equal(batches[0], np.concatenate(list(one.batches(6))))
