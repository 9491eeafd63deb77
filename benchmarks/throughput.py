"""Compare the speed of the same task in convlens and a peer, in images/s on cats and dogs.

    .venv/bin/python benchmarks/throughput.py --data DIR        (DIR/train/<class>/*.jpg)

The tasks of `--task`, all on batches of 20 images of 150×150 pixels:

- `scratch` trains the scratch network with augmentation; the peer is Keras.
- `vgg16_extract` turns photographs into VGG16's features; the peer is Keras.
- `vgg16_frozen` trains a new head on frozen VGG16 with augmentation; the peer is Keras.
- `vgg16_finetune` also trains block5; the peer is Keras.
- `head_epoch` is an epoch of the head on stored features, with its validation; the peer is an
  end-to-end epoch in Keras.
- `plain_scratch` and `plain_last_block` show what Lightning and convlens add; the peer is the same
  training step in a plain loop.

Both sides are prepared, then run in turns on the same cores, never at the same time, each with its
library's default number of threads. The order alternates. A round in which anything else used more
than a tenth of a core is discarded and repeated; after five in succession it fails. Every
round, the medians, the spread, and the ratio ours / peer of each round are printed and written to
`benchmarks/results/throughput_TASK.json`. Speeds depend on the machine; the result is the ratio of
one run.

The first use installs Keras into `benchmarks/.peers/keras` (about 1 GB).
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

from peers.environment import peer_python
from results import RESULTS, processor, spread, write_result
from rounds import Side, available_cores, take_rounds

HERE = Path(__file__).resolve().parent


class Task(NamedTuple):
    """A comparison.

    Attributes:
        what: description for the result file.
        ours: script of convlens, with its first arguments.
        beside: script of the peer, with its first arguments.
        warmup_steps: uncounted steps per round.
        steps: counted steps per round.
        peer: name of the peer.
    """

    what: str
    ours: list[str]
    beside: list[str]
    warmup_steps: int
    steps: int
    peer: str = "keras"


TASKS = {
    "scratch": Task(
        "training, scratch network 150x150, batch 20, Keras augmentation, cats and dogs",
        ["ours_scratch.py"],
        ["peers/keras_scratch.py"],
        warmup_steps=10,
        steps=80,
    ),
    "vgg16_extract": Task(
        "features of VGG16's base from JPEG files, 150x150, batch 20, cats and dogs",
        ["ours_vgg16.py", "vgg16_extract"],
        ["peers/keras_vgg16.py", "vgg16_extract"],
        warmup_steps=2,
        steps=15,
    ),
    "vgg16_frozen": Task(
        "training, a head on frozen VGG16, 150x150, batch 20, Keras augmentation, cats and dogs",
        ["ours_vgg16.py", "vgg16_frozen"],
        ["peers/keras_vgg16.py", "vgg16_frozen"],
        warmup_steps=2,
        steps=12,
    ),
    "head_epoch": Task(
        "an epoch of a head on VGG16's stored features beside an end-to-end epoch on the frozen "
        "base (scaled from some steps), validation included, cats and dogs",
        ["ours_head.py"],
        ["peers/keras_vgg16.py", "vgg16_epoch"],
        warmup_steps=2,
        steps=8,
    ),
    "plain_scratch": Task(
        "training, scratch network 150x150, batch 20, Keras augmentation, beside a plain loop",
        ["ours_scratch.py"],
        ["plain_loop.py", "scratch"],
        warmup_steps=10,
        steps=80,
        peer="plain",
    ),
    "plain_last_block": Task(
        "training, VGG16's block5 and head, 150x150, batch 20, beside a plain loop",
        ["ours_vgg16.py", "vgg16_finetune"],
        ["plain_loop.py", "last_block"],
        warmup_steps=2,
        steps=15,
        peer="plain",
    ),
    "vgg16_finetune": Task(
        "training, VGG16's block5 and head, 150x150, batch 20, Keras augmentation, cats and dogs",
        ["ours_vgg16.py", "vgg16_finetune"],
        ["peers/keras_vgg16.py", "vgg16_finetune"],
        warmup_steps=2,
        steps=12,
    ),
}


def parse() -> argparse.Namespace:
    root = os.environ.get("CONVLENS_DATA", "data")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=Path(root) / "cats_dogs", help="default: %(default)s")
    add("--task", choices=TASKS, default="scratch", help="default: %(default)s")
    add("--rounds", type=int, default=5)
    add("--warmup-steps", type=int, help="uncounted steps per round (default: by task)")
    add("--steps", type=int, help="counted steps of 20 images per round (default: by task)")
    add("--cores", type=int, default=2, help="cores to which both sides are pinned (default 2)")
    add("--at-least", type=float, help="exit status 1 if the median ratio is below this")
    add("--ours", type=Path, help="another script for the side of convlens")
    add("--out", type=Path, help="default: benchmarks/results/throughput_TASK.json")
    args = parser.parse_args()
    task = TASKS[args.task]
    args.steps = task.steps if args.steps is None else args.steps
    args.warmup_steps = task.warmup_steps if args.warmup_steps is None else args.warmup_steps
    args.out = args.out or RESULTS / f"throughput_{args.task}.json"
    args.data = args.data.expanduser()
    if not (args.data / "train").is_dir():
        parser.error(f"no folder {args.data / 'train'}: set --data to photographs of cats and dogs")
    if args.rounds < 1 or args.steps < 1 or args.warmup_steps < 0 or args.cores < 1:
        parser.error("--rounds, --steps and --cores need at least 1, --warmup-steps 0")
    return args


def row(label, ours: float, peer: float, ratio: float, others: float | None = None) -> str:
    cells = f"{label:>8}{ours:>12.1f}{peer:>12.1f}{ratio:>8.3f}"
    return cells if others is None else f"{cells}{others:>9.2f}"


def measure(sides: list[Side], number: int) -> tuple[dict, list[float | None]]:
    """Measure one round of both sides, and the cores that anything else used meanwhile."""
    figures = {side.name: side.round() for side in (sides if number % 2 == 0 else sides[::-1])}
    ours, peer = (figures[side.name] for side in sides)
    line = {
        "round": number + 1,
        **{side.name: figures[side.name]["images_per_second"] for side in sides},
        "seconds": {name: figure["seconds"] for name, figure in figures.items()},
        "ratio": round(ours["images_per_second"] / peer["images_per_second"], 4),
    }
    if ours["peak_mb"] is not None and peer["peak_mb"] is not None:
        line["peak_mb"] = {name: figure["peak_mb"] for name, figure in figures.items()}
    seen = [figure["others"] for figure in figures.values()]
    speeds = (figure["images_per_second"] for figure in (ours, peer))
    print(row(number + 1, *speeds, line["ratio"], None if None in seen else max(seen)), flush=True)
    return line, seen


def main() -> int:
    args = parse()
    cores = available_cores()[: args.cores]
    RESULTS.mkdir(exist_ok=True)  # for the logs of the sides
    args.out.parent.mkdir(parents=True, exist_ok=True)
    options = ["--data", args.data, "--warmup-steps", args.warmup_steps, "--steps", args.steps]
    options = list(map(str, options))
    task = TASKS[args.task]
    ours, *ours_options = task.ours
    beside, *peer_options = task.beside
    python = peer_python("keras") if task.peer == "keras" else sys.executable
    commands = {
        "convlens": [sys.executable, str(args.ours or HERE / ours), *ours_options, *options],
        task.peer: [str(python), str(HERE / beside), *peer_options, *options],
    }

    sides: list[Side] = []
    try:
        for (
            name,
            command,
        ) in commands.items():  # one by one: preparing uses the cores too
            print(f"preparing: {name}", file=sys.stderr)
            sides.append(Side(name, command, cores, RESULTS / f"throughput_{args.task}_{name}.log"))
        print(f"{'round':>8}{'convlens':>12}{task.peer:>12}{'ratio':>8}{'others':>9}", flush=True)
        rounds = take_rounds(args.rounds, lambda number: measure(sides, number))
    finally:
        for side in sides:
            side.close()

    speeds = {side.name: [line[side.name] for line in rounds] for side in sides}
    ratios = [line["ratio"] for line in rounds]
    summary = {name: spread(values) for name, values in speeds.items()}
    for key in ("median", "min", "max"):
        print(row(key, *(each[key] for each in summary.values()), spread(ratios)[key]))
    print("images/s; others: most cores that anything else used during the round")
    if "peak_mb" in rounds[-1]:
        peaks = rounds[-1]["peak_mb"]
        print(", ".join(f"{name}: {mb:.0f} MB peak memory" for name, mb in peaks.items()))
    for side in sides:
        about = json.dumps({key: value for key, value in side.about.items() if key != "side"})
        print(f"{side.name}: {about}")
    print(f"{processor()}, both sides pinned to {len(cores)} cores")

    ratio = spread(ratios)
    write_result(
        args.out, task.what, task=args.task, cores_used=len(cores), steps=args.steps,
        warmup_steps=args.warmup_steps,
        sides={side.name: {**side.about, **summary[side.name]} for side in sides},
        rounds=rounds, ratio=ratio,
    )  # fmt: skip

    if args.at_least is not None and ratio["median"] < args.at_least:
        print(f"the median ratio is below {args.at_least}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
