"""The alarms: raised for curves that overfit, and for no others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from convlens.explain.scores import same_border_place
from convlens.training.alarms import (
    check_against_untrained,
    check_generalisation_gap,
    check_overconfidence,
    check_overfitting,
    find_dead_layers,
    find_mistaken_classes,
)
from convlens.training.evidence_alarms import check_evidence_outside, check_evidence_place

RULE = {"epochs": 5, "rise": 0.15}


def test_raised_and_names_the_epoch_to_stop_at():
    val = [1.0, 0.8, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]
    train = [1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert "stop at epoch 3," in check_overfitting(train, val, **RULE)


def test_not_raised_while_validation_still_falls():
    falling = [1 / (i + 1) for i in range(12)]
    assert check_overfitting(falling, falling, **RULE) is None


def test_not_raised_for_noise_on_a_level_curve():
    val = [0.8, 0.6, 0.5, 0.48, 0.53, 0.49, 0.55, 0.5, 0.52, 0.51]
    train = [0.9 - 0.05 * i for i in range(10)]
    assert check_overfitting(train, val, **RULE) is None


def test_not_raised_when_training_loss_rose_too():
    val = [0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]
    assert check_overfitting(val, val, **RULE) is None


def test_not_raised_before_enough_epochs_agree():
    train = [0.5, 0.4, 0.3, 0.2, 0.1]
    assert check_overfitting(train, [0.5, 0.9, 0.9, 0.9, 0.9], **RULE) is None
    assert check_overfitting([], [], **RULE) is None


def draw_confidences(images: int, rng: np.random.Generator) -> np.ndarray:
    """Return confidences of all kinds; where they are nearly sure, chance is skewed."""
    return rng.choice([0.999, 0.9, 0.7, 0.5], images, p=rng.dirichlet(np.ones(4)))


def test_a_calibrated_network_is_rarely_called_surer_than_right():
    """The number of right answers is Poisson binomial; its distribution is computed exactly."""
    rng = np.random.default_rng(0)
    for images in (5, 20, 50, 200, 400):
        for _ in range(8):
            confidences = draw_confidences(images, rng)
            chances = np.ones(1)  # of 0, 1, … right answers
            for each in confidences:
                chances = np.convolve(chances, [1 - each, each])
            speaks = [
                check_overconfidence(confidences, np.arange(images) < right, gap=0.0) is not None
                for right in range(images + 1)
            ]
            assert chances[speaks].sum() <= 1e-3
            assert speaks == sorted(speaks, reverse=True)  # the fewer right, the sooner
            if images >= 50:
                assert speaks[0]


def test_surer_than_right_is_said_of_enough_images_beyond_the_threshold():
    sure, right = np.full(1000, 0.9), np.arange(1000) < 780
    assert check_overconfidence(sure, right, gap=0.1) is not None
    assert check_overconfidence(sure, right, gap=0.13) is None
    assert check_overconfidence(sure[:8], right[:8] & False, gap=0.1) is not None
    assert check_overconfidence(sure, right, gap=None) is None  # runs of earlier versions
    assert check_overconfidence(1 - sure, right, gap=0.0) is None  # not sure enough
    assert check_overconfidence(sure[:0], right[:0], gap=0.1) is None


CLEAN = {"explain/energy_inside": 0.4, "explain/object_share": 0.2}


def test_evidence_outside_is_judged_by_what_a_map_that_knows_nothing_gets():
    assert check_evidence_outside(CLEAN, lift=1.0) is None
    assert check_evidence_outside(
        {"explain/energy_inside": 0.19, "explain/object_share": 0.2}, lift=1.0
    )
    # large objects: 60 % inside is little where they take up 70 % of the picture
    large = {"explain/energy_inside": 0.6, "explain/object_share": 0.7}
    assert "60%" in check_evidence_outside(large, lift=1.0)
    assert check_evidence_outside({}, lift=1.0) is None  # no masks, nothing to say


def test_evidence_in_one_place_names_the_classes():
    scores = {f"explain/same_place/{name}": share for name, share in zip("abcdefg", [
        0.1, 0.7, 0.8, 0.9, 1.0, 0.75, 0.69], strict=True)}  # fmt: skip
    line = check_evidence_place(scores, share=0.7)
    assert "5 classes" in line and "e in 100%, d in 90%, c in 80%, f in 75% and 1 more" in line
    assert check_evidence_place(scores, share=1.1) is None


def test_a_layer_that_was_dead_from_the_start_did_not_die():
    now = {"explain/dead/a": 0.95, "explain/dead/b": 0.95, "explain/dead/c": 0.5}
    untrained = {"explain/dead/a": 0.0, "explain/dead/b": 0.95, "explain/dead/c": 0.0}
    (line,) = find_dead_layers(now, untrained, share=0.9).values()
    assert line.startswith("layer a died: 95%")


def test_a_class_always_taken_for_another_is_told_once_it_has_enough_pictures():
    labels = np.array([0] * 10 + [1] * 10 + [2] * 4)
    answers = np.array([1] * 6 + [0] * 4 + [1] * 10 + [0] * 4)
    limits = dict(share=0.5, images=5)
    (line,) = find_mistaken_classes(labels, answers, ["cat", "dog", "emu"], **limits).values()
    assert line.startswith("cat is taken for dog in 6 of 10 images")
    assert not find_mistaken_classes(labels, labels, ["cat", "dog", "emu"], **limits)
    answers[:6] = [1, 1, 1, 2, 2, 2]  # six mistakes, but no one class
    assert not find_mistaken_classes(labels, answers, ["cat", "dog", "emu"], **limits)


def test_of_very_many_mistaken_classes_the_worst_are_named_and_the_others_counted():
    names = [f"c{n}" for n in range(1000)]
    labels = np.arange(1000).repeat(10)
    answers = labels.copy()
    wrong = range(0, 1000, 25)  # forty classes taken for the next one,
    for place, truth in enumerate(wrong):
        answers[10 * truth : 10 * truth + (9 if place % 4 == 0 else 6)] = truth + 1  # ten mostly
    *lines, last = find_mistaken_classes(labels, answers, names, share=0.5, images=10).values()
    assert [line.partition(" in ")[0] for line in lines] == [
        f"c{truth} is taken for c{truth + 1}" for truth in list(wrong)[::4]
    ]
    assert last.startswith("30 more classes are mostly taken for one other class each")


def test_peaks_in_one_border_place_against_counting():
    rng = torch.Generator().manual_seed(0)
    peaks = torch.rand(30, 2, generator=rng)
    peaks[:12] = torch.tensor([0.05, 0.93]) + 0.02 * torch.rand(12, 2, generator=rng)
    peaks[29] = float("nan")
    best = 0
    for row, column in peaks.tolist():
        near = 0
        for r, c in peaks.tolist():
            at_border = min(r, c, 1 - r, 1 - c) < 0.2
            near += at_border and abs(r - row) <= 0.15 and abs(c - column) <= 0.15
        if min(row, column, 1 - row, 1 - column) < 0.2:
            best = max(best, near)
    assert same_border_place(peaks, 0.2, 0.15) == pytest.approx(best / 30)
    assert best >= 12
    assert same_border_place(torch.full((3, 2), 0.5)) == 0.0
    assert math.isnan(same_border_place(torch.zeros(0, 2)))


def test_one_answer_for_everything_is_said_as_such():
    labels = np.array([0] * 6 + [1] * 6 + [-1])
    (line,) = find_mistaken_classes(
        labels, np.ones(13, int), ["cat", "dog"], share=0.5, images=5
    ).values()
    assert line.startswith("every validation image is classified as dog; train longer")
    alone = find_mistaken_classes(
        np.ones(6, int), np.ones(6, int), ["cat", "dog"], share=0.5, images=5
    )
    assert alone == {}  # one class only, and all of it right


def test_training_that_made_it_worse_is_told():
    assert "0.800 against 0.700" in check_against_untrained([0.7, 0.9, 0.8])
    assert check_against_untrained([0.7, 0.9, 0.6]) is None
    assert check_against_untrained([0.7]) is None
    assert check_against_untrained([]) is None


GAP = {"images": 400, "epochs": 3, "gap": 0.15}


def test_training_far_above_validation_is_told_with_its_key():
    line = check_generalisation_gap([0.6, 0.97, 0.98, 0.99], [0.6, 0.72, 0.725, 0.73], **GAP)
    assert "0.980 against 0.725" in line and "alarms.gap=0.15" in line


def test_a_gap_that_is_small_or_of_one_epoch_is_none():
    assert check_generalisation_gap([0.9] * 5, [0.8] * 5, **GAP) is None
    assert check_generalisation_gap([0.8, 0.8, 0.99], [0.75, 0.75, 0.7], **GAP) is None
    assert check_generalisation_gap([0.99, 0.99], [0.5, 0.5], **GAP) is None  # too few epochs
    assert check_generalisation_gap([0.5] * 5, [0.8] * 5, **GAP) is None  # dropout and augmentation


def test_a_gap_that_so_few_pictures_leave_to_chance_is_none():
    """Of ten pictures at 0.7 two standard errors are 0.29; of forty 0.145."""
    curves = [0.95] * 3, [0.7] * 3
    assert check_generalisation_gap(*curves, **(GAP | {"images": 10})) is None
    assert check_generalisation_gap(*curves, **(GAP | {"images": 40}))
