"""Read the values of a chart back from its drawing."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree


def _scale(places: list[float], values: list[float], log: bool):
    """Return the function from a position to its value, by the first and the last tick."""
    ends = [math.log10(v) if log else v for v in (values[0], values[-1])]

    def value(place: float) -> float:
        share = (place - places[0]) / (places[-1] - places[0])
        found = ends[0] + share * (ends[1] - ends[0])
        return 10**found if log else found

    return value


def axis(svg, name: str, place: str, log: bool = False):
    texts = svg.findall(f"g[@class='{name}']/text")
    ticks = [(float(t.get(place)), float(t.text)) for t in texts if t.text != "epoch"]
    return _scale([p for p, _ in ticks], [v for _, v in ticks], log), ticks


def read_back(chart: str, *, log: bool = False) -> dict[str, dict[int, float]]:
    """Return the series of a chart, from the positions and texts of its ticks alone."""
    svg = ElementTree.fromstring(chart).find("svg")
    across, _ = axis(svg, "across", "x")
    upward, _ = axis(svg, "up", "y", log)
    found = {}
    for line in svg.findall("g[@class='line']"):
        pairs = re.findall(r"[ML](\S+) (\S+)", line.find("path").get("d"))
        found[line.get("data-name")] = {round(across(float(x))): upward(float(y)) for x, y in pairs}
    return found
