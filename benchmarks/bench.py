"""Run every benchmark and print one table of ratios: convlens beside its peers.

    .venv/bin/python benchmarks/bench.py            (or: make bench args="…")

A script in this folder measures each row, one script after the other, in alternating rounds. Both
sides are prepared, then run in turns, and the ratio is computed within each round. The table shows
the median ratio, the minimum and the maximum; `docs/benchmarks.md` explains each row. Peers are
installed into their own environments at first use (3 GB in total, most of it torch, whose files are
shared with the project if the file system supports it).

These rows are measured on the processor. On a machine with an NVIDIA GPU the table of
`benchmarks/gpu.py` is printed instead, unless `--device cpu`, `--rows` or `--markdown` is given.

The results are written to `benchmarks/results/bench.json`, with the machine and all versions; the
results and logs of the scripts are next to it. A row that cannot be measured is listed as failed,
with the reason; the other rows are still measured, and the exit status is 1.

Photographs are expected in `--data` (`$CONVLENS_DATA/cats_dogs` or `data/cats_dogs`), with class
folders in train/, validation/ and test/. Rows that need no photographs run without them.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from peers.environment import pinned
from results import RESULTS, processor, write_result
from rounds import available_cores, side_environment
from rows import JOBS, PICTURES, ROWS, WEIGHTS, Job
from table import as_markdown, as_text, failed, measured, put_between

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent / "docs" / "benchmarks.md"
OURS = (
    "convlens",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "captum",
    "timm",
    "numpy",
    "matplotlib",
)


def parse() -> argparse.Namespace:
    root = os.environ.get("CONVLENS_DATA", "data")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=Path(root) / "cats_dogs", help="default: %(default)s")
    add("--rows", help=f"rows to measure (and those that extend a name): {', '.join(ROWS)}")
    add("--rounds", type=int, default=5, help="default: %(default)s")
    add("--quick", action="store_true", help="trial run: one round of a few steps")
    add("--strict", action="store_true", help="exit status 1 if a target is missed")
    add("--markdown", action="store_true", help="write the table to docs/benchmarks.md")
    add("--device", choices=("auto", "cpu", "gpu"), default="auto", help="default: %(default)s")
    args = parser.parse_args()
    args.data = args.data.expanduser()
    if args.device == "auto":
        is_for_cpu = args.rows is not None or args.markdown
        args.device = "gpu" if not is_for_cpu and has_gpu() else "cpu"
    try:
        args.rows = select_rows(args.rows)
    except ValueError as error:
        parser.error(str(error))
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if args.markdown and (args.quick or len(args.rows) < len(ROWS)):
        parser.error("--markdown needs the whole table: leave out --quick and --rows")
    return args


def has_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU that torch can use."""
    import torch  # takes seconds

    return torch.cuda.is_available()


def select_rows(names: str | None) -> list[str]:
    """Return the rows of comma-separated names; a name also stands for those that extend it.

    Raises:
        ValueError: there is no such row.
    """
    if names is None:
        return list(ROWS)
    asked = names.split(",")
    if unknown := [name for name in asked if name not in ROWS]:
        raise ValueError(f"unknown row {unknown[0]}; choose from: {', '.join(ROWS)}")
    return [row for row in ROWS if any(row == name or row.startswith(f"{name}_") for name in asked)]


def missing(job: Job, data: Path) -> str:
    """Return what a job needs and lacks, or an empty string."""
    splits = [data / split for split in ("train", "validation", "test")]
    if PICTURES in job.needs and (absent := [split for split in splits if not split.is_dir()]):
        return f"no folder {absent[0]}: set --data to photographs of cats and dogs"
    if WEIGHTS in job.needs:
        from convlens.core.errors import UserError
        from convlens.models.weights import find_pending_download

        try:
            pending = find_pending_download("vgg16", "auto", timm_name=None, whole=False)
        except UserError as error:
            return str(error)
        if pending:
            return f"{WEIGHTS} are missing in weights/ and $CONVLENS_WEIGHTS"
    return ""


def run(job: Job, args: argparse.Namespace, where: Path) -> list[dict]:
    """Measure the rows of one job; rows that cannot be measured are returned as failed."""
    if reason := missing(job, args.data):
        return [failed(row, reason) for row in job.rows]
    out, log = where / f"{job.name}.json", where / f"{job.name}.log"
    if job.rounds:  # others continue where they were stopped
        out.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / job.command[0]), *job.command[1:], "--out", str(out)]
    if PICTURES in job.needs:
        command += ["--data", str(args.data)]
    if job.rounds:
        command += [job.rounds, "1" if args.quick else str(args.rounds)]
    command += job.quick if args.quick else []
    with log.open("w") as file:
        try:
            done = subprocess.run(
                command, stdout=file, stderr=file, timeout=job.limit, env=side_environment()
            )
        except subprocess.TimeoutExpired:
            return [failed(row, f"stopped after {job.limit} s; see {log}") for row in job.rows]
    if done.returncode or not out.exists():
        return [failed(row, f"{last_line(log)} (see {log})") for row in job.rows]
    try:
        found = job.read(json.loads(out.read_text()))
        return [
            measured(row, rounds) if rounds else failed(row, f"its peer did not run; see {log}")
            for row, rounds in zip(job.rows, found, strict=True)
        ]
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        return [failed(row, f"{out} cannot be read: {error!r}") for row in job.rows]


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without output"


def versions(jobs: list[Job]) -> dict[str, dict[str, str]]:
    """Return the versions of the packages of convlens and of every peer used."""
    ours = {name: importlib.metadata.version(name) for name in OURS}
    python = sys.version.split()[0]
    peers = sorted({peer for job in jobs for peer in job.peers})
    return {"convlens": {"python": python, **ours}} | {peer: pinned(peer) for peer in peers}


def main() -> int:
    args = parse()
    if args.device == "gpu":
        more = ["--quick"] if args.quick else []
        return subprocess.call([sys.executable, str(HERE / "gpu.py"), *more])
    where = RESULTS / "quick" if args.quick else RESULTS
    where.mkdir(parents=True, exist_ok=True)
    jobs = [job for job in JOBS if any(row.name in args.rows for row in job.rows)]
    began, lines = time.perf_counter(), []
    for number, job in enumerate(jobs, 1):
        start = time.perf_counter()
        print(f"{number}/{len(jobs)} {job.name} …", end=" ", file=sys.stderr, flush=True)
        found = run(job, args, where)
        print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
        lines += [line for line in found if line["row"] in args.rows]
    print(as_text(lines))
    print(f"{processor()}, {len(available_cores())} cores")
    if args.quick:
        print("trial run: the ratios of one round of a few steps mean nothing")
    write_result(
        where / "bench.json", "convlens beside its peers", rounds=args.rounds, quick=args.quick,
        seconds=round(time.perf_counter() - began), versions=versions(jobs), rows=lines,
    )  # fmt: skip
    return close(args, lines)


def close(args: argparse.Namespace, lines: list[dict]) -> int:
    """Write the table to the docs if requested, and return the exit status."""
    broken = [line["row"] for line in lines if "failed" in line]
    missed = [line["row"] for line in lines if "failed" not in line and line["met"] is False]
    if args.markdown and not broken:
        put_between(DOCUMENT, as_markdown(lines))
        print(f"written: {DOCUMENT}")
    elif args.markdown:
        print(f"{DOCUMENT} is unchanged because rows failed", file=sys.stderr)
    if broken:
        print(f"not measured: {', '.join(broken)}", file=sys.stderr)
    if missed:
        print(f"target missed: {', '.join(missed)}", file=sys.stderr)
    # the ratios of a trial run mean nothing
    return int(bool(broken) or (args.strict and not args.quick and bool(missed)))


if __name__ == "__main__":
    sys.exit(main())
