"""Measure the time and memory that an image costs, from a thousand images to a million.

    .venv/bin/python benchmarks/scaling.py                   (make bench-scaling args="…")

Folders of small JPEG files are created first (`scaling_pictures.py`) and removed at the end. Every
stage of a run that processes all images (`scaling_stage.py`: indexing, the split file, building and
reopening the pixel cache, the feature cache, the batches of an epoch) is measured in its own
process. A round measures every stage at every size, and the next round reverses the order, so
that a drift of the machine's speed affects all equally.

Seconds per image are (t(N) - t(few)) / N, where t(few), the constant cost, is the time of the same
stage in the same process with a few images. Small folders are processed several times, and the mean
is used.
Bytes per image are the growth of the process's anonymous memory (RssAnon, which only swap can
reclaim), at its peak and at the end, while the results of all repetitions are kept. The bytes of
the few images are subtracted. Pages of mapped files also count as resident memory, but the
system can reclaim them at any time; they are listed separately.
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
FEW = 20  # images that measure the constant cost, in two classes
WANTED = 100_000  # fewest images that a process handles, with repetitions
SLOW = {"pixels": 20_000, "features": 20_000}  # the same, for slower stages
STAGE = Path(__file__).with_name("scaling_stage.py")


def measure(stage: str, home: Path, size: int) -> dict:
    """Measure one stage at one size, in its own process."""
    times = max(1, SLOW.get(stage, WANTED) // size)
    command = [
        sys.executable, str(STAGE), stage, "--few", str(home / str(FEW)),
        "--pictures", str(home / str(size)), "--cache", str(home / "cache" / str(size)),
        "--repeats", str(times),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{stage} with {size} images failed:\n{done.stderr[-3000:]}")
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
    """Return the median, minimum and maximum of each figure over the rounds."""
    return {
        key: {
            "median": round(statistics.median(one[key] for one in rounds), 4),
            "min": round(min(one[key] for one in rounds), 4),
            "max": round(max(one[key] for one in rounds), 4),
        }
        for key in rounds[0]
    }


def home_of(where: Path | None) -> Path:
    """Make a folder for images and caches, in ``where`` or in the system's temporary folder."""
    if where is not None:
        where.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="scaling_", dir=where))


def prepare(home: Path, sizes: list[int], most: int) -> dict[int, int]:
    """Make the folders of images, and return the number of classes of each size."""
    classes = {size: classes_of(size, most) for size in sizes}
    for size, many in {FEW: 2, **classes}.items():
        print(f"making {size:,} images in {many} classes", flush=True)
        make(home / str(size), size, many)
    os.sync()  # otherwise the disk is still busy while the first stages are measured
    return classes


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="1000,10000,100000,1000000", help="numbers of images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--classes", type=int, default=1000, help="maximum; each has at least ten images"
    )
    parser.add_argument("--stages", default=",".join(STAGES), help="default: all")
    parser.add_argument("--where", type=Path, help="folder for the images (default: temporary)")
    parser.add_argument("--keep", action="store_true", help="keep images and caches")
    parser.add_argument("--out", type=Path, default=RESULTS / "scaling.json")
    parser.add_argument("--write-docs", action="store_true", help=f"write the table to {DOCS.name}")
    args = parser.parse_args()
    sizes, stages = [int(size) for size in args.sizes.split(",")], args.stages.split(",")
    if min(sizes) <= FEW or args.rounds < 1 or set(stages) - set(STAGES):
        parser.error(
            f"--sizes need more than {FEW}, --rounds at least 1, --stages {', '.join(STAGES)}"
        )

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
        args.out, "time and anonymous memory per image, without the constant start-up",
        rounds=args.rounds, classes={str(n): k for n, k in classes.items()}, stages=result,
    )  # fmt: skip
    if args.write_docs:
        write_docs(result, sizes, classes, args.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
