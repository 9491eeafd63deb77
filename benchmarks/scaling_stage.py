"""Measure one stage of the scaling benchmark in this process, and print one line of JSON.

    python scaling_stage.py STAGE --few DIR --pictures DIR --cache DIR --repeats R

The stage first runs on a few images, so that everything is imported, and again to measure the
constant cost that does not depend on the number of images. Then it runs ``--repeats`` times on all
images, and the results of each repetition are kept in memory. Small folders are repeated, because a
single repetition would be too small for the page size and the resolution of the clock.
"""

import argparse
import ctypes
import functools
import gc
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from convlens.config.compose import compose
from convlens.config.schema import Config
from convlens.data.datamodule import PictureData
from convlens.data.index.split_file import read_split, write_split
from convlens.data.sources.places import get_cache_dir
from convlens.experiment.data import build_data
from convlens.models import Classifier
from convlens.models.build import build_model
from convlens.training.finetune.features import compute_features

SIZE = 16  # pixels, as in the files, so that nothing is resized
STARTS = 5  # measurements of the constant
SAMPLED = 0.005  # seconds between two readings of the memory


@functools.cache  # composing takes a tenth of a second and half a megabyte, which do not count
def config_of(pictures: Path) -> Config:
    words = ["data=image_folder", f"data.dir={pictures}", f"data.size={SIZE}", "trainer=cpu"]
    return compose([*words, "model.filters=[8,16]", "model.padding=same", "precision=32"])


def memory() -> dict[str, int]:
    """Return the bytes of this process: anonymous, of files, and the peak of their sum."""
    names = {"RssAnon": "anonymous", "RssFile": "files", "VmHWM": "highest"}
    with open("/proc/self/status") as file:
        lines = [line.split() for line in file]
    return {names[k[0][:-1]]: int(k[1]) * 1024 for k in lines if k[0][:-1] in names}


def tidy() -> None:
    """Return freed memory to the system, so that later growth is visible."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


class Watch(threading.Thread):
    """Records the peak of the anonymous memory while it runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.highest, self._over = 0, threading.Event()

    def run(self) -> None:
        while not self._over.wait(SAMPLED):
            self.highest = max(self.highest, memory()["anonymous"])

    def stop(self) -> int:
        self._over.set()
        self.join()
        return max(self.highest, memory()["anonymous"])


# ------------------------------------------------------------------------------------------ stages
# Each takes the folder of the images and returns (prepare, measured): the uncounted part and the
# counted part. `measured` takes the result of `prepare`; both results are kept while memory is
# measured.


def data_in(pictures: Path) -> PictureData:
    data = build_data(config_of(pictures))
    _ = data.dataset
    return data


def forget(start: str) -> None:
    """Remove the cache entries whose names begin with ``start``, so that they are built again."""
    for file in get_cache_dir().glob(f"{start}-*"):
        file.unlink()


def index(pictures: Path) -> tuple[Callable, Callable]:
    """Index as a run does before it decodes: list, check, split, look for copies, count."""
    config = config_of(pictures)
    return lambda: config, build_data


def split_file(pictures: Path) -> tuple[Callable, Callable]:
    """Write ``split.csv``, and read it as a resumed run does."""

    def measured(data: PictureData):
        file = get_cache_dir() / "split.csv"
        write_split(file, data.index.listing)
        return read_split(file, data.index.listing)

    return lambda: build_data(config_of(pictures)), measured


def pixels(pictures: Path) -> tuple[Callable, Callable]:
    """Decode all images into the mapped file, and open it."""

    def prepare() -> PictureData:
        forget("pixels")
        return build_data(config_of(pictures))

    return prepare, lambda data: data.dataset


def pixels_again(pictures: Path) -> tuple[Callable, Callable]:
    """Check the mapped file of an earlier run (size and time of every image), and open it."""

    def prepare() -> PictureData:
        data_in(pictures)
        return build_data(config_of(pictures))

    return prepare, lambda data: data.dataset


def feature_file(pictures: Path) -> tuple[Callable, Callable]:
    """Compute the features of all images into mapped files, with a small network."""

    def prepare() -> PictureData:
        forget("features")
        return data_in(pictures)

    return prepare, _features


@functools.cache
def network() -> Classifier:
    """Build the network: the same for all sizes, with ten outputs, which features do not use."""
    torch.manual_seed(0)
    return build_model(config_of(Path()).model, channels=3, size=SIZE, outputs=10)


def _features(data: PictureData) -> list:
    return [
        compute_features(
            network(), 2, data.dataset.splits[split], precision="32", context=torch.no_grad,
            device=torch.device("cpu"), directory=get_cache_dir(), title="",
        )
        for split in data.dataset.splits
    ]  # fmt: skip


def epoch(pictures: Path) -> tuple[Callable, Callable]:
    """Draw the order of an epoch, and gather every batch of each split from its mapped file."""

    def measured(data: PictureData) -> int:
        loader = data.train_dataloader()
        loader.set_epoch(1)
        others = [data.evaluation_loader(split) for split in ("validation", "test")]
        return sum(len(batch["image"]) for each in (loader, *others) for batch in each)

    return lambda: data_in(pictures), measured


STAGES = {
    "index": index, "split_file": split_file, "pixels": pixels, "pixels_again": pixels_again,
    "features": feature_file, "epoch": epoch,
}  # fmt: skip


def timed(prepare: Callable, measured: Callable, kept: list) -> float:
    given = prepare()
    began = time.perf_counter()
    found = measured(given)
    seconds = time.perf_counter() - began
    kept.append((given, found))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--few", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    os.environ["CONVLENS_CACHE"] = str(args.cache)
    torch.set_num_threads(1)  # as fast for images this small, and less sensitive to other work
    args.cache.mkdir(parents=True, exist_ok=True)
    stage, kept = STAGES[args.stage], []
    few, whole = stage(args.few), stage(args.pictures)
    for _ in range(STARTS):
        timed(*few, kept)
    kept.clear()
    tidy()
    before = memory()["anonymous"]
    start = [timed(*few, kept) for _ in range(max(STARTS, args.repeats))]
    tidy()
    start_bytes = (memory()["anonymous"] - before) / len(start)
    kept.clear()
    tidy()
    before, watch = memory(), Watch()
    watch.start()
    seconds = [timed(*whole, kept) for _ in range(args.repeats)]
    highest = watch.stop()
    tidy()
    after = memory()
    print(
        json.dumps(
            {
                "start_seconds": statistics.median(start),
                "start_bytes": start_bytes,
                "seconds": statistics.fmean(seconds),
                "anonymous_peak": highest - before["anonymous"],
                "anonymous_held": after["anonymous"] - before["anonymous"],
                "files": after["files"] - before["files"],
                "resident_highest": after["highest"],
            }
        )
    )
    if args.stage == "split_file":
        (args.cache / "split.csv").unlink()


if __name__ == "__main__":
    main()
