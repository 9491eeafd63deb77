"""Suspects and their alarm: planted wrong labels are found, honest ones raise nothing."""

from __future__ import annotations

import numpy as np
import pytest

from convlens.training.diary.suspects import check_labels, check_presence, find_suspects


def margins(count: int, wrong: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Margins of a network as certain as it claims to be; some labels are then made wrong.

    Of labels with margins of size m, it contradicts the fraction 1 / (1 + e^m).
    """
    rng = np.random.default_rng(seed)
    size = np.abs(rng.normal(3, 1.5, count))
    drawn = np.where(rng.random(count) < 1 / (1 + np.exp(size)), -size, size)
    is_wrong = rng.random(count) < wrong
    return np.where(is_wrong, -drawn, drawn), is_wrong


@pytest.mark.parametrize("seed", range(20))
def test_chance_alone_raises_no_alarm(seed):
    found = find_suspects(margins(2000, 0.0, seed)[0])
    assert found.count and not found.exceed_chance
    assert abs(found.count - found.by_chance) < 3 * found.deviation


@pytest.mark.parametrize("wrong", [0.05, 0.1, 0.3])
def test_wrong_labels_raise_one_and_those_with_firm_margins_are_flagged(wrong):
    drawn, is_wrong = margins(2000, wrong, seed=0)
    found = find_suspects(drawn)
    assert found.exceed_chance
    firm = np.abs(drawn) >= np.quantile(np.abs(drawn), 0.75)
    assert np.array_equal(found.flags, firm & (drawn < 0))
    assert found.flags[is_wrong & firm].mean() > 0.95
    others = (~is_wrong[found.flags]).sum()  # the network errs as often as it says
    assert abs(others - found.by_chance) < 3 * found.deviation


@pytest.mark.parametrize("drawn", [np.full(50, -1.0), np.zeros(50), np.full(50, np.nan)])
def test_a_network_that_does_not_know_most_labels_suspects_none(drawn):
    found = find_suspects(drawn)
    assert not found.count and not found.exceed_chance and np.isnan(found.cut)


def test_the_alarm_names_the_worst_pairs_and_keeps_to_its_threshold():
    drawn = np.array([8.0] * 80 + [-9.0] * 20)
    labels = np.array([0] * 80 + [0] * 5 + [1] * 15)
    others = np.array([1] * 80 + [1] * 5 + [0] * 15)
    found, names = find_suspects(drawn), ["cat", "dog"]
    line = check_labels(found, labels, others, names, excess=0.02)
    assert "20 of 100 training images, where chance gives 0" in line
    assert "(dog that looks like cat: 15, cat that looks like dog: 5)" in line
    assert check_labels(found, labels, others, names, excess=0.25) is None


def test_with_several_classes_the_alarm_names_the_classes():
    drawn = np.full((50, 2), 8.0)
    drawn[:15, 1] = -9.0
    line = check_presence(find_suspects(drawn), False, ["cat", "dog"], excess=0.02)
    assert line.startswith("probably missing labels: 15 of 100, where chance gives 0 (dog: 15)")
