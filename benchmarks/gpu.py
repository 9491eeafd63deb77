"""Training steps on a GPU beside a plain torch loop that does equal work: `make bench-gpu`.

    .venv/bin/python benchmarks/gpu.py [--quick] [--sections rate,steps,profile,start]

Prints one section after the other, the most useful first, and ends within eight minutes:

rate     what the device reaches: bf16 matrix products in TFLOP/s, copies in TB/s
steps    images/s of convlens as configured, and of a plain loop with the same network, loss,
         optimizer, precision and augmentation, whose uint8 images are on the device already;
         medians of rounds that alternate, and the fraction of the matrix rate
profile  where a step of convlens spends the host's time: calls that wait for the device, copies,
         and the milliseconds between two steps of a network of one multiplication
start    seconds of `convlens train` from the command to the first step, and to its end

Images are drawn (`data=shapes`); weights are random, which costs the same.
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
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as L
import torch
from results import RESULTS, write_result

from convlens.config.compose import compose
from convlens.experiment import train as runs

SECTIONS = ("rate", "steps", "profile", "start")
ALL_LAYERS = ("finetune=none", "model.weights=none", "cache_features=never")
AUGMENTED = ("data.augment.rotation_degrees=20", "data.augment.horizontal_flip=true")
RECIPES = {
    "scratch 64 px": ("exp=scratch", "data.size=64", "training.batch_size=64", *AUGMENTED),
    "vgg16 150 px": (
        "exp=finetune_vgg16", "data.size=150", "training.batch_size=128", *ALL_LAYERS, *AUGMENTED,
    ),
    "resnet50 224 px": (
        "exp=finetune_timm", "model.name=resnet50", "data.size=224", "training.batch_size=128",
        *ALL_LAYERS,
    ),
}  # fmt: skip
STEPS = {"scratch 64 px": 200, "vgg16 150 px": 40, "resnet50 224 px": 40}
WARMUP = 15


class Meter(L.Callback):
    """Measures the steps of one epoch after some that warm up."""

    def __init__(self, warmup: int, steps: int, profiler: torch.profiler.profile | None = None):
        self.warmup, self.steps, self.profiler = warmup, steps, profiler
        self.seconds = 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == self.warmup:
            torch.cuda.synchronize()
            self.seconds = time.perf_counter()
            if self.profiler:
                self.profiler.start()
        elif batch_idx == self.warmup + self.steps:
            torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.seconds
            if self.profiler:
                self.profiler.stop()


def assemble(words: tuple[str, ...], pictures: int, steps: int, batches: int) -> runs.Run:
    """Put together what the words describe; one epoch is ``batches`` steps."""
    config = compose(
        [
            *words, "data=shapes", f"data.pictures={pictures}", "trainer=gpu", "training.epochs=1",
            f"training.steps_per_epoch={batches}", "callbacks=none", "logger=csv",
        ]
    )  # fmt: skip
    run = runs.assemble(config)
    _ = run.data.dataset
    runs.settle_precision(run)
    return run


def measure_convlens(run: runs.Run, meter: Meter) -> float:
    """Return the seconds of the metered steps."""
    with tempfile.TemporaryDirectory() as home:
        trainer, epoch_log, _ = runs.build_trainer(run, Path(home), None)
        epoch_log.on_train_start = lambda *_: None  # judging the untrained network is no step
        trainer.callbacks.append(meter)
        runs.fit(trainer, run, None)
    return meter.seconds


def plain_loop(run: runs.Run, batch: int) -> Callable[[int], float]:
    """Return a function that takes steps without Lightning, and gives their seconds.

    The images are on the device from the beginning, a batch is one ``index_select``, and nothing
    but the loss's own work is done.
    """
    device = torch.device("cuda")
    images = run.data.dataset.splits["train"]
    pixels = torch.from_numpy(images.pixels(range(len(images)))).to(device)
    labels = torch.from_numpy(images.labels).to(device)
    module = run.module.to(device).train()
    half = str(run.config.precision) == "bf16"
    optimizer = module.configure_optimizers()
    module.set_rates(optimizer, 0.0)
    generator = torch.Generator(device).manual_seed(0)
    augmentation = run.data.augmentation

    def steps(count: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            rows = torch.randint(len(pixels), (batch,), device=device, generator=generator)
            chosen = pixels.index_select(0, rows).permute(0, 3, 1, 2)
            chosen = chosen.to(torch.float32).div_(255)
            if augmentation.active:
                draws = torch.rand(batch, 16, device=device, generator=generator)
                chosen = augmentation(chosen, draws)
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16, enabled=half):
                loss = module.objective(module.model.forward_fast(chosen), labels[rows])
            loss.backward()
            optimizer.step()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    return steps


def measure_rate() -> dict[str, float]:
    """Return the device's matrix products in TFLOP/s (bf16) and its copies in TB/s."""
    side = 8192
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)

    def seconds(act: Callable[[], object], times: int = 10) -> float:
        act()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            act()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / times

    return {
        "bf16_tflops": round(2 * side**3 / seconds(lambda: a @ b) / 1e12, 1),
        "copy_tb_per_s": round(2 * source.nbytes / seconds(lambda: target.copy_(source)) / 1e12, 2),
    }


def count_flops(run: runs.Run) -> float:
    """Return the floating-point operations of forward and backward pass for one image."""
    from torch.utils.flop_counter import FlopCounterMode

    data = run.module.data_config
    image = torch.rand(2, data.channels, data.size, data.size, device=run.module.device)
    with FlopCounterMode(display=False) as counter:
        run.module.objective(
            run.module.model(image), torch.tensor([0, 1]).to(image.device)
        ).backward()
    run.module.zero_grad()
    return counter.get_total_flops() / 2


def measure_steps(quick: bool, rate: float | None) -> dict[str, dict]:
    found = {}
    print(f"{'steps':18}{'precision':>10}{'convlens':>11}{'plain':>11}{'ratio':>8}{'of rate':>9}")
    for name, words in RECIPES.items():
        batch = int(next(word for word in words if "batch_size" in word).partition("=")[2])
        steps = 10 if quick else STEPS[name]
        run = assemble(words, 10 * batch, steps, WARMUP + steps + 1)
        flops = None
        ours, plain, loop = [], [], None
        for number in range(1 if quick else 3):
            for side in ("ours", "plain") if number % 2 == 0 else ("plain", "ours"):
                if side == "ours":
                    meter = Meter(WARMUP, steps)
                    ours.append(batch * steps / measure_convlens(run, meter))
                else:
                    loop = plain_loop(run, batch)
                    loop(WARMUP)
                    plain.append(batch * steps / loop(steps))
        run.module.to("cuda").train()
        flops = count_flops(run)
        ratios = [b / a for a, b in zip(ours, plain, strict=True)]
        row = {
            "precision": str(run.config.precision), "convlens": ours, "plain": plain,
            "ratio": statistics.median(ratios), "flops_per_image": flops,
            "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        }  # fmt: skip
        share = "" if rate is None else f"{statistics.median(ours) * flops / rate / 1e12:9.1%}"
        print(
            f"{name:18}{row['precision']:>10}{statistics.median(ours):11.0f}"
            f"{statistics.median(plain):11.0f}{row['ratio']:8.3f}{share}", flush=True
        )  # fmt: skip
        found[name] = row
        del run, loop
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return found


def measure_profile(quick: bool) -> dict[str, dict]:
    """Count what waits for the device in a step, and what the host's time goes to."""
    from torch.profiler import ProfilerActivity, profile

    waits = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::item",
             "aten::_local_scalar_dense", "aten::nonzero", "cudaMemcpyAsync", "aten::to",
             "aten::copy_")  # fmt: skip
    found = {}
    for name in ("scratch 64 px", "vgg16 150 px"):
        steps = 10
        batch = int(next(w for w in RECIPES[name] if "batch_size" in w).partition("=")[2])
        run = assemble(RECIPES[name], 10 * batch, steps, WARMUP + steps + 1)
        profiler = profile(
            activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], with_stack=not quick,
        )  # fmt: skip
        seconds = measure_convlens(run, Meter(WARMUP, steps, profiler))
        events = profiler.key_averages()
        calls = {e.key: e.count / steps for e in events if e.key in waits}
        host = {e.key: e.self_cpu_time_total / 1e3 / steps for e in events}
        device = sum(e.self_device_time_total for e in events) / 1e3 / steps
        print(f"profile {name}: {1e3 * seconds / steps:.2f} ms a step, device {device:.2f} ms;",
              ", ".join(f"{key} {count:g}" for key, count in sorted(calls.items())))  # fmt: skip
        slowest = sorted(host.items(), key=lambda item: -item[1])[:12]
        print("  host, ms a step:", ", ".join(f"{key} {ms:.2f}" for key, ms in slowest), flush=True)
        out = os.environ.get("OUT")
        if out:
            key = name.split()[0]
            table = profiler.key_averages(group_by_stack_n=8).table(
                sort_by="self_cpu_time_total", row_limit=60, max_name_column_width=60
            )
            Path(out, f"profile_{key}.txt").write_text(table)
        found[name] = {"calls": calls, "host_ms": dict(slowest), "device_ms": device}
    return found


def measure_start(quick: bool) -> dict[str, float]:
    """Return the seconds of the default run by what they were spent on."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        home = Path(folder) / "run"
        command = [sys.executable, "-m", "convlens", "train", f"run_dir={home}", "trainer=gpu"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=folder,
            env={**os.environ, "CONVLENS_CACHE": str(Path(folder) / "cache")},
        )  # fmt: skip
        total = time.perf_counter() - began
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-3000:])
            return {"total": total}
        seconds = json.loads((home / "summary.json").read_text())["seconds"]
        print(done.stdout[-1500:])
    print("start: default run", f"{total:.1f} s;", {k: round(v, 2) for k, v in seconds.items()})
    return {"total": total, **seconds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of a few steps")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    args = parser.parse_args()
    sections = args.sections.split(",")
    if unknown := [name for name in sections if name not in SECTIONS]:
        parser.error(f"{unknown[0]}: no such section; there are {', '.join(SECTIONS)}")
    if not torch.cuda.is_available():
        parser.error("no NVIDIA GPU on this machine")
    os.environ["CONVLENS_CACHE"] = tempfile.mkdtemp(prefix="convlens-bench-")
    found: dict[str, object] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(found["device"], "torch", torch.__version__, flush=True)
    rate = None
    if "rate" in sections:
        found["rate"] = measure_rate()
        rate = found["rate"]["bf16_tflops"]
        print("rate:", found["rate"], flush=True)
    if "steps" in sections:
        found["steps"] = measure_steps(args.quick, rate)
    if "profile" in sections:
        found["profile"] = measure_profile(args.quick)
    if "start" in sections:
        found["start"] = measure_start(args.quick)
    write_result(args.out, "training on a GPU", **found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
