"""What is written into a run folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import yaml


def write_config(folder: Path, config: dict) -> None:
    _replace(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def write_summary(folder: Path, summary: dict) -> None:
    _replace(folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def write_results(folder: Path, results: dict) -> None:
    """What ``make eval`` found, on which images, as ``results.json`` beside its predictions."""
    _replace(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def _replace(file: Path, text: str) -> None:
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_evaluation(
    home: Path, checkpoint: Path, epoch: int, results: dict[str, float], seconds: dict[str, float]
) -> None:
    """Put the results of ``make eval`` into the run's ``summary.json``, under ``evaluations``."""
    file = home / "summary.json"
    try:
        summary = json.loads(file.read_text())
    except (OSError, ValueError):
        return  # the run is not finished; its own end will write the summary
    found = {"epoch": epoch, "test": results, "seconds": seconds}
    summary.setdefault("evaluations", {})[checkpoint.name] = found
    write_summary(home, summary)
