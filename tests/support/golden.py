"""The golden record: the exact results of six short runs.

    python tests/support/golden.py record DIR [NAME …]    # the six runs, or those named
    python tests/support/golden.py compare BEFORE AFTER   # two records
    python tests/support/golden.py verify DIR [NAME …]    # record anew, compare with DIR
    python tests/support/golden.py renew                  # tests/golden.json, for test_golden.py

Use it for changes that must not change any result: record before, and verify after each step, on
the same machine. The runs use the command line (``golden_runs``), so the code may be reorganised. A
record is a few hundred megabytes and belongs outside the repository.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import golden_exact
import outcome
import torch
from golden_runs import RUNS, killed_and_resumed, trained


def record(home: Path, names: list[str]) -> None:
    """Run the named runs (all if empty), two at a time, and keep their results.

    Raises:
        SystemExit: a run failed, or the record already exists.
    """
    names = _known(names) or list(RUNS)
    for name in names:
        if (home / name).exists():
            raise SystemExit(f"{home / name} is there already: a record is written once")
    home.mkdir(parents=True, exist_ok=True)
    about = home / "about.json"
    about.write_text(json.dumps(machine(), indent=1))
    with ThreadPoolExecutor(2) as both:
        for line in both.map(partial(_record_one, home), names):
            print(line, flush=True)


def _record_one(home: Path, name: str) -> str:
    began = time.monotonic()
    life: Callable = killed_and_resumed if name == "killed" else trained
    with tempfile.TemporaryDirectory(prefix="golden-") as scratch:
        folder = Path(scratch)
        life(RUNS[name], folder)
        # a killed process loses the events that it had not flushed
        found = outcome.read_run(folder / "run", events=name != "killed")
        outcome.write(found, home / name)
    return f"recorded {name} in {time.monotonic() - began:.0f} s"


def _known(names: list[str]) -> list[str]:
    for name in names:
        if name not in RUNS:
            raise SystemExit(f"no run {name}; there are {', '.join(RUNS)}")
    return names


def machine() -> dict[str, str]:
    """Return what float32 results depend on besides the code."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    found = {"processor": model or platform.processor(), "torch": torch.__version__,
             "capability": torch.backends.cpu.get_cpu_capability()}  # fmt: skip
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {**found, "commit": commit}


def compare(before: Path, after: Path, names: list[str] | None = None) -> int:
    """Print a line per run with its differences; return the number of runs that differ.

    Args:
        names: runs to compare; if empty, all runs in either record.
    """
    for folder in (before, after):
        if not folder.is_dir():
            raise SystemExit(f"there is no record {folder}")
    _say_machines(before, after)
    there = {each.parent.name for home in (before, after) for each in home.glob("*/values.json")}
    wrong = 0
    for name in [each for each in RUNS if each in (_known(names or []) or there)]:
        if missing := [str(h) for h in (before, after) if not (h / name).is_dir()]:
            print(f"{name:15} MISSING in {missing[0]}")
            wrong += 1
            continue
        one, other = outcome.read(before / name), outcome.read(after / name)
        found = outcome.differences(one, other)
        wrong += bool(found)
        counts = {table: len(values) for table, values in one.tables.items()}
        if not found:
            print(f"{name:15} identical: " + ", ".join(f"{n} {t}" for t, n in counts.items()))
            continue
        parts = (f"{len(found.get(t, ()))} of {n} {t}" for t, n in counts.items() if t in found)
        print(f"{name:15} DIFFERS in " + ", ".join(parts))
        for table, lines in found.items():
            for line in [*lines[:5], *([f"… {len(lines) - 5} more"] if len(lines) > 5 else [])]:
                print(f"    {table}: {line}")
    if not there:
        raise SystemExit(f"there is no run in {before} or {after}")
    return wrong


def _say_machines(before: Path, after: Path) -> None:
    one, other = (json.loads((home / "about.json").read_text()) for home in (before, after))
    print(f"before {one['commit'][:10]}, after {other['commit'][:10]}")
    for key in one.keys() - {"commit"}:
        if one[key] != other.get(key):
            print(f"another {key}: {one[key]}, now {other.get(key)}; bits may differ by that")


def verify(home: Path, names: list[str]) -> int:
    """Record again into a temporary folder, and compare with ``home``."""
    there = [name for name in RUNS if (home / name).is_dir()]
    with tempfile.TemporaryDirectory(prefix="golden-") as scratch:
        record(Path(scratch), names or there)
        return compare(home, Path(scratch), names or there)


def main(arguments: list[str]) -> int:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words = asked.add_subparsers(dest="word", required=True)
    for word in ("record", "verify"):
        added = words.add_parser(word)
        added.add_argument("home", type=Path)
        added.add_argument("names", nargs="*")
    both = words.add_parser("compare")
    both.add_argument("before", type=Path)
    both.add_argument("after", type=Path)
    words.add_parser("renew")
    given = asked.parse_args(arguments)
    if given.word == "record":
        record(given.home, given.names)
    elif given.word == "renew":
        golden_exact.renew()
    elif given.word == "verify":
        return int(verify(given.home, given.names) > 0)
    else:
        return int(compare(given.before, given.after) > 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
