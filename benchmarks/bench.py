"""Every benchmark in one run, as one table: convlens beside its peers, as ratios.

    .venv/bin/python benchmarks/bench.py            (or: make bench args="…")

Each row is measured by a script of this folder, one script after the other, in interleaved rounds:
both sides are made ready, then run in turns, and the ratio is formed within each round. The table
shows medians over the rounds, and the least and the greatest ratio; `docs/benchmarks.md` says what
each row is. Peers are installed into environments of their own at the first use (3 GB in all, most
of it torch, which they share with the project where the file system can).

Written: `benchmarks/results/bench.json`, with the machine and all versions, and the scripts' own
results and logs beside it. A row that cannot be measured is shown as failed, with the reason, and
loses no other; the exit status is then 1.

Photographs are looked for in `--data` (`$CONVLENS_DATA/cats_dogs` or `data/cats_dogs`), with
train/, validation/ and test/ of class folders; rows that need none run without.
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
LIMIT = 1800  # seconds that a script may take


def parse() -> argparse.Namespace:
    root = os.environ.get("CONVLENS_DATA", "data")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=Path(root) / "cats_dogs", help="default: %(default)s")
    add("--rows", help=f"only these, with commas between: {', '.join(ROWS)}")
    add("--rounds", type=int, default=5, help="default: %(default)s")
    add("--quick", action="store_true", help="a trial of everything: one round of few steps")
    add("--strict", action="store_true", help="exit status 1 if a target is missed")
    add("--markdown", action="store_true", help="put the table into docs/benchmarks.md")
    args = parser.parse_args()
    args.data = args.data.expanduser()
    args.rows = list(ROWS) if args.rows is None else args.rows.split(",")
    unknown = [name for name in args.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row {unknown[0]}; there are: {', '.join(ROWS)}")
    if args.rounds < 1:
        parser.error("rounds are at least 1")
    if args.markdown and (args.quick or len(args.rows) < len(ROWS)):
        parser.error("--markdown wants the whole table: leave out --quick and --rows")
    return args


def missing(job: Job, data: Path) -> str:
    """What a job needs and does not find, or nothing."""
    splits = [data / split for split in ("train", "validation", "test")]
    if PICTURES in job.needs and (gone := [split for split in splits if not split.is_dir()]):
        return f"no folder {gone[0]}: give the cats and dogs photographs with --data"
    if WEIGHTS in job.needs:
        from convlens.core.errors import UserError
        from convlens.models.weights import find_pending_download

        try:
            pending = find_pending_download("vgg16", "auto", timm_name=None, whole=False)
        except UserError as error:
            return str(error)
        if pending:
            return f"{WEIGHTS} are neither in weights/ nor in $CONVLENS_WEIGHTS"
    return ""


def run(job: Job, args: argparse.Namespace, where: Path) -> list[dict]:
    """The rows of one job, measured or failed."""
    if reason := missing(job, args.data):
        return [failed(row, reason) for row in job.rows]
    out, log = where / f"{job.name}.json", where / f"{job.name}.log"
    out.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / job.command[0]), *job.command[1:], "--out", str(out)]
    if PICTURES in job.needs:
        command += ["--data", str(args.data)]
    command += [job.rounds, "1", *job.quick] if args.quick else [job.rounds, str(args.rounds)]
    with log.open("w") as file:
        try:
            done = subprocess.run(
                command, stdout=file, stderr=file, timeout=LIMIT, env=side_environment()
            )
        except subprocess.TimeoutExpired:
            return [failed(row, f"not done after {LIMIT} s; see {log}") for row in job.rows]
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
    return lines[-1] if lines else "it ended without a word"


def versions(jobs: list[Job]) -> dict[str, dict[str, str]]:
    """Of ours and of every peer that was used."""
    ours = {name: importlib.metadata.version(name) for name in OURS}
    python = sys.version.split()[0]
    peers = sorted({peer for job in jobs for peer in job.peers})
    return {"convlens": {"python": python, **ours}} | {peer: pinned(peer) for peer in peers}


def main() -> int:
    args = parse()
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
        print("a trial: one round of a few steps measures nothing")
    write_result(
        where / "bench.json", "convlens beside its peers", rounds=args.rounds, quick=args.quick,
        seconds=round(time.perf_counter() - began), versions=versions(jobs), rows=lines,
    )  # fmt: skip
    return close(args, lines)


def close(args: argparse.Namespace, lines: list[dict]) -> int:
    """The table into the document, if wished; then the exit status, and its reasons."""
    broken = [line["row"] for line in lines if "failed" in line]
    short = [line["row"] for line in lines if "failed" not in line and line["met"] is False]
    if args.markdown and not broken:
        put_between(DOCUMENT, as_markdown(lines))
        print(f"written: {DOCUMENT}")
    elif args.markdown:
        print(f"{DOCUMENT} keeps its table: rows failed", file=sys.stderr)
    if broken:
        print(f"not measured: {', '.join(broken)}", file=sys.stderr)
    if short:
        print(f"target missed: {', '.join(short)}", file=sys.stderr)
    # a trial's few steps say nothing of targets
    return int(bool(broken) or (args.strict and not args.quick and bool(short)))


if __name__ == "__main__":
    sys.exit(main())
