"""Write the summary of a run and the results of evaluations into the run folder."""

from __future__ import annotations

import json
from pathlib import Path

from convlens.core.files import write_atomic


def write_summary(folder: Path, summary: dict) -> None:
    """Write ``summary.json``."""
    _write_json(folder / "summary.json", summary)


def write_data_facts(folder: Path, facts: dict) -> None:
    """Write ``data.json``: what the images of the run are like."""
    _write_json(folder / "data.json", facts)


def write_results(folder: Path, results: dict) -> None:
    """Write ``results.json``: the results of ``make eval``, and the images it used."""
    _write_json(folder / "results.json", results)


def write_evaluation(
    home: Path, checkpoint: Path, epoch: int, results: dict[str, float], seconds: dict[str, float]
) -> None:
    """Add the results of ``make eval`` to the run's ``summary.json``, under ``evaluations``.

    Args:
        home: the run folder.
        checkpoint: the checkpoint that was evaluated.
        epoch: completed epochs of the checkpoint.
        results: the test results, by name.
        seconds: duration of each part of the evaluation, seconds.
    """
    try:
        summary = json.loads((home / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # the run has not ended; it writes its summary itself
    evaluation = {"epoch": epoch, "test": results, "seconds": seconds}
    summary.setdefault("evaluations", {})[checkpoint.name] = evaluation
    write_summary(home, summary)


def _write_json(file: Path, content: dict) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # bytes of file names that are not UTF-8 become escapes, which JSON reads back
    write_atomic(file, text.encode("utf-8", "backslashreplace").decode("utf-8"))
