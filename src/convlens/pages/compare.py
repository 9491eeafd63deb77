"""The page of ``make compare``: runs side by side, and what of it fits a screen."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from convlens.config.stored import StoredConfig
from convlens.core.errors import UserError
from convlens.pages.charts import line_chart, series_class
from convlens.pages.render import data_uri, render
from convlens.rundir.read import StoredRun, convert_run_errors, read_run
from convlens.rundir.runs import preferred_direction

PAGE = "compare.html"  # the file
MOST_BYTES = 15_000_000  # of a page: larger ones are slow to open on a phone
# heading, key among a run's numbers, format
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
NOT_THE_SAME = "the same picture in all runs: another seed, split, size or data set"
_OWN = ("run_dir", "format")  # differs between any two runs


@dataclass(frozen=True)
class Cell:
    """One number of the results table, as text; ``best`` of its column or not."""

    text: str
    best: bool = False


def compare(homes: Sequence[Path], *, most_bytes: int = MOST_BYTES) -> str:
    """One self-contained HTML page about several runs.

    Args:
        homes: run folders, two or more; unfinished runs are shown as far as they went.
        most_bytes: of pictures on the page; later probes are left out, and the page says so.

    Raises:
        UserError: fewer than two runs, one given twice, or one that cannot be read.
    """
    runs, names = read_runs(homes), shorten_names(homes)
    with convert_run_errors(", ".join(map(str, homes))):
        probes, notes = _probes(runs, names, most_bytes)
        named = dict(zip(names, runs, strict=True))
        rows = zip(runs, names, result_rows(runs), strict=True)
        return render(
            "compare.html",
            columns=[heading for heading, _, _ in COLUMNS],
            runs=[_run_shown(number, *row) for number, row in enumerate(rows)],
            charts=[
                line_chart(tag, {name: run.curve(tag) for name, run in named.items()})
                for tag in CURVES
            ],
            differing=find_differences([run.config for run in runs]),
            absent=ABSENT,
            not_the_same=f"not {NOT_THE_SAME}",
            probes=probes,
            notes=notes,
        )


def read_runs(homes: Sequence[Path]) -> list[StoredRun]:
    """The runs of several folders.

    Raises:
        UserError: as :func:`compare` says.
    """
    if len(homes) < 2:
        raise UserError('at least two runs are compared: runs="A B"; last is the newest run')
    whole = [home.resolve() for home in homes]
    for place, home in enumerate(homes):
        if whole[place] in whole[:place]:
            raise UserError(f"{home} is given twice; name each run once")
    return [read_run(home) for home in homes]


def shorten_names(homes: Sequence[Path]) -> list[str]:
    """The runs' paths without what all of them begin with."""
    whole = [home.resolve() for home in homes]
    common = os.path.commonpath([path.parent for path in whole])
    return [str(path.relative_to(common)) for path in whole]


def result_rows(runs: Sequence[StoredRun]) -> list[list[Cell]]:
    """A row for each run with a cell for each of ``COLUMNS``; the best of a column is marked.

    Equals are marked together, unless all are equal; the numbers of epochs are neither good nor
    bad.
    """
    rows: list[list[Cell]] = [[] for _ in runs]
    for _, key, how in COLUMNS:
        found = [run.numbers.get(key) for run in runs]
        texts = [ABSENT if value is None else f"{value:{how}}" for value in found]
        # as shown, so that two equal texts are never told apart
        values = [float(text) for text in texts if text not in (ABSENT, "nan")]
        best = (max if preferred_direction(key) > 0 else min)(values, default=None)
        judged = preferred_direction(key) and len(set(values)) > 1
        for row, text in zip(rows, texts, strict=True):
            row.append(Cell(text, bool(judged) and text != ABSENT and float(text) == best))
    return rows


def find_differences(configs: Sequence[StoredConfig]) -> list[tuple[str, list[str]]]:
    """The dotted keys whose values differ, with each run's value as text.

    A group of keys that another run has not, or has as null, is one line.
    """
    shown = [{k: v for k, v in each.plain.items() if k not in _OWN} for each in configs]
    return list(_differing(shown))


_MISSING = object()


def _differing(values: list[Any], key: str = "") -> Iterator[tuple[str, list[str]]]:
    if all(map(_is_groups, values)) and len({len(value) for value in values}) == 1:
        values = [dict(enumerate(value)) for value in values]
    if all(isinstance(value, dict) for value in values):
        for name in dict.fromkeys(chain(*values)):
            inside = [value.get(name, _MISSING) for value in values]
            yield from _differing(inside, f"{key}.{name}" if key else str(name))
        return
    texts = [ABSENT if value is _MISSING else _text(value) for value in values]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if len(set(texts)) > 1 and not (numbers and len(set(values)) == 1):  # 1 and 1.0 are the same
        yield key, texts


def _is_groups(value: Any) -> bool:
    """Whether a value is a list of groups of keys, such as the phases of a schedule."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _text(value: Any) -> str:
    """A value as one types it: true, null, [16, 32], {lr: 0.001}."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_text(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _run_shown(number: int, run: StoredRun, name: str, cells: list[Cell]) -> dict:
    """What the template shows of a run."""
    summary = run.summary or {}
    lines = [line for key in ("alarms", "failures") for line in summary.get(key, [])]
    return {
        "colour": series_class(number), "name": name, "home": str(run.home), "cells": cells,
        "experiment": run.config.experiment, "seed": run.config.plain.get("seed", ABSENT),
        "finished": run.summary is not None, "state": run.state, "alarms": lines,
        "started": f"{run.started:%Y-%m-%d %H:%M}",
    }  # fmt: skip


def _probes(
    runs: Sequence[StoredRun], names: Sequence[str], most_bytes: int
) -> tuple[list[dict], list[str]]:
    """A row for each probe that all runs explained, and what has to be said about the others."""
    # each probe's latest Grad-CAM picture, with its epoch
    maps = [{probe: max(files.items()) for probe, files in r.grad_cam.items()} for r in runs]
    shared = [probe for probe in maps[0] if all(probe in each for each in maps)]
    others = sorted({probe for each in maps for probe in each} - set(shared))
    without = [name for name, each in zip(names, maps, strict=True) if not each]
    notes = [f"no Grad-CAM pictures in {', '.join(without)}"] if without else []
    if others and not without:
        notes.append(
            f"the runs have different probes; not in all of them, and left out: {', '.join(others)}"
        )
    rows, used = [], 0
    for place, probe in enumerate(shared):
        pictures = [each[probe] for each in maps]
        used += sum(file.stat().st_size for _, file in pictures) * 4 // 3  # base64: four for three
        if used > most_bytes:
            notes.append(
                f"{', '.join(shared[place:])}: left out, the page would be above "
                f"{most_bytes / 1e6:g} MB; the pictures are in each run's explanations/"
            )
            break
        frames = [
            {"run": name, "colour": series_class(number), "epoch": epoch, "uri": _uri(file)}
            for number, (name, (epoch, file)) in enumerate(zip(names, pictures, strict=True))
        ]
        rows.append({"name": probe, "same": _same_picture(runs, probe), "pictures": frames})
    if rows and not any(row["same"] for row in rows):  # said once, not at each
        notes.append(f"none of these probes is {NOT_THE_SAME}")
        rows = [{**row, "same": True} for row in rows]
    return rows, notes


def _same_picture(runs: Sequence[StoredRun], probe: str) -> bool:
    """Whether a probe is the same pixels in all runs: names repeat, pictures need not."""
    files = [run.home / "probes" / f"{probe}.png" for run in runs]
    return all(file.exists() for file in files) and len({file.read_bytes() for file in files}) == 1


def _uri(file: Path) -> str:
    try:
        return data_uri(file.read_bytes())
    except ValueError:
        raise UserError(f"{file} is no JPEG picture; remove it and compare again") from None
