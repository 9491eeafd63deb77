"""Measure the seconds from the start of a process to the end of its first training step.

    .venv/bin/python benchmarks/startup.py --data DIR        (DIR/train/<class>/*.jpg, …)

Each side uses the recipe ``cats_dogs_regularized``: `convlens train` without explanation callbacks
and with images already decoded; the Keras script; and a plain torch script. Only convlens evaluates
the untrained network on all validation images before it trains (epoch 0 of every curve). This is
included, and also listed separately as "judging". Whole processes run one after the other, and the
order changes from round to round; a first start of each is not counted. The seconds, and the ratios
peer / ours of each round, are printed and written to `benchmarks/results/startup.json`.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from peers.environment import peer_python
from results import RESULTS, processor, spread, write_result
from rounds import available_cores, side_environment, take_rounds, watched

HERE = Path(__file__).resolve().parent
SIDES = ("convlens", "keras", "torch")


def command(side: str, data: Path, home: Path) -> list[str]:
    words = {
        "convlens": [sys.executable, HERE / "ours_start.py", "--home", home],
        "keras": [
            peer_python("keras"), HERE / "peers" / "keras_scratch.py",
            "--warmup-steps", 0, "--steps", 1,
        ],
        "torch": [sys.executable, HERE / "peers" / "torch_start.py"],
    }[side]  # fmt: skip
    return list(map(str, [*words, "--data", data]))


def start(side: str, data: Path, home: Path) -> tuple[float, str]:
    """Return the seconds until the line about the first step, and the line."""
    words = command(side, data, home)
    log = RESULTS / f"startup_{side}.log"
    with log.open("w") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env=side_environment(),
        )  # fmt: skip
        process.stdin.write("go\n")  # only the Keras script waits for it
        process.stdin.flush()
        line = process.stdout.readline()
        if side == "keras":  # its first line describes the side
            line = process.stdout.readline()
        seconds = time.perf_counter() - began
        process.stdin.close()
        process.wait()
    if not line:
        raise SystemExit(f"{side} made no step; {log} ends:\n{log.read_text()[-1000:]}")
    return seconds, line


def main() -> int:
    root = os.environ.get("CONVLENS_DATA", "data")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(root) / "cats_dogs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "startup.json")
    args = parser.parse_args()
    if not (args.data / "train").is_dir():
        parser.error(f"no folder {args.data / 'train'}: set --data to photographs of cats and dogs")
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    RESULTS.mkdir(parents=True, exist_ok=True)

    print("".join(f"{side:>12}" for side in SIDES) + f"{'judging':>12}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        homes = map(Path(folder).joinpath, map(str, itertools.count()))

        def one_round(number: int) -> tuple[dict, list]:
            turn = number % len(SIDES)
            line, seen = {}, []
            for side in SIDES[turn:] + SIDES[:turn]:
                begin = partial(start, side, args.data.resolve(), next(homes))
                seconds, output = watched(begin, seen)
                line[side] = round(seconds, 3)
                if side == "convlens":
                    line["judging"] = json.loads(output)["judging"]
                    line["unjudged"] = round(seconds - line["judging"], 3)
            print("".join(f"{line[key]:>12.2f}" for key in (*SIDES, "judging")), flush=True)
            return line, seen

        one_round(0)  # not counted: it fills the caches of files and of compiled sources
        lines = take_rounds(args.rounds, one_round)
    ratios = {peer: spread([line[peer] / line["convlens"] for line in lines]) for peer in SIDES[1:]}
    for peer, ratio in ratios.items():
        print(f"{peer} takes {ratio['median']:.2f} times as long as convlens")
    print(f"{processor()}, {len(available_cores())} cores")
    write_result(
        args.out, "from the start of the process to the end of the first step, scratch recipe",
        tasks={"startup": {"rounds": lines, "ratios": ratios}},
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
