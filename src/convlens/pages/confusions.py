"""Confusion matrices of several runs side by side, for the page of ``make compare``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convlens.pages.charts import series_class
from convlens.pages.render import read_data_uri
from convlens.rundir.read import StoredRun

# tag -> what its latest picture shows
MATRICES = {
    "predictions/confusion_matrix": "validation, latest epoch",
    "predictions/confusion_matrix/test": "test, best epoch",
}


def compare_confusions(runs: Sequence[StoredRun], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the values of ``confusions.html``: for each split, the latest matrix of each run.

    Args:
        runs: the runs.
        names: their names on the page.

    Raises:
        UserError: a picture is not a JPEG file.
    """
    rows = []
    for tag, title in MATRICES.items():
        matrices = [
            {"run": name, "colour": series_class(number), "picture": _read_latest(run, tag)}
            for number, (run, name) in enumerate(zip(runs, names, strict=True))
        ]
        if any(each["picture"] for each in matrices):
            rows.append({"title": title, "matrices": matrices})
    return rows


def _read_latest(run: StoredRun, tag: str) -> dict[str, Any] | None:
    """Return epoch and picture of a run's latest matrix; None if it has none."""
    if tag not in run.pictures:
        return None
    epoch, file = max(run.pictures[tag].items())
    return {"epoch": epoch, "uri": read_data_uri(file)}
