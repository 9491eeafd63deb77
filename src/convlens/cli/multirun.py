"""``make train multirun=true key=a,b …``: one run for each combination, one after another."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from rich.table import Table

from convlens.cli.results import screen
from convlens.cli.words import extract
from convlens.config import PATH_KEYS, compose
from convlens.errors import UserError
from convlens.folder import ENVIRONMENT

FLAGS = ("-m", "--multirun", "multirun=true")


def asked_for(words: list[str]) -> tuple[bool, list[str]]:
    """Whether several runs are wanted, and the other words.

    Raises:
        UserError: ``multirun`` with another value than true or false.
    """
    rest = [word for word in words if word not in FLAGS]
    value, rest = extract(rest, "multirun")
    if value not in (None, "false"):
        raise UserError(f"multirun={value}: true or false")
    return len(rest) < len(words) and value is None, rest


def values_of(word: str) -> list[str]:
    """``lr=1,2`` to ``["lr=1", "lr=2"]``, by Hydra's grammar; one value stays as it was typed."""
    key = word.partition("=")[0]
    if key in PATH_KEYS:
        return [word]
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return [word]
    if not override.is_sweep_override():
        return [word]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def run_all(words: list[str]) -> int:
    """Train every combination in a process of its own; 1 if any failed.

    All are composed before the first one starts, so that a mistake in the last costs nothing.

    Raises:
        UserError: a combination that does not compose.
    """
    given, words = extract(words, "run_dir")
    choices = [values_of(word) for word in words]
    swept = [number for number, values in enumerate(choices) if len(values) > 1]
    jobs = [list(job) for job in itertools.product(*choices)]
    for job in jobs:
        compose(job)
    rows = []
    for number, job in enumerate(jobs):
        told = " ".join(job[place] for place in swept)
        home = Path(given) / str(number) if given else _fresh(job, number)
        print(f"run {number + 1} of {len(jobs)}: {told}", flush=True)
        status = _run([*job, f"run_dir={home}"])
        rows.append((told, home, status))
    _print(rows)
    return int(any(status for _, _, status in rows))


def _fresh(job: list[str], number: int) -> Path:
    """A folder of this sweep's own, named by its start."""
    import datetime

    stamp = os.environ.setdefault(
        "CONVLENS_SWEEP", datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    )
    return Path("outputs") / compose(job)["experiment"] / f"{stamp}_{number}"


def _run(words: list[str]) -> int:
    environment = {k: v for k, v in os.environ.items() if k not in (ENVIRONMENT, "CONVLENS_SWEEP")}
    command = [sys.executable, "-m", "convlens.cli.main", "train", *words]
    return subprocess.run(command, env=environment, check=False).returncode


def _print(rows: list[tuple[str, Path, int]]) -> None:
    table = Table()
    for column in ("run", "validation", "test", "folder"):
        table.add_column(column, justify="left" if column in ("run", "folder") else "right")
    for told, home, status in rows:
        try:
            summary = json.loads((home / "summary.json").read_text())
            cells = [f"{summary[stage]['accuracy']:.4f}" for stage in ("val", "test")]
        except (OSError, ValueError, KeyError):
            cells = ["failed" if status else "", ""]
        table.add_row(told, *cells, str(home))
    print("accuracy of each run's best epoch")
    screen().print(table)
