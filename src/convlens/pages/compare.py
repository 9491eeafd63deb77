"""The page of ``make compare``: runs side by side; its tables are also printed on the screen."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from markupsafe import Markup

from convlens.config.stored import StoredConfig
from convlens.core.errors import UserError
from convlens.pages.charts import line_chart, series_class
from convlens.pages.confusions import compare_confusions
from convlens.pages.render import render
from convlens.pages.viewer import Viewer, ViewerProbe, ViewerRun, build_viewer, read_viewer_run
from convlens.rundir.read import StoredRun, convert_run_errors, read_run
from convlens.rundir.runs import preferred_direction

PAGE = "compare.html"
MOST_BYTES = 3_000_000  # larger pages open slowly on a phone
# heading, key in ``StoredRun.numbers``, format
COLUMNS = (
    ("epochs", "epochs", ".0f"),
    ("best epoch", "best_epoch", ".0f"),
    ("val loss", "val/loss", ".4f"),
    ("val accuracy", "val/accuracy", ".4f"),
    ("test loss", "test/loss", ".4f"),
    ("test accuracy", "test/accuracy", ".4f"),
    ("seconds", "seconds", ".0f"),
    ("images/s", "images_per_second", ".0f"),
    ("alarms", "alarms", ".0f"),
)
CURVES = ("val/loss", "val/accuracy", "train/loss", "train/accuracy")
ABSENT = "–"
_IGNORED = ("run_dir", "format")  # keys that are not settings
_EMPTY = Viewer(Markup(""), (0, 1))


@dataclass(frozen=True)
class Cell:
    """One number of the results table.

    Attributes:
        text: the number as text.
        best: whether it is the best of its column.
    """

    text: str
    best: bool = False


def compare(homes: Sequence[Path], *, most_bytes: int = MOST_BYTES) -> str:
    """Return a self-contained HTML page about several runs.

    Args:
        homes: two or more run folders. Unfinished runs are shown up to their last completed epoch.
        most_bytes: size limit of the page. Epochs of the maps are left out, then photographs are
            made smaller to keep to it, and the page says so.

    Raises:
        UserError: there are fewer than two runs, or one is given twice or cannot be read.
    """
    runs, names = read_runs(homes), shorten_names(homes)
    with convert_run_errors(", ".join(map(str, homes))):
        by_name = dict(zip(names, runs, strict=True))
        rows = zip(runs, names, result_rows(runs), strict=True)
        values = {
            "columns": [heading for heading, _, _ in COLUMNS],
            "runs": [_describe_run(number, *row) for number, row in enumerate(rows)],
            "charts": [
                line_chart(tag, {name: run.curve(tag) for name, run in by_name.items()})
                for tag in CURVES
            ],
            "differing": find_differences([run.config for run in runs]),
            "absent": ABSENT,
            "confusions": compare_confusions(runs, names),
        }
        bare = len(render(PAGE, **values, viewer=_EMPTY, notes=[]).encode())
        viewer, notes = view_maps(runs, names, most_bytes - bare)
        return render(PAGE, **values, viewer=viewer, notes=notes)


def read_runs(homes: Sequence[Path]) -> list[StoredRun]:
    """Read the runs of several folders.

    Args:
        homes: run folders.

    Raises:
        UserError: there are fewer than two runs, or one is given twice or cannot be read.
    """
    if len(homes) < 2:
        raise UserError('compare needs at least two runs: runs="A B"; last is the newest run')
    paths = [home.resolve() for home in homes]
    for number, home in enumerate(homes):
        if paths[number] in paths[:number]:
            raise UserError(f"{home} is given twice; name each run once")
    return [read_run(home) for home in homes]


def shorten_names(homes: Sequence[Path]) -> list[str]:
    """Return the paths of run folders relative to their common parent."""
    paths = [home.resolve() for home in homes]
    common = os.path.commonpath([path.parent for path in paths])
    return [str(path.relative_to(common)) for path in paths]


def result_rows(runs: Sequence[StoredRun]) -> list[list[Cell]]:
    """Return a row for each run, with a cell for each of ``COLUMNS``.

    The best cell of a column is marked. Equal best cells are all marked, but none if all cells are
    equal. Numbers of epochs are neither good nor bad.
    """
    rows: list[list[Cell]] = [[] for _ in runs]
    for _, key, pattern in COLUMNS:
        numbers = [run.numbers.get(key) for run in runs]
        texts = [ABSENT if value is None else f"{value:{pattern}}" for value in numbers]
        # compare values as printed, so that equal texts are marked alike
        values = [float(text) for text in texts if text not in (ABSENT, "nan")]
        best = (max if preferred_direction(key) > 0 else min)(values, default=None)
        has_best = bool(preferred_direction(key)) and len(set(values)) > 1
        for row, text in zip(rows, texts, strict=True):
            row.append(Cell(text, has_best and text != ABSENT and float(text) == best))
    return rows


def find_differences(configs: Sequence[StoredConfig]) -> list[tuple[str, list[str]]]:
    """Return the dotted keys whose values differ, with each run's value as text.

    A group of keys is one entry if it is missing or null in one of the runs.
    """
    settings = [{k: v for k, v in each.plain.items() if k not in _IGNORED} for each in configs]
    return list(_differences(settings))


_MISSING = object()


def _differences(values: list[Any], key: str = "") -> Iterator[tuple[str, list[str]]]:
    if all(map(_is_groups, values)) and len({len(value) for value in values}) == 1:
        values = [dict(enumerate(value)) for value in values]
    if all(isinstance(value, dict) for value in values):
        for name in dict.fromkeys(chain(*values)):
            inside = [value.get(name, _MISSING) for value in values]
            yield from _differences(inside, f"{key}.{name}" if key else str(name))
        return
    texts = [ABSENT if value is _MISSING else _text(value) for value in values]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if len(set(texts)) > 1 and not (numbers and len(set(values)) == 1):  # 1 and 1.0 are the same
        yield key, texts


def _is_groups(value: Any) -> bool:
    """Return whether a value is a list of groups of keys, such as the phases of a schedule."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _text(value: Any) -> str:
    """Return a value as it is written in YAML: true, null, [16, 32], {lr: 0.001}."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_text(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _describe_run(number: int, run: StoredRun, name: str, cells: list[Cell]) -> dict:
    """Return the template's values for a run."""
    summary = run.summary or {}
    lines = [line for key in ("alarms", "failures") for line in summary.get(key, [])]
    return {
        "colour": series_class(number), "name": name, "home": str(run.home), "cells": cells,
        "experiment": run.config.experiment, "seed": run.config.plain.get("seed", ABSENT),
        "finished": run.summary is not None, "state": run.state, "alarms": lines,
        "started": f"{run.started:%Y-%m-%d %H:%M}",
    }  # fmt: skip


def view_maps(
    runs: Sequence[StoredRun], names: Sequence[str], room: int
) -> tuple[Viewer | None, list[str]]:
    """Return the viewer of the images that several runs share, and notes on what it lacks.

    Args:
        runs: the runs.
        names: their names on the page.
        room: bytes that the maps and the notes may take.
    """
    without = [name for run, name in zip(runs, names, strict=True) if not run.class_maps]
    notes = [f"no maps in {', '.join(without)}"] if without else []
    if len(runs) - len(without) < 2:
        return None, [*notes, "two runs with maps are needed to show maps side by side"]
    viewed = [read_viewer_run(run, name) for run, name in zip(runs, names, strict=True)]
    shared, left_out = _keep_shared_images(viewed)
    if not any(run.probes for run in shared):
        return None, [*notes, "no two runs have an image in common: seed, split or data differ"]
    if left_out:
        notes.append(f"left out, because no other run has the same image: {', '.join(left_out)}")
    # the viewer adds notes of its own
    viewer = build_viewer(shared, room=room - 2000 - sum(len(line) for line in notes))
    if viewer is None:
        return None, [*notes, "the maps do not fit on this page: see the report of each run"]
    return viewer, [*notes, *viewer.left_out, *viewer.broken]


def _keep_shared_images(runs: Sequence[ViewerRun]) -> tuple[list[ViewerRun], list[str]]:
    """Return runs with those images that at least two runs with maps have, and the others' names.

    Equal images have equal photographs, whatever their names.
    """
    # a run without maps keeps its place, and so its colour
    runs = [run if run.maps else replace(run, probes=()) for run in runs]
    count = Counter(key for run in runs for key in {_image_key(probe) for probe in run.probes})
    kept, left_out = [], []
    for run in runs:
        probes = [
            probe for probe in run.probes if probe.photograph and count[_image_key(probe)] > 1
        ]
        left_out += [f"{probe.name} ({run.name})" for probe in run.probes if probe not in probes]
        kept.append(replace(run, probes=probes))
    return kept, left_out


def _image_key(probe: ViewerProbe) -> bytes:
    return hashlib.sha256(probe.photograph).digest()
