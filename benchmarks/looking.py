"""Measure what explanations cost: fine-tune VGG16's last block with and without callbacks.

    .venv/bin/python benchmarks/looking.py --data DIR        (DIR/train/<class>/*.jpg, …)

Both sides are whole runs of `convlens train exp=finetune_vgg16` on photographs of cats and dogs,
one after the other, with end-to-end epochs only (augmented, head and block5 trained). The order
alternates. For each epoch of each run, its own seconds, the seconds of looking as the run itself
measures them (`summary.json`, `looking`), and the fraction of looking are printed and written to
`benchmarks/results/looking.json`. The ratio of the seconds of an epoch with and without callbacks
follows, then the bytes of each kind of explanation by epoch. The ratio includes the drift of the
machine from run to run, a few per cent; the fraction does not.

VGG16's weights come from `weights/`, `$CONVLENS_WEIGHTS`, or a download.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from budget import count_bytes
from results import RESULTS, processor, write_result
from rounds import available_cores, side_environment, take_rounds, watched

ALLOWED = 0.05
SIDES = {"default": "callbacks=default", "none": "callbacks=none"}


def train(home: Path, data: Path, epochs: int, callbacks: str, steps: int | None) -> dict:
    """Train, and return the summary of the run."""
    phase = f"{{epochs: {epochs}, train: [head, last_block], augment: true, warmup_epochs: 0.0, "
    phase += "until: null, lr: {head: 1e-4, last_block: 1e-5}}"
    words = [
        "exp=finetune_vgg16", "data=cats_dogs", f"data.dir={data.resolve()}", callbacks,
        "data.size=150", "model.head.pool=flatten",  # the documents' recipe
        f"finetune.phases=[{phase}]", f"run_dir={home}",
        *([f"training.steps_per_epoch={steps}"] if steps else []),
    ]  # fmt: skip
    command = [sys.executable, "-m", "convlens", "train", *words]
    with home.with_suffix(".log").open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=side_environment())
        if done.returncode:
            raise SystemExit(f"the run failed:\n{home.with_suffix('.log').read_text()[-2000:]}")
    summary = json.loads((home / "summary.json").read_text())
    return {**summary, "bytes": count_bytes(home)}


def main() -> int:
    root = os.environ.get("CONVLENS_DATA", "data")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(root) / "cats_dogs")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each run (default: 3)")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each side (default: 1)")
    parser.add_argument("--steps", type=int, help="steps of an epoch (default: all images once)")
    parser.add_argument(
        "--only-default", action="store_true", help="only runs with callbacks: fractions, no ratio"
    )
    parser.add_argument("--check", action="store_true", help="exit status 1 above 5 %%")
    parser.add_argument("--out", type=Path, default=RESULTS / "looking.json")
    args = parser.parse_args()
    if not (args.data / "train").is_dir():
        parser.error(f"no folder {args.data / 'train'}: set --data to photographs of cats and dogs")
    if args.epochs < 1 or args.rounds < 1:
        parser.error("--epochs and --rounds must be at least 1")

    sides = ["default"] if args.only_default else list(SIDES)
    print(f"{'run':>10}{'epoch':>7}{'seconds':>10}{'looking':>10}{'fraction':>10}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        homes = map(Path(folder).joinpath, map(str, itertools.count()))

        def one_round(number: int) -> tuple[dict, list]:
            line, seen = {}, []
            for side in sides if number % 2 == 0 else list(reversed(sides)):
                words = (next(homes), args.data, args.epochs, SIDES[side], args.steps)
                summary = watched(partial(train, *words), seen)
                line[side] = {
                    key: summary[key]
                    for key in ("looking", "explaining", "left_out", "failures", "bytes")
                }
                for each in summary["looking"]["by_epoch"]:
                    own, looking = each["seconds"], each["looking"]
                    print(
                        f"{side:>10}{each['epoch']:>7}{own:>10.1f}{looking:>10.2f}"
                        f"{looking / (own + looking):>10.1%}",
                        flush=True,
                    )
            took = {
                side: sum(e["seconds"] + e["looking"] for e in line[side]["looking"]["by_epoch"])
                for side in sides
            }
            if not args.only_default:
                line["ratio"] = round(took["default"] / took["none"], 4)
            return line, seen

        rounds = take_rounds(args.rounds, one_round)
    fractions = [line["default"]["looking"]["share_of_epochs"] for line in rounds]
    print(f"looking takes {statistics.median(fractions):.1%} of the epochs")
    ratio = None
    if not args.only_default:
        ratio = statistics.median(line["ratio"] for line in rounds)
        print(f"with callbacks an epoch takes {ratio:.3f} times as long as without")
    last = rounds[-1]["default"]
    costs = ", ".join(f"{name} {value:.1f}" for name, value in last["explaining"].items())
    print(f"seconds by callback, including the looks before training and at the end: {costs}")
    for clock, kinds in sorted(last["bytes"].items(), key=lambda each: int(each[0])):
        sizes = ", ".join(f"{kind} {size / 1000:.0f}" for kind, size in kinds.items())
        print(f"kB of explanations at epoch {clock}: {sizes}")
    for line in last["left_out"].values():
        print(f"left out: {line}")
    print(f"{processor()}, {len(available_cores())} cores")
    write_result(
        args.out, "fine-tuning VGG16's last block on cats and dogs, end to end, 150x150",
        rounds=rounds, share=statistics.median(fractions), ratio=ratio,
    )  # fmt: skip
    failed = [name for line in rounds for name in line["default"]["failures"]]
    if failed or max(fractions) > ALLOWED:
        print(f"above {ALLOWED:.0%}, or failed: {fractions}, {failed}", file=sys.stderr)
        return int(args.check)
    return 0


if __name__ == "__main__":
    sys.exit(main())
