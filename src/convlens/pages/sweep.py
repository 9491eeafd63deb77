"""The page of a sweep: what was tried, what mattered, and what the best networks look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from convlens.pages.charts import Axis, format_tick, linear_ticks, log_ticks
from convlens.pages.compare import MOST_BYTES, view_maps
from convlens.pages.render import render
from convlens.rundir.paths import holds_run
from convlens.rundir.read import read_run

PAGE = "sweep.html"
COMPARED = 3  # best trials whose maps are side by side
WIDTH, HEIGHT = 1100.0, 340.0  # of the picture of parallel coordinates, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 90.0, 90.0, 40.0, 16.0
SCATTER = 520.0  # width of the picture of the results
MOST_LABELS = 12  # values written at an axis of choices
Value = str | int | float


@dataclass(frozen=True)
class TrialRow:
    """One trial.

    Attributes:
        number: from 0.
        state: how it ended, such as ``complete``, ``stopped early`` or ``unfinished``.
        note: why it failed, or when it was stopped.
        values: key to its value.
        results: a number for each metric; None without an end.
        folder: its run folder.
    """

    number: int
    state: str
    note: str
    values: Mapping[str, Value]
    results: Sequence[float] | None
    folder: Path


@dataclass(frozen=True)
class SweepResults:
    """What a sweep has found so far.

    Attributes:
        home: its folder.
        planned: how many trials there are to be.
        metrics: names of the one or two metrics.
        directions: ``minimize`` or ``maximize``, for each.
        logarithmic: the keys whose values are drawn by factors.
        trials: by number.
        ranked: numbers of the completed trials, the best first.
        front: numbers of those that no other is better than in every metric.
        importances: key to its share of what decides the result; empty if too few trials ended.
    """

    home: Path
    planned: int
    metrics: Sequence[str]
    directions: Sequence[str]
    logarithmic: frozenset[str]
    trials: Sequence[TrialRow]
    ranked: Sequence[int]
    front: frozenset[int]
    importances: Mapping[str, float]


@dataclass(frozen=True)
class _Scale:
    """One of the parallel axes: a name, where values lie, and labels at some of them."""

    name: str
    places: Mapping[int, float]  # trial -> coordinate
    labels: Sequence[tuple[float, str]]


def write_page(found: SweepResults) -> str:
    """Return a self-contained HTML page; links lead to the reports of the trials beside it."""
    by_number = {trial.number: trial for trial in found.trials}
    best = [by_number[number] for number in found.ranked]
    rows = [_describe(trial, found) for trial in found.trials]
    front = [trial for trial in best if trial.number in found.front]
    values = {
        "found": found, "best": front or best[:1], "rows": rows,
        "keys": _list_keys(found.trials), "parallel": _draw_parallel(found),
        "scatter": _draw_scatter(found),
        "counts": _count_states(found.trials),
    }  # fmt: skip
    bare = len(render(PAGE, **values, viewer=None, notes=[]).encode())
    runs = [trial for trial in best[:COMPARED] if holds_run(trial.folder)]
    viewer, notes = None, ["fewer than two trials are complete"]
    if len(runs) > 1:
        names = [f"trial {trial.number}" for trial in runs]
        viewer, notes = view_maps([read_run(t.folder) for t in runs], names, MOST_BYTES - bare)
    return render(PAGE, **values, viewer=viewer, notes=notes)


def _list_keys(trials: Sequence[TrialRow]) -> list[str]:
    return list(dict.fromkeys(key for trial in trials for key in trial.values))


def _count_states(trials: Sequence[TrialRow]) -> str:
    states = [trial.state for trial in trials]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _describe(trial: TrialRow, found: SweepResults) -> dict:
    report = trial.folder / "report.html"
    link = report.relative_to(found.home).as_posix() if report.exists() else ""
    rank = found.ranked.index(trial.number) if trial.number in found.ranked else None
    return {
        "trial": trial, "link": link, "is_best": rank == 0 or trial.number in found.front,
        "rank": "" if rank is None else rank + 1,
        "values": {key: _text(value) for key, value in trial.values.items()},
        "results": [f"{value:.4f}" for value in trial.results or ()],
    }  # fmt: skip


def _text(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw_parallel(found: SweepResults) -> Markup | None:
    """Draw a line for each completed trial through its values and its results."""
    trials = [trial for trial in found.trials if trial.number in found.ranked]
    if not trials:
        return None
    scales = [
        _build_scale(key, {t.number: t.values[key] for t in trials if key in t.values},
                     log=key in found.logarithmic)
        for key in _list_keys(trials)
    ]  # fmt: skip
    for place, metric in enumerate(found.metrics):
        scales.append(_build_scale(metric, {t.number: t.results[place] for t in trials}))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(scales) - 1)
    across = [LEFT + step * number for number in range(len(scales))]
    count = len(found.ranked)
    lines = []
    for rank, number in reversed(list(enumerate(found.ranked))):  # the best one on top
        points = [
            f"{x:.1f},{scale.places[number]:.1f}"
            for x, scale in zip(across, scales, strict=True) if number in scale.places
        ]  # fmt: skip
        goodness = 1.0 if count == 1 else 1 - rank / (count - 1)
        is_best = rank == 0 or number in found.front
        lines.append({"points": " ".join(points), "number": number, "best": is_best,
                      "opacity": f"{0.15 + 0.6 * goodness:.2f}"})  # fmt: skip
    return Markup(render(
        "sweep_parallel.html", width=WIDTH, height=HEIGHT, top=TOP, bottom=HEIGHT - BOTTOM,
        axes=list(zip(across, scales, strict=True)), lines=lines,
    ))  # fmt: skip


def _build_scale(name: str, values: Mapping[int, Value], *, log: bool = False) -> _Scale:
    """Return an axis that shows the values of trials: numbers by size, choices by name."""
    if not all(isinstance(value, int | float) for value in values.values()):
        names = sorted({str(value) for value in values.values()}, key=_order)
        step = (HEIGHT - TOP - BOTTOM) / max(1, len(names) - 1)
        at = {text: HEIGHT - BOTTOM - step * place for place, text in enumerate(names)}
        if len(names) == 1:
            at = {names[0]: (TOP + HEIGHT - BOTTOM) / 2}
        shown = [(at[text], text) for text in names[:MOST_LABELS]]
        return _Scale(name, {n: at[str(value)] for n, value in values.items()}, shown)
    low, high = min(values.values()), max(values.values())
    ticks = log_ticks(low, high) if log else linear_ticks(low, high)
    axis = Axis(min(ticks[0], low), max(ticks[-1], high), HEIGHT - BOTTOM, TOP, log)
    places = {number: axis.position(float(value)) for number, value in values.items()}
    return _Scale(name, places, [(axis.position(tick), format_tick(tick)) for tick in ticks])


def _order(text: str) -> tuple[bool, float, str]:
    """Sort numbers by size, before other choices by name."""
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text


def _draw_scatter(found: SweepResults) -> Markup | None:
    """Draw every completed trial by its two results, or by its number and its result."""
    trials = [trial for trial in found.trials if trial.number in found.ranked]
    if not trials:
        return None
    names, points = tuple(found.metrics), [tuple(trial.results or ()) for trial in trials]
    if len(names) == 1:
        names = ("trial", *names)
        points = [
            (float(trial.number), *point) for trial, point in zip(trials, points, strict=True)
        ]
    across, up = (linear_ticks(min(side), max(side)) for side in zip(*points, strict=True))
    x = Axis(across[0], across[-1], LEFT, SCATTER - 20)
    y = Axis(up[0], up[-1], HEIGHT - 40, 28.0)
    dots = [
        {"x": x.position(a), "y": y.position(b), "number": trial.number,
         "best": trial.number in found.front or trial.number == found.ranked[0]}
        for trial, (a, b) in zip(trials, points, strict=True)
    ]  # fmt: skip
    return Markup(render(
        "sweep_scatter.html", width=SCATTER, height=HEIGHT, left=LEFT, names=names, dots=dots,
        across=[(x.position(tick), format_tick(tick)) for tick in across],
        up=[(y.position(tick), format_tick(tick)) for tick in up],
    ))  # fmt: skip
