"""The page of ``make compare``: runs side by side; its tables are also printed on the screen."""

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
from convlens.pages.confusions import compare_confusions
from convlens.pages.render import read_data_uri, render
from convlens.rundir.read import StoredRun, convert_run_errors, read_run
from convlens.rundir.runs import preferred_direction

PAGE = "compare.html"
MOST_BYTES = 15_000_000  # larger pages open slowly on a phone
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
SAME_IMAGE = "the same image in all runs: seed, split, image size or data differ"
_IGNORED = ("run_dir", "format")  # keys that are not settings


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
        most_bytes: size limit of all pictures. If it is exceeded, the last probes are left out and
            the page names them.

    Raises:
        UserError: there are fewer than two runs, or one is given twice or cannot be read.
    """
    runs, names = read_runs(homes), shorten_names(homes)
    with convert_run_errors(", ".join(map(str, homes))):
        probes, notes = _compare_probes(runs, names, most_bytes)
        by_name = dict(zip(names, runs, strict=True))
        rows = zip(runs, names, result_rows(runs), strict=True)
        return render(
            "compare.html",
            columns=[heading for heading, _, _ in COLUMNS],
            runs=[_describe_run(number, *row) for number, row in enumerate(rows)],
            charts=[
                line_chart(tag, {name: run.curve(tag) for name, run in by_name.items()})
                for tag in CURVES
            ],
            differing=find_differences([run.config for run in runs]),
            absent=ABSENT,
            not_same_image=f"not {SAME_IMAGE}",
            confusions=compare_confusions(runs, names),
            probes=probes,
            notes=notes,
        )


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


def _compare_probes(
    runs: Sequence[StoredRun], names: Sequence[str], most_bytes: int
) -> tuple[list[dict], list[str]]:
    """Return the template's values for each probe that all runs have, and notes on the others."""
    # per run: probe -> (epoch, file) of its latest Grad-CAM picture
    maps = [{probe: max(files.items()) for probe, files in r.grad_cam.items()} for r in runs]
    shared = [probe for probe in maps[0] if all(probe in each for each in maps)]
    others = sorted({probe for each in maps for probe in each} - set(shared))
    without = [name for name, each in zip(names, maps, strict=True) if not each]
    notes = [f"no Grad-CAM pictures in {', '.join(without)}"] if without else []
    if others and not without:
        notes.append(
            f"the runs have different probes; left out, because not all runs have them: "
            f"{', '.join(others)}"
        )
    rows, used = [], 0
    for place, probe in enumerate(shared):
        pictures = [each[probe] for each in maps]
        used += (
            sum(file.stat().st_size for _, file in pictures) * 4 // 3
        )  # base64 turns three bytes into four
        if used > most_bytes:
            notes.append(
                f"left out to keep the page below {most_bytes / 1e6:g} MB: "
                f"{', '.join(shared[place:])}; see explanations/ in each run folder"
            )
            break
        frames = [
            {
                "run": name,
                "colour": series_class(number),
                "epoch": epoch,
                "uri": read_data_uri(file),
            }
            for number, (name, (epoch, file)) in enumerate(zip(names, pictures, strict=True))
        ]
        rows.append({"name": probe, "same": _is_same_image(runs, probe), "pictures": frames})
    if rows and not any(row["same"] for row in rows):  # one note instead of one per probe
        notes.append(f"none of these probes is {SAME_IMAGE}")
        rows = [{**row, "same": True} for row in rows]
    return rows, notes


def _is_same_image(runs: Sequence[StoredRun], probe: str) -> bool:
    """Return whether a probe has the same pixels in all runs; probes of one name may differ."""
    files = [run.home / "probes" / f"{probe}.png" for run in runs]
    return all(file.exists() for file in files) and len({file.read_bytes() for file in files}) == 1
