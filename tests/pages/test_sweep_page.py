"""The page of a sweep, from made-up results."""

from __future__ import annotations

import math

import pytest

from convlens.pages.sweep import BOTTOM, HEIGHT, TOP, SweepResults, TrialRow, write_page
from support.page_parsed import Page, outside_references

ODD = '<b>"&'


def make_results(tmp_path, results, metrics=("val/loss",), **changes) -> SweepResults:
    trials = [
        TrialRow(
            number=number, state="failed" if each is None else "complete",
            note="" if each else f"no {ODD}", values={"optimizer.lr": 10.0 ** -number, "name": ODD},
            results=each, folder=tmp_path / "trials" / f"{number:04d}",
        )
        for number, each in enumerate(results)
    ]  # fmt: skip
    done = sorted((t for t in trials if t.results), key=lambda trial: trial.results[0])
    values = {
        "home": tmp_path, "planned": 9, "metrics": metrics,
        "directions": ["minimize"] * len(metrics),
        "logarithmic": frozenset({"optimizer.lr"}), "trials": trials,
        "ranked": [trial.number for trial in done], "front": frozenset(),
        "importances": {"optimizer.lr": 0.75, "name": 0.25},
    }  # fmt: skip
    return SweepResults(**values | changes)


def points(line) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in line.attributes["points"].split()]


def test_each_completed_trial_is_a_line_through_its_values(tmp_path):
    found = make_results(tmp_path, [[0.5], None, [0.2], [1.0]])
    text = write_page(found)
    page = Page(text)
    lines = page.all("polyline")
    assert [line.text.strip() for line in lines] == ["trial 3", "trial 0", "trial 2"]  # best on top
    assert [line.has_class("best") for line in lines] == [False, False, True]
    for line, number in zip(lines, (3, 0, 2), strict=True):
        rate, name, loss = (y for _, y in points(line))
        # 10^-n between 10^-3 and 1, each factor as high
        assert rate == pytest.approx(
            HEIGHT - BOTTOM - (3 - number) / 3 * (HEIGHT - BOTTOM - TOP), abs=0.1
        )
        assert name == pytest.approx((TOP + HEIGHT - BOTTOM) / 2, abs=0.1)
        value = found.trials[number].results[0]
        share = (value - 0.2) / (1.0 - 0.2)
        assert loss == pytest.approx(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), abs=0.1)
    assert len(page.all("circle")) == 3
    assert outside_references(text) == [] and "<b>&" not in text
    rows = [row for row in page.all("tr") if "complete" in row.text or "failed" in row.text]
    assert len(rows) == 4 and f"failed: no {ODD}" in rows[1].text
    assert "75 %" in page.all("body")[0].text


def test_of_two_metrics_the_front_is_named(tmp_path):
    results = [[0.5, 0.1], [0.2, 0.4], [0.6, 0.6]]
    found = make_results(tmp_path, results, ("val/loss", "b"), front=frozenset({0, 1}))
    page = Page(write_page(found))
    assert [dot.has_class("best") for dot in page.all("circle")] == [True, True, False]
    named = [b.text for b in page.all("b") if b.has_class("good")]
    assert named == ["trial 1", "trial 0"]


@pytest.mark.parametrize("results", [[], [None], [[0.5]], [[0.5], [0.5]], [[0.0], [math.pi]]])
def test_few_or_equal_trials_are_shown(tmp_path, results):
    text = write_page(make_results(tmp_path, results, importances={}))
    assert "Too few trials" in text and "nan" not in text
    assert len(Page(text).all("polyline")) == sum(each is not None for each in results)


def test_a_report_that_is_there_is_linked(tmp_path):
    (folder := tmp_path / "trials" / "0000").mkdir(parents=True)
    (folder / "report.html").touch()
    page = Page(write_page(make_results(tmp_path, [[0.5], [0.6]])))
    links = [
        link.attributes["href"] for link in page.all("a") if "trials" in link.attributes["href"]
    ]
    assert links == ["trials/0000/report.html"]
