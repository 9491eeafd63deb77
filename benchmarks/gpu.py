"""Training on an NVIDIA GPU beside a plain torch loop and timm's parts: `make bench-gpu`.

    .venv/bin/python benchmarks/gpu.py [--quick] [--sections rate,vgg16,…]

It prints one table, each line as soon as it is measured, the most useful sections first, and ends
within eight minutes: a section that would not fit is skipped, with a line that says so.

rate           the device's matrix products in bf16, and its copies
vgg16, resnet50, scratch
               images/s of convlens as configured, and of a plain loop that does equal work:
               network, loss, optimizer, precision and augmentation are the same, its uint8 images
               are on the device; the fraction of the matrix rate; peak memory of both
start          `convlens train` with its defaults in a new process
compiled_…     the same steps with and without training.compile=true
waits          calls in a step that wait for the device, and the host's time by call
deterministic  steps with and without deterministic kernels
timm           ResNet50 beside timm's own parts on the same decoded images
flat           images/s on a thousand and on a million images in a memory-mapped file
graphs         the scratch network with and without CUDA graphs

`ratio` is the time of convlens as a multiple of the peer's. Images are generated, weights random.
Without a GPU, --quick runs a few steps of each section on the processor, to try the script.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from gpu_sides import (
    Meter,
    Scale,
    assemble,
    count_flops,
    make_plain_loop,
    make_timm_loop,
    measure_rates,
    time_convlens,
    write_images,
)
from gpu_table import Line, Section, alternate, compare_speeds, run_sections, stop_after
from results import RESULTS, processor, write_result

LIMIT = 470.0  # seconds, so that the script ends within eight minutes
ALL_LAYERS = ("finetune=none", "model.weights=none", "cache_features=never")
AUGMENTED = ("data.augment.rotation_degrees=20", "data.augment.horizontal_flip=true")
PLAIN = tuple(f"data.augment.{key}" for key in ("rotation_degrees=0", "horizontal_flip=false"))
VGG16 = ("exp=finetune_vgg16", "data.size=150", "training.batch_size=128", *ALL_LAYERS, *AUGMENTED)
RESNET50 = (
    "exp=finetune_timm", "model.name=resnet50", "data.size=224", "training.batch_size=128",
    *ALL_LAYERS,
)  # fmt: skip
SCRATCH = ("exp=scratch", "data.size=64", "training.batch_size=64", *AUGMENTED)
RECIPES = {
    "vgg16": ("VGG16, 150 px", VGG16, 40),
    "resnet50": ("ResNet50, 224 px", RESNET50, 40),
    "scratch": ("scratch, 64 px", SCRATCH, 200),
}
WAITS = (
    "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize",
    "aten::_local_scalar_dense", "aten::nonzero",
)  # fmt: skip


class Benchmark:
    """Measures the sections; later ones use the rate of the first.

    Args:
        scale: where, and how much.
    """

    def __init__(self, scale: Scale):
        self.scale, self.device = scale, scale.device
        self.tflops: float | None = None

    def list_sections(self) -> list[Section]:
        """Return the sections, the most useful first, with their seconds on an H200."""
        steps = [Section(name, 35, partial(self.measure_steps, name)) for name in RECIPES]
        others = [
            Section(f"compiled_{name}", seconds, partial(self.compare_words, name, "compiled"))
            for name, seconds in (("vgg16", 50), ("resnet50", 75), ("scratch", 40))
        ]
        return [
            Section("rate", 5, self.measure_rate),
            *steps,
            Section("start", 50, self.measure_start),
            *others,
            Section("waits", 30, self.count_waits),
            Section("deterministic", 35, partial(self.compare_words, "vgg16", "deterministic")),
            Section("timm", 45, self.measure_timm),
            Section("flat", 45, self.measure_flat),
            Section("graphs", 40, partial(self.compare_words, "scratch", "graphs")),
        ]

    def measure_rate(self) -> Iterator[Line]:
        is_gpu = self.device.type == "cuda"
        found = measure_rates(self.device, 8192 if is_gpu else 256, 2**31 if is_gpu else 2**20)
        self.tflops = found[0]
        yield Line("matrix products in bf16 [TFLOP/s]", [found[0]])
        yield Line("copies on the device [TB/s]", [found[1]])

    def measure_steps(self, name: str) -> Iterator[Line]:
        title, words, steps = RECIPES[name]
        steps = min(steps, self.scale.steps)
        run = assemble((*words, "training.compile=false"), self.scale, steps)
        meter = Meter(self.scale, steps)
        plain_peaks = []

        def plain() -> float:
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            speed = make_plain_loop(run, self.scale)(steps)
            if self.device.type == "cuda":
                plain_peaks.append(torch.cuda.max_memory_allocated() - before)
            return speed

        ours, peer = alternate(partial(time_convlens, run, meter), plain, self.scale.rounds)
        notes = [f"precision {run.config.precision}", *self._describe_share(run, ours)]
        if plain_peaks:
            notes.append(f"peak {meter.peak / 1e9:.2f} GB, plain {max(plain_peaks) / 1e9:.2f} GB")
        yield compare_speeds(f"{title} [images/s]", ours, "a plain loop", peer, notes)

    def compare_words(self, name: str, which: str) -> Iterator[Line]:
        """Measure a recipe as configured beside the same with other overrides."""
        title, words, steps = RECIPES[name]
        steps = min(steps, self.scale.steps)
        ours, peer, beside = {
            "compiled": ("training.compile=true", "training.compile=false", "not compiled"),
            "graphs": ("training.compile=graphs", "training.compile=false", "not compiled"),
            "deterministic": (
                "training.compile=false",
                "training.compile=false training.deterministic=false", "deterministic=false",
            ),
        }[which]  # fmt: skip
        runs = [assemble((*words, *more.split()), self.scale, steps) for more in (ours, peer)]
        meters, slowest = [Meter(self.scale, steps) for _ in runs], 0.0
        sides = [partial(time_convlens, *pair) for pair in zip(runs, meters, strict=True)]

        def first() -> float:
            nonlocal slowest
            speed = sides[0]()
            slowest = max(slowest, meters[0].warmup_seconds)
            return speed

        found = alternate(first, sides[1], self.scale.rounds)
        notes = [f"precision {runs[0].config.precision}", *self._describe_share(runs[0], found[0])]
        if which != "deterministic":
            notes.append(f"{self.scale.warmup} steps with compiling took {slowest:.0f} s")
        yield compare_speeds(f"{title}, {which} [images/s]", found[0], beside, found[1], notes)

    def measure_start(self) -> Iterator[Line]:
        is_gpu = self.device.type == "cuda"
        few = [] if is_gpu else ["data.pictures=60", "training.epochs=1", "callbacks=none"]
        with tempfile.TemporaryDirectory() as folder:
            home, began = Path(folder) / "run", time.perf_counter()
            command = [sys.executable, "-m", "convlens", "train", f"run_dir={home}", *few]
            done = subprocess.run(
                [*command, f"trainer={'gpu' if is_gpu else 'cpu'}"], capture_output=True, text=True,
                check=False, cwd=folder, env={**os.environ, "CONVLENS_CACHE": f"{folder}/cache"},
            )  # fmt: skip
            whole = time.perf_counter() - began
            if done.returncode:
                raise RuntimeError(f"convlens train: {done.stderr.strip().splitlines()[-1]}")
            seconds = json.loads((home / "summary.json").read_text())["seconds"]
        after = seconds["total"] - seconds["setup"] - seconds["decoding"]
        parts = {
            key: seconds[key] for key in ("setup", "decoding", "training", "explaining", "report")
        }
        notes = [f"{key} {value:.1f}" for key, value in parts.items()]
        yield Line("make train, default [s]", [whole], notes=notes)
        yield Line("make train, after set-up and decoding [s]", [after])

    def count_waits(self) -> Iterator[Line]:
        from torch.profiler import ProfilerActivity, profile

        for name in ("scratch", "vgg16"):
            title, words, _ = RECIPES[name]
            steps = min(10, self.scale.steps)
            activities = [ProfilerActivity.CPU]
            if self.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            profiler = profile(activities=activities)
            run = assemble((*words, "training.compile=false"), self.scale, steps)
            time_convlens(run, meter := Meter(self.scale, steps, profiler))
            events = profiler.key_averages()
            calls = {e.key: e.count / steps for e in events if e.key in WAITS}
            host = sorted(
                ((e.self_cpu_time_total / 1e3 / steps, e.key) for e in events), reverse=True
            )
            notes = [f"{key} {count:g}" for key, count in sorted(calls.items())]
            notes += [f"{key} {ms:.2f} ms" for ms, key in host[:4]]
            each = 1e3 * meter.seconds / steps
            yield Line(f"{title}, a step, profiled [ms]", [each], notes=notes)
            waits = sum(calls.get(key, 0.0) for key in WAITS)
            yield Line(f"{title}, waits for the device in a step", [waits])

    def measure_timm(self) -> Iterator[Line]:
        title, words, steps = RECIPES["resnet50"]
        steps = min(steps, self.scale.steps)
        run = assemble((*words, *PLAIN, "training.compile=false"), self.scale, steps)
        loop = make_timm_loop(run, "resnet50", self.scale)
        ours, peer = alternate(
            partial(time_convlens, run, Meter(self.scale, steps)), partial(loop, steps),
            self.scale.rounds,
        )  # fmt: skip
        notes = [f"precision {run.config.precision}", "neither side augments"]
        yield compare_speeds(f"{title} [images/s]", ours, "timm's parts", peer, notes)

    def measure_flat(self) -> Iterator[Line]:
        words = (*SCRATCH, "data.size=32", "training.compile=false")
        counts, speeds = (1_000, 1_000_000) if self.device.type == "cuda" else (100, 1000), []
        steps = self.scale.steps
        with tempfile.TemporaryDirectory() as folder:
            for count in counts:
                images = write_images(Path(folder) / f"{count}.npy", count, 32, classes=5)
                run = assemble(words, self.scale, steps, images)
                meter = Meter(self.scale, steps)
                speeds.append([time_convlens(run, meter) for _ in range(self.scale.rounds)])
        name = f"scratch, 32 px, of {counts[1]:,} images [images/s]"
        yield compare_speeds(name, speeds[1], f"of {counts[0]:,} images", speeds[0])

    def _describe_share(self, run, speeds: list[float]) -> list[str]:
        if self.tflops is None:
            return []
        share = statistics.median(speeds) * count_flops(run, self.device) / self.tflops / 1e12
        return [f"{share:.1%} of the matrix rate"]


def choose_scale(quick: bool) -> Scale:
    """Return what is measured on this machine.

    Raises:
        ValueError: it has no GPU, and this is not a trial run.
    """
    if torch.cuda.is_available():
        return Scale(torch.device("cuda"), *((1, 10) if quick else ()))
    if not quick:
        raise ValueError("no NVIDIA GPU on this machine; --quick tries the script on the processor")
    return Scale(torch.device("cpu"), 1, 2, 2, ("data.size=75", "precision=32"), batch=4)


def main() -> int:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="trial run: one round of a few steps")
    parser.add_argument("--sections", help="default: all")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    args = parser.parse_args()
    try:
        scale = choose_scale(args.quick)
    except ValueError as error:
        parser.error(str(error))
    sections = Benchmark(scale).list_sections()
    names = [section.name for section in sections]
    asked = args.sections.split(",") if args.sections else names
    if unknown := [name for name in asked if name not in names]:
        parser.error(f"{unknown[0]}: no such section; choose from: {', '.join(names)}")
    os.environ["CONVLENS_CACHE"] = tempfile.mkdtemp(prefix="convlens-bench-")
    is_gpu = scale.device.type == "cuda"
    device = torch.cuda.get_device_name() if is_gpu else processor()
    print(f"{device}, torch {torch.__version__}", flush=True)
    if args.quick:
        print("trial run: its figures mean nothing")
    with stop_after(LIMIT - (time.perf_counter() - began)):
        found = run_sections(
            [section for section in sections if section.name in asked], LIMIT,
            lambda: time.perf_counter() - began, partial(print, flush=True),
        )  # fmt: skip
    write_result(
        args.out, "training on a GPU", device=device, torch=torch.__version__, quick=args.quick,
        seconds=round(time.perf_counter() - began), rows=[asdict(line) for line in found.lines],
        missing=found.missing,
    )  # fmt: skip
    return int(any(reason.startswith("failed") for reason in found.missing.values()))


if __name__ == "__main__":
    sys.exit(main())
