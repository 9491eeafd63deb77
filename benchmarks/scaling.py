"""What a picture costs in time and memory, from a thousand of them to a million.

    .venv/bin/python benchmarks/scaling.py                   (make bench-scaling args="…")

Folders of small JPEG files are made on the spot (`scaling_pictures.py`) and removed at the end.
Every stage of a run that goes over all pictures (`scaling_stage.py`: indexing, the split file, the
pixel cache made and opened again, the feature cache, an epoch's batches) is measured in a process
of its own. In a round every stage meets every size, one after the other, and the next round meets
them in the opposite order, so that a drift of the machine's speed meets all alike.

Seconds a picture are (t(N) - t(few)) / N, where t(few) is the same stage in the same process with
a handful of pictures: the constant. Small folders are gone through several times in a process, and
the mean is taken. Bytes a picture are what the process's anonymous memory (RssAnon: what only swap
could take back) grew by, at its highest and at the end, when the results of all repetitions are
held; what the few pictures' results take is taken off. Pages of mapped files count in a process's
resident memory too, but the system takes them back whenever it wants to: they are told apart.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from results import RESULTS, processor, write_result
from rounds import available_cores
from scaling_pictures import classes_of, make
from scaling_table import DOCS, table, write_docs

STAGES = ("index", "split_file", "pixels", "pixels_again", "features", "epoch")
FEW = 20  # pictures of the constant, in two classes
WANTED = 100_000  # pictures that a process goes through at least, in repetitions;
SLOW = {"pixels": 20_000, "features": 20_000}  # of stages that take longer
STAGE = Path(__file__).with_name("scaling_stage.py")


def measure(stage: str, home: Path, size: int) -> dict:
    """One stage at one size, in a process of its own."""
    times = max(1, SLOW.get(stage, WANTED) // size)
    command = [
        sys.executable, str(STAGE), stage, "--few", str(home / str(FEW)),
        "--pictures", str(home / str(size)), "--cache", str(home / "cache" / str(size)),
        "--repeats", str(times),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{stage} with {size} pictures failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    held = size * times
    constant = found["start_bytes"] * times
    return {
        "microseconds": 1e6 * (found["seconds"] - found["start_seconds"]) / size,
        "start_seconds": found["start_seconds"],
        "start_bytes": found["start_bytes"],
        "bytes_peak": (found["anonymous_peak"] - constant) / held,
        "bytes_held": (found["anonymous_held"] - constant) / held,
        "bytes_files": found["files"] / held,
        "resident_megabytes": found["resident_highest"] / 1e6,
    }


def medians(rounds: list[dict]) -> dict:
    """Of each figure the median over the rounds, with the lowest and the highest."""
    return {
        key: {
            "median": round(statistics.median(one[key] for one in rounds), 4),
            "min": round(min(one[key] for one in rounds), 4),
            "max": round(max(one[key] for one in rounds), 4),
        }
        for key in rounds[0]
    }


def home_of(where: Path | None) -> Path:
    """A new folder for pictures and caches, in ``where`` or where temporary files go."""
    if where is not None:
        where.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="scaling_", dir=where))


def prepare(home: Path, sizes: list[int], most: int) -> dict[int, int]:
    """Make the folders; the number of classes of each size."""
    classes = {size: classes_of(size, most) for size in sizes}
    for size, many in {FEW: 2, **classes}.items():
        print(f"making {size:,} pictures in {many} classes", flush=True)
        make(home / str(size), size, many)
    os.sync()  # else the disk is still busy with them while the first stages are measured
    return classes


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="1000,10000,100000,1000000", help="numbers of pictures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--classes", type=int, default=1000, help="at most; ten pictures a class")
    parser.add_argument("--stages", default=",".join(STAGES), help="some of them")
    parser.add_argument("--where", type=Path, help="folder for the pictures (default: temporary)")
    parser.add_argument("--keep", action="store_true", help="leave pictures and caches there")
    parser.add_argument("--out", type=Path, default=RESULTS / "scaling.json")
    parser.add_argument("--write-docs", action="store_true", help=f"the table into {DOCS.name}")
    args = parser.parse_args()
    sizes, stages = [int(size) for size in args.sizes.split(",")], args.stages.split(",")
    if min(sizes) <= FEW or args.rounds < 1 or set(stages) - set(STAGES):
        parser.error(f"sizes above {FEW}, rounds from 1, stages of {', '.join(STAGES)}")

    home, found = home_of(args.where), {(s, n): [] for s in stages for n in sizes}
    try:
        classes = prepare(home, sizes, args.classes)
        for number in range(args.rounds):
            for stage, size in list(found) if number % 2 == 0 else reversed(list(found)):
                one = measure(stage, home, size)
                found[stage, size].append(one)
                print(
                    f"round {number + 1}  {stage:<13}{size:>10,}{one['microseconds']:>9.1f} µs"
                    f"{one['bytes_held']:>9.0f} B held{one['bytes_peak']:>9.0f} B peak"
                    f"{one['start_seconds']:>9.3f} s constant",
                    flush=True,
                )
    finally:
        if args.keep:
            print(f"kept: {home}")
        else:
            shutil.rmtree(home)
    result = {stage: {str(size): medians(found[stage, size]) for size in sizes} for stage in stages}
    print("\n".join(table(result, sizes)))
    print(f"{processor()}, {len(available_cores())} cores, {args.rounds} rounds")
    write_result(
        args.out, "time and anonymous memory of a picture, after the constant start-up",
        rounds=args.rounds, classes={str(n): k for n, k in classes.items()}, stages=result,
    )  # fmt: skip
    if args.write_docs:
        write_docs(result, sizes, classes, args.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
