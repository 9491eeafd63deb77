"""Charts say the numbers they were given: read back from the drawing by its own ticks."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from convlens.pages.charts import line_chart, linear_ticks, log_ticks
from support.charts_read import axis, read_back


@pytest.mark.parametrize("scale", [1.0, 1e-6, 3e4])
def test_points_are_the_numbers(scale):
    rng = np.random.default_rng(0)
    series = {
        "training": {epoch: scale * rng.random() for epoch in range(13)},
        "validation": {epoch: scale * (rng.random() - 0.5) for epoch in range(0, 13, 3)},
    }
    found = read_back(line_chart("loss", series))
    assert {name: list(points) for name, points in found.items()} == {
        name: list(points) for name, points in series.items()
    }
    for name, points in series.items():
        for epoch, value in points.items():
            # two decimals of a drawing 230 high, and ticks of five digits
            assert found[name][epoch] == pytest.approx(value, abs=2e-4 * scale)


def test_points_of_a_logarithmic_axis_are_the_numbers_above_zero():
    rates = {"head": {0: 0.0, 1: 1e-3, 2: 5e-4, 3: 1e-4}, "base": {0: 0.0, 2: 1e-5, 3: 2e-7}}
    found = read_back(line_chart("rates", rates, log=True), log=True)
    for name, points in rates.items():
        above = {epoch: value for epoch, value in points.items() if value > 0}
        assert list(found[name]) == list(above)
        for epoch, value in above.items():
            assert found[name][epoch] == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    "low, high", [(0.13, 0.88), (0.0, 1.0), (-2.3, 7.1), (1e-7, 2e-7), (5.0, 5.0), (0.0, 0.0),
                  (2.30, 2.31), (1e6, 3e6), (-0.7, -0.2)]
)  # fmt: skip
def test_ticks_are_round_evenly_spaced_and_hold_all_values(low, high):
    ticks = linear_ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high))
    assert ticks[0] <= low + slack and ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 9
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
    mantissa = float(f"{steps[0]:.3e}".partition("e")[0])
    assert mantissa in (1.0, 2.0, 5.0)
    # not half of the chart is empty
    if high > low:
        assert high - low > (ticks[-1] - ticks[0]) / 3


@pytest.mark.parametrize("last", [1, 2, 7, 12, 30, 100, 349])
def test_epochs_get_whole_ticks_inside(last):
    ticks = linear_ticks(0, last, whole=True)
    assert ticks[0] == 0 and ticks[-1] <= last
    assert all(tick == int(tick) for tick in ticks) and 2 <= len(ticks) <= 9


def test_decades_hold_all_values():
    assert log_ticks(1e-3, 1e-3) == [1e-3, 1e-2]
    assert log_ticks(2e-5, 3e-3) == [1e-5, 1e-4, 1e-3, 1e-2]


def test_a_value_that_is_missing_is_bridged_one_that_is_nan_interrupts_and_is_told():
    chart = line_chart("loss", {"a": {0: 1.0, 3: 2.0, 4: 1.5}, "b": {0: 1.0, 1: math.nan, 2: 3.0}})
    svg = ElementTree.fromstring(chart)
    paths = {
        g.get("data-name"): g.find("path").get("d")
        for g in svg.iter("g")
        if g.find("path") is not None
    }
    assert paths["a"].count("M") == 1 and paths["a"].count("L") == 2
    assert paths["b"].count("M") == 2 and paths["b"].count("L") == 0
    assert all("nan" not in path for path in paths.values())
    (told,) = [g.get("data-values") for g in svg.iter("g") if g.get("data-name") == "b"]
    assert told == "0:1 1:nan 2:3"
    assert "b is not finite at epoch 1" in "".join(svg.itertext())


def test_best_epoch_and_phases_stand_where_they_are():
    chart = line_chart("loss", {"a": {e: e / 7 for e in range(8)}}, best=5, phases={"phase 2": 3})
    svg = ElementTree.fromstring(chart).find("svg")
    across, _ = axis(svg, "across", "x")
    for kind, epoch, text in (("best", 5, "best 5"), ("phase", 3, "phase 2")):
        (mark,) = svg.findall(f"g[@class='{kind}']")
        assert across(float(mark.find("line").get("x1"))) == pytest.approx(epoch, abs=0.02)
        assert mark.find("line").get("x1") == mark.find("line").get("x2")
        assert mark.find("text").text == text


def test_every_point_lies_in_the_plot_and_tells_its_value():
    values = {0: 2.31, 1: 0.4, 2: 0.123456}
    svg = ElementTree.fromstring(line_chart("loss", {"validation": values})).find("svg")
    _, _, width, height = map(float, svg.get("viewBox").split())
    dots = svg.findall("g[@class='line']/circle")
    assert len(dots) == 3
    (line,) = svg.findall("g[@class='line']")
    assert line.get("data-values") == "0:2.31 1:0.4 2:0.123456"
    for dot in dots:
        assert 0 < float(dot.get("cx")) < width and 0 < float(dot.get("cy")) < height


def test_the_script_gets_the_scales_of_the_ticks():
    """The vertical line and the dots are placed by these numbers: they must be the drawing's."""
    rates = {"head": {0: 0.0, 1: 1e-3, 4: 1e-5}}
    for log in (False, True):
        figure = ElementTree.fromstring(line_chart("rates", rates, log=log))
        left, top, right, bottom = map(float, figure.get("data-plot").split())
        first, last = map(float, figure.get("data-across").split())
        low, high, *kind = figure.get("data-upward").split()
        assert kind == (["log"] if log else [])
        _, ticks = axis(figure.find("svg"), "across", "x")
        assert (ticks[0], ticks[-1]) == ((left, first), (right, last))
        _, ticks = axis(figure.find("svg"), "up", "y", log)
        assert (ticks[0], ticks[-1]) == ((bottom, float(low)), (top, float(high)))
        # the axis cannot show a rate of 0, the box can
        assert figure.find("svg/g[@class='line']").get("data-values") == "0:0 1:0.001 4:1e-05"


def test_names_are_escaped():
    name = '<b>&"x'
    chart = line_chart(name, {name: {0: 1.0, 1: 2.0}, "other": {0: 1.0}}, phases={name: 1})
    assert name not in chart
    root = ElementTree.fromstring(chart)
    assert root.find("svg").get("aria-label") == name
    assert root.find("svg/g[@class='line']").get("data-name") == name
    assert root.find("svg/g[@class='phase']/text").text == name


def test_one_epoch_makes_a_chart_and_no_number_none():
    assert read_back(line_chart("loss", {"a": {0: 1.5}})) == {"a": {0: pytest.approx(1.5)}}
    assert line_chart("loss", {"a": {}}) == ""
    assert "a is not finite at epoch 0" in line_chart("loss", {"a": {0: math.inf}})


def test_lines_beyond_the_colours_are_told_apart_by_dashes():
    chart = line_chart("scores", {f"layer{k}": {0: k, 1: k + 1} for k in range(12)})
    groups = ElementTree.fromstring(chart).findall("svg/g[@class='line']")
    looks = {(g.get("style"), g.find("path").get("stroke-dasharray")) for g in groups}
    assert len(looks) == 12


def test_a_series_without_values_keeps_its_colour_from_the_next():
    chart = line_chart("loss", {"a": {}, "b": {0: 1.0, 1: 2.0}})
    (line,) = ElementTree.fromstring(chart).findall("svg/g[@class='line']")
    assert (line.get("data-name"), line.get("style")) == ("b", "color: var(--series-1)")
    assert 'data-name="a"' not in chart
