"""What looking costs: fine-tuning VGG16's last block with the default callbacks, and with none.

    .venv/bin/python benchmarks/looking.py --data DIR        (DIR/train/<class>/*.jpg, …)

Both sides are whole runs of `convlens train exp=finetune_vgg16` on photographs of cats and dogs,
with end-to-end epochs only (augmented, head and block5 trained), one after the other; who goes
first alternates. Printed and written to `benchmarks/results/looking.json`, for each epoch of each
run: its own seconds, those of looking, as the run itself measures them (`summary.json`, `looking`),
and the share of looking; then the ratio of an epoch's seconds with and without, by the two clocks.
The ratio carries the machine's own drift from run to run, a few per cent; the share does not.

VGG16's weights are found as ever (`weights/`, `$CONVLENS_WEIGHTS`, or downloaded).
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

from results import RESULTS, processor, write_result
from rounds import available_cores, side_environment, take_rounds, watched

ALLOWED = 0.05
SIDES = {"default": "callbacks=default", "none": "callbacks=none"}


def train(home: Path, data: Path, epochs: int, callbacks: str, steps: int | None) -> dict:
    """One run's summary."""
    phase = f"{{epochs: {epochs}, train: [head, last_block], augment: true, warmup_epochs: 0.0, "
    phase += "until: null, lr: {head: 1e-4, last_block: 1e-5}}"
    words = [
        "exp=finetune_vgg16", "data=cats_dogs", f"data.dir={data.resolve()}", callbacks,
        f"finetune.phases=[{phase}]", f"run_dir={home}",
        *([f"training.steps_per_epoch={steps}"] if steps else []),
    ]  # fmt: skip
    command = [sys.executable, "-m", "convlens", "train", *words]
    with home.with_suffix(".log").open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=side_environment())
        if done.returncode:
            raise SystemExit(f"the run failed:\n{home.with_suffix('.log').read_text()[-2000:]}")
    return json.loads((home / "summary.json").read_text())


def main() -> int:
    root = os.environ.get("CONVLENS_DATA", "data")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(root) / "cats_dogs")
    parser.add_argument("--epochs", type=int, default=3, help="of each run (default: 3)")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each side (default: 1)")
    parser.add_argument("--steps", type=int, help="of an epoch (default: all pictures once)")
    parser.add_argument(
        "--only-default", action="store_true", help="only the runs that look: shares, no ratio"
    )
    parser.add_argument("--check", action="store_true", help="exit status 1 above 5 %%")
    parser.add_argument("--out", type=Path, default=RESULTS / "looking.json")
    args = parser.parse_args()
    if not (args.data / "train").is_dir():
        parser.error(f"no folder {args.data / 'train'}: give the cats/dogs pictures with --data")
    if args.epochs < 1 or args.rounds < 1:
        parser.error("epochs and rounds are at least 1")

    sides = ["default"] if args.only_default else list(SIDES)
    print(f"{'run':>10}{'epoch':>7}{'seconds':>10}{'looking':>10}{'share':>8}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        homes = map(Path(folder).joinpath, map(str, itertools.count()))

        def one_round(number: int) -> tuple[dict, list]:
            line, seen = {}, []
            for side in sides if number % 2 == 0 else list(reversed(sides)):
                words = (next(homes), args.data, args.epochs, SIDES[side], args.steps)
                summary = watched(partial(train, *words), seen)
                line[side] = {
                    key: summary[key] for key in ("looking", "explaining", "left_out", "failures")
                }
                for each in summary["looking"]["by_epoch"]:
                    own, looked = each["seconds"], each["looking"]
                    print(
                        f"{side:>10}{each['epoch']:>7}{own:>10.1f}{looked:>10.2f}"
                        f"{looked / (own + looked):>8.1%}",
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
    shares = [line["default"]["looking"]["share_of_epochs"] for line in rounds]
    print(f"looking takes {statistics.median(shares):.1%} of the epochs")
    ratio = None
    if not args.only_default:
        ratio = statistics.median(line["ratio"] for line in rounds)
        print(f"with callbacks an epoch takes {ratio:.3f} times as long as without")
    last = rounds[-1]["default"]
    told = ", ".join(f"{name} {value:.1f}" for name, value in last["explaining"].items())
    print(f"seconds by callback, with the looks before training and at the end: {told}")
    for line in last["left_out"].values():
        print(f"left out: {line}")
    print(f"{processor()}, {len(available_cores())} cores")
    write_result(
        args.out, "fine-tuning VGG16's last block on cats and dogs, end to end, 150x150",
        rounds=rounds, share=statistics.median(shares), ratio=ratio,
    )  # fmt: skip
    failed = [name for line in rounds for name in line["default"]["failures"]]
    if failed or max(shares) > ALLOWED:
        print(f"above {ALLOWED:.0%} of an epoch, or failed: {shares}, {failed}", file=sys.stderr)
        return int(args.check)
    return 0


if __name__ == "__main__":
    sys.exit(main())
