"""Show that preparing batches and training on them overlap, with a slow device that is simulated.

    .venv/bin/python benchmarks/overlap.py [--rounds 5] [--steps 50]

A stub stream sleeps for every copy to the device, in a thread of its own as a GPU's copy engine
works on its own; a stub step sleeps, too. So the script needs no GPU, and other work on the machine
hardly changes its result. The batches come from the loader that trains.

Each line states what a copy and a step take, and steps per second of: the copies alone, the steps
alone, both one after the other (not prepared ahead), and both with batches prepared ahead. The
ratio is that of the last to the slower of the two sides; 1.00 is the most that is possible.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from results import RESULTS, write_result

from convlens.data.feed import DEPTH, Batch, Feed, Pending, Stream
from convlens.data.loader import TrainingLoader
from convlens.data.order import TrainingOrder
from convlens.data.pixels.dataset import Images

PAIRS = ((20, 5), (20, 20), (5, 20))  # milliseconds of a copy and of a step
BATCH, SIZE = 64, 64


class SleepingPending(Pending):
    """A batch that is ready when the stub stream has worked off what was launched before it."""

    def __init__(self, future: Future[Batch]):
        super().__init__({})
        self._future = future

    def take(self) -> Batch:
        return self._future.result()

    def wait(self) -> None:
        self._future.result()


class SleepingStream(Stream):
    """A stream whose work, one launch after the other, takes ``seconds`` each."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.thread = ThreadPoolExecutor(1)

    def launch(self, work) -> Pending:
        def later() -> Batch:
            time.sleep(self.seconds)
            return work()

        return SleepingPending(self.thread.submit(later))


def build_loader(steps: int, feed: Feed) -> TrainingLoader:
    pixels = np.zeros((BATCH * 8, SIZE, SIZE, 3), np.uint8)
    images = Images(pixels, np.zeros(len(pixels), np.int64), [""] * len(pixels))
    return TrainingLoader(images, TrainingOrder(len(pixels), BATCH, 0, steps), 0, feed=feed)


def count_per_second(batches: Iterable, *sleeps: float) -> float:
    """Return batches per second, from the first to the last, sleeping after each."""
    began, count = 0.0, -1
    for _ in batches:
        count += 1
        began = began or time.perf_counter()
        for seconds in sleeps:
            time.sleep(seconds)
    return count / (time.perf_counter() - began - sum(sleeps))


def measure(copy: float, step: float, steps: int) -> dict[str, float]:
    """Return steps per second by arrangement, for a copy and a step of some seconds."""
    speeds = {
        "copies": count_per_second(build_loader(steps, Feed(SleepingStream(copy)))),
        "steps": count_per_second(range(steps), step),
        "in turn": count_per_second(build_loader(steps, Feed()), copy, step),
        "ahead": count_per_second(build_loader(steps, Feed(SleepingStream(copy))), step),
    }
    return speeds | {"ratio": speeds["ahead"] / min(speeds["copies"], speeds["steps"])}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=50, help="per round; default: %(default)s")
    args = parser.parse_args()
    print(f"{DEPTH} batches ahead; copy and step in ms, the others in steps/s")
    print("| copy | step | copies alone | steps alone | in turn | ahead | ratio (from to) |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    results = []
    for copy, step in PAIRS:
        rounds = [measure(copy / 1000, step / 1000, args.steps) for _ in range(args.rounds)]
        results.append({"copy_ms": copy, "step_ms": step, "rounds": rounds})
        *speeds, ratio = (statistics.median(each[name] for each in rounds) for name in rounds[0])
        low, high = (end(each["ratio"] for each in rounds) for end in (min, max))
        cells = [f"{copy} | {step}", *(f"{speed:.1f}" for speed in speeds)]
        print("|", " | ".join(cells), f"| {ratio:.2f} ({low:.2f} to {high:.2f}) |", flush=True)
    write_result(RESULTS / "overlap.json", "overlap of copies and steps", results=results)


if __name__ == "__main__":
    main()
