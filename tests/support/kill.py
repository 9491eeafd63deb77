"""Kill a run with ``kill -9`` at random moments, resume it, and compare the results bit by bit.

    python tests/support/kill.py --moments 20 --seed 0

The seed draws one moment in each twentieth of the life of the process, from its first millisecond
over decoding, looks, checkpoints and the test to its report. Each case begins with an empty cache.
If the run had not begun (no ``config.yaml``), resume must say so in one line, and a new start must
give the same results.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from convlens.cli.main import main
from support.lively import COMMAND, WORDS, differences, environment, kill_group, pictures, start


@dataclass
class Case:
    """One kill: after ``at`` seconds, with the state of the run, and the differences at the end."""

    at: float
    reached: str
    found: list[str] = field(default_factory=list)


@dataclass
class Reference:
    """An uninterrupted run: its folder, its images, and its seconds."""

    home: Path
    data: Path
    seconds: float


def left_alone(folder: Path) -> Reference:
    """Train without interruption, in a separate process with its own cache."""
    data = pictures(folder / "pictures")
    home = folder / "alone"
    began = time.monotonic()
    process = start(["train", f"run_dir={home}", f"data.dir={data}", *WORDS], folder / "cache")
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"the run left alone failed:\n{out}\n{err}")
    return Reference(home, data, time.monotonic() - began)


def moments(count: int, seed: int) -> list[float]:
    """Return a random moment in each of ``count`` equal parts of the life, as fractions of it."""
    drawn = np.random.Generator(np.random.PCG64(seed)).random(count)
    return [float(share) for share in (np.arange(count) + drawn) / count]


def kill_and_resume(reference: Reference, share: float, folder: Path, *, by_make: bool) -> Case:
    """Kill a new run after ``share`` of the reference's life, resume it, and compare.

    Args:
        by_make: whether to resume with ``make`` in a separate process; otherwise in this process,
            which saves the start-up.
    """
    home, cache = folder / "run", folder / "cache"
    words = ["train", f"run_dir={home}", f"data.dir={reference.data}", *WORDS]
    process = start(words, cache)
    time.sleep(share * reference.seconds)
    kill_group(process)
    case = Case(share * reference.seconds, state_of(home))
    again = ["resume", f"run={home}"]
    if not (home / "config.yaml").exists():
        status, said = command(again, cache, by_make=True)
        lines = [line for line in said.splitlines() if line.startswith("convlens: ")]
        if status != 2 or len(lines) != 1 or "Traceback" in said:
            case.found.append(f"resume of nothing: status {status}, {said[-300:]}")
        again = words
    status, said = command(again, cache, by_make=by_make)
    if status:
        case.found.append(f"resume ended with {status}: {said[-300:]}")
        return case
    case.found += differences(reference.home, home)
    case.found += [f"left in the cache: {file.name}" for file in cache.glob("*.tmp")]
    return case


def command(words: list[str], cache: Path, *, by_make: bool) -> tuple[int, str]:
    """Run ``make WORDS`` in a separate process, or the same command in this process."""
    if not by_make:
        before = os.environ.get("CONVLENS_CACHE")
        os.environ["CONVLENS_CACHE"] = str(cache)
        said = io.StringIO()
        os.environ.pop("CONVLENS_RUN_DIR", None)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
                status = main(words)
            return status, said.getvalue()
        finally:
            os.environ.pop("CONVLENS_RUN_DIR", None)
            os.environ.pop("CONVLENS_CACHE")
            if before is not None:
                os.environ["CONVLENS_CACHE"] = before
    root = Path(__file__).resolve().parents[2]
    typed = ["make", "-C", str(root), *words] if (root / ".venv/ready").exists() else None
    done = subprocess.run(
        typed or [*COMMAND, *words], env=environment(cache), text=True, check=False,
        stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip
    # make gives its own status 2 for any failure of the command
    return done.returncode, done.stdout + done.stderr


def state_of(home: Path) -> str:
    """Describe how far a killed run had come."""
    if not (home / "config.yaml").exists():
        return "nothing begun"
    if (home / "report.html").exists():
        return "report written"
    if (home / "summary.json").exists():
        return "summary written"
    rows = len((home / "metrics.csv").read_text().splitlines()) - 1 if (
        home / "metrics.csv").exists() else 0  # fmt: skip
    if not (home / "checkpoints" / "last.ckpt").exists():
        return f"no checkpoint yet, {rows} rows"
    half = " amid writing one" if list((home / "checkpoints").glob(".*.tmp")) else ""
    return f"{rows} rows, a checkpoint{half}"


def run_all(count: int, seed: int, folder: Path) -> list[Case]:
    reference = left_alone(folder)
    print(f"a run left alone lives {reference.seconds:.1f} s", flush=True)
    cases = []
    for number, share in enumerate(moments(count, seed)):
        place = folder / f"case_{number:02d}"
        place.mkdir()
        # every seventh with make: three of twenty
        case = kill_and_resume(reference, share, place, by_make=number % 7 == 3)
        cases.append(case)
        verdict = "the same bits" if not case.found else "DIFFERS: " + "; ".join(case.found[:5])
        print(f"killed at {case.at:5.1f} s ({case.reached}): {verdict}", flush=True)
        shutil.rmtree(place, ignore_errors=True)
    good = sum(not case.found for case in cases)
    print(f"{good} of {len(cases)} killed runs resumed bit-identically", flush=True)
    return cases


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--moments", type=int, default=20)
    asked.add_argument("--seed", type=int, default=0)
    chosen = asked.parse_args()
    with tempfile.TemporaryDirectory() as kept:
        ended = run_all(chosen.moments, chosen.seed, Path(kept))
    sys.exit(int(any(case.found for case in ended)))
