"""What is written into a run folder beside config and tables: summary and results."""

from __future__ import annotations

import json
from pathlib import Path

from convlens.core.files import write_atomic


def write_summary(folder: Path, summary: dict) -> None:
    _write_json(folder / "summary.json", summary)


def write_results(folder: Path, results: dict) -> None:
    """What ``make eval`` found, on which images, as ``results.json`` beside its predictions."""
    _write_json(folder / "results.json", results)


def write_evaluation(
    home: Path, checkpoint: Path, epoch: int, results: dict[str, float], seconds: dict[str, float]
) -> None:
    """Put the results of ``make eval`` into the run's ``summary.json``, under ``evaluations``."""
    try:
        summary = json.loads((home / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # the run is not finished; its own end will write the summary
    found = {"epoch": epoch, "test": results, "seconds": seconds}
    summary.setdefault("evaluations", {})[checkpoint.name] = found
    write_summary(home, summary)


def _write_json(file: Path, content: dict) -> None:
    write_atomic(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
