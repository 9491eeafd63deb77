"""The cut by threshold samples: which it catches, and which network judges an image."""

from __future__ import annotations

import math

import numpy as np
import pytest

from convlens.training.diary.threshold import find_cut, judge


@pytest.mark.parametrize("count", [1, 2, 7, 100, 333])
@pytest.mark.parametrize("catch", [0.5, 0.9, 0.99])
def test_the_cut_is_the_lowest_that_catches_so_many(count, catch):
    margins = np.random.default_rng(count).normal(size=count)
    cut = find_cut(margins, catch)
    assert (margins <= cut).mean() >= catch and cut in margins
    lower = margins[margins < cut]
    assert not len(lower) or (margins <= lower.max()).mean() < catch


def test_the_cut_is_the_percentile_of_the_paper():
    """By numpy, between whose neighbours it is."""
    margins = np.random.default_rng(0).normal(size=667)
    low, high = (np.quantile(margins, 0.99, method=how) for how in ("lower", "higher"))
    assert low <= find_cut(margins, 0.99) <= high


def row(file: str, label: str, aum: str, other: str = "") -> dict[str, str]:
    return {"file": file, "class": label, "aum": aum, "other": other}


def test_each_image_is_judged_by_the_first_network_that_was_not_told_it_is_a_sample():
    first = [
        row("s1", "?", "-3"), row("s2", "?", "-1"), row("a", "cat", "-2", "?"),
        row("b", "dog", "4", "cat"), row("c", "cat", "-0.5", "dog"), row("d", "cat", ""),
    ]  # fmt: skip
    second = [
        row("a", "?", "-9"), row("b", "?", "-7"), row("s1", "cat", "-8", "dog"),
        row("s2", "dog", "-1", "cat"), row("c", "cat", "-99"), row("d", "cat", "-99"),
    ]  # fmt: skip
    found, cuts = judge([first, second], "?", 0.99)
    assert cuts == [-1.0, -7.0]
    assert [(each.file, each.label, each.cut, each.other) for each in found] == [
        ("a", "cat", -1, ""), ("s1", "cat", -7, "dog"), ("c", "cat", -1, "dog"),
        ("b", "dog", -1, "cat"), ("s2", "dog", -7, "cat"), ("d", "cat", -1, ""),
    ]  # fmt: skip
    assert [each.is_suspected for each in found] == [True, True, False, False, False, False]
    assert math.isnan(found[-1].aum)


def test_a_network_without_samples_judges_nobody():
    with pytest.raises(ValueError, match="no threshold sample"):
        judge([[row("a", "cat", "1")]], "?", 0.99)
