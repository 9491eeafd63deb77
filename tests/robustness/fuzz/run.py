"""Feed every surface thousands of cases: ``make fuzz args="--cases 10000 --seed 0"``.

Prints a table (surface, cases, accepted, refused, finds) and one line for each distinct find;
the exit status is 1 if there is any. ``--only NAME`` takes one surface, ``--json FILE`` keeps it.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

HANG = 60  # seconds after which a case that does not end ends the process, with a traceback


def main() -> int:
    told = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    told.add_argument("--cases", type=int, default=10_000)
    told.add_argument("--seed", type=int, default=0)
    told.add_argument("--only", default="", help="part of a surface's name")
    told.add_argument("--jobs", type=int, default=2, help="surfaces at the same time")
    told.add_argument("--json", type=Path)
    asked = told.parse_args()
    from support.fuzz_all import SURFACES

    names = [surface.name for surface in SURFACES if asked.only in surface.name]
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="convlens-fuzz-") as parent,
        ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1)
        as pool,
    ):  # fmt: skip
        work = [pool.submit(one, name, parent, asked.cases, asked.seed) for name in names]
        for done in as_completed(work):
            rows.append(done.result())
            _print(rows[-1])
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(any(row["finds"] for row in rows))


def one(name: str, parent: str, cases: int, seed: int) -> dict:
    """One surface, in a process and a folder of its own."""
    folder = Path(parent) / name.replace(" ", "_")
    folder.mkdir()
    os.environ["CONVLENS_CACHE"] = str(folder / "cache")
    import torch

    from support.fuzz_all import SURFACES

    torch.set_num_threads(1)
    surface = next(surface for surface in SURFACES if surface.name == name)
    return fed(surface, folder, cases, seed)


def fed(surface, folder: Path, cases: int, seed: int) -> dict:
    """Run ``cases`` drawn inputs; nothing ends it but its number."""
    import hypothesis
    from hypothesis import HealthCheck, Phase, given, settings

    case, outcomes, finds = surface.start(folder), Counter(), {}
    began = time.perf_counter()

    @hypothesis.seed(seed)
    @settings(
        max_examples=cases, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(surface.inputs)
    def feed(value) -> None:
        faulthandler.dump_traceback_later(HANG, exit=True)
        try:
            outcomes[case(value)] += 1
        except Exception as error:  # a surface judges refusals itself: UserError is a find too
            outcomes["crashes"] += 1
            finds.setdefault(_place(error), repr(value)[:300])
        finally:
            faulthandler.cancel_dump_traceback_later()

    feed()
    return {
        "surface": surface.name, "cases": outcomes.total(), **{
            key: outcomes[key] for key in ("accepted", "refused", "crashes")
        },
        "finds": finds, "seconds": round(time.perf_counter() - began, 1), "seed": seed,
    }  # fmt: skip


def _place(error: Exception) -> str:
    """What tells one find from another: the exception and the innermost line of convlens."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "convlens" in f.filename] or frames
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
    return f"{type(error).__name__} in {where}: {str(error).splitlines()[:1]}"[:240]


def _print(row: dict) -> None:
    print(
        f"{row['surface']:<28} {row['cases']:>6} cases {row['accepted']:>6} accepted "
        f"{row['refused']:>6} refused {row['crashes']:>5} crashes "
        f"{len(row['finds']):>3} distinct finds {row['seconds']:>7.1f} s", flush=True,
    )  # fmt: skip
    for place, value in row["finds"].items():
        print(f"  {place}\n    {value}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
