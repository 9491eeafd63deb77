"""What `make bench-gpu` measures: steps of convlens, of a plain loop, and of timm's parts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as L
import torch

from convlens.config.compose import compose
from convlens.data.pixels.dataset import Images
from convlens.experiment import train as runs
from convlens.experiment.assemble import Run
from convlens.experiment.compilation import settle_compile


@dataclass(frozen=True)
class Scale:
    """How much is measured, and where.

    Attributes:
        device: ``cuda``, or ``cpu`` for a trial run without a GPU.
        rounds: rounds of two sides.
        steps: largest number of timed steps.
        warmup: steps before the clock starts.
        words: overrides that make every network small enough for a trial run.
        batch: images of a step, instead of the recipe's; 0 keeps it.
    """

    device: torch.device
    rounds: int = 3
    steps: int = 200
    warmup: int = 15
    words: tuple[str, ...] = ()
    batch: int = 0


class Meter(L.Callback):
    """Measures the steps of one epoch after the warm-up steps.

    Attributes:
        warmup_seconds: of the warm-up steps, with compiling.
        seconds: of the steps.
        peak: bytes of device memory that were added at most.
    """

    def __init__(self, scale: Scale, steps: int, profiler=None):
        self.device, self.warmup = scale.device, scale.warmup
        self.steps, self.profiler = steps, profiler
        self.seconds = self.warmup_seconds = 0.0
        self.peak = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == 0:
            self.warmup_seconds = now(self.device)
        elif batch_idx == self.warmup:
            self.seconds = now(self.device)
            self.warmup_seconds = self.seconds - self.warmup_seconds
            if self.profiler:
                self.profiler.start()
        elif batch_idx == self.warmup + self.steps:
            self.seconds = now(self.device) - self.seconds
            if self.profiler:
                self.profiler.stop()


def now(device: torch.device) -> float:
    """Return the time when the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def assemble(words: tuple[str, ...], scale: Scale, steps: int, images: Images | None = None) -> Run:
    """Assemble the run that the overrides describe, with as many steps per epoch as are measured.

    Args:
        words: overrides.
        scale: where, and how large.
        steps: timed steps.
        images: training images in place of ``data=shapes``.
    """
    trainer = "gpu" if scale.device.type == "cuda" else "cpu"
    batch = [f"training.batch_size={scale.batch}"] if scale.batch else []
    pictures = 60 if scale.batch else 1280  # a trial run needs few
    config = compose(
        [
            *words, *scale.words, *batch, "data=shapes", f"data.pictures={pictures}",
            f"trainer={trainer}", "training.epochs=1",
            f"training.steps_per_epoch={scale.warmup + steps + 1}", "callbacks=none", "logger=csv",
        ]
    )  # fmt: skip
    run = runs.assemble(config)
    dataset = run.data.dataset
    if images is not None:
        dataset.splits["train"] = images
        classes = len(run.data.class_names)
        run.data.index.counts["train"] = np.bincount(images.labels, minlength=classes)
    runs.settle_precision(run)
    settle_compile(run)
    return run


def time_convlens(run: Run, meter: Meter) -> float:
    """Take the steps of an epoch and return the images per second of the metered ones."""
    if meter.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(meter.device)
        before = torch.cuda.memory_allocated(meter.device)
    with tempfile.TemporaryDirectory() as home:
        # after 0 epochs, as a resumed run: a new one would log the config in its folder
        trainer, epoch_log, _ = runs.build_trainer(run, Path(home), 0)
        epoch_log.begin = lambda *_: None  # evaluating the untrained network is not a step
        trainer.callbacks.append(meter)
        runs.fit(trainer, run, None)
    if meter.device.type == "cuda":
        meter.peak = torch.cuda.max_memory_allocated(meter.device) - before
    return run.config.training.batch_size * meter.steps / meter.seconds


def make_plain_loop(run: Run, scale: Scale) -> Callable[[int], float]:
    """Return a function that takes steps without Lightning and returns images per second.

    Network, loss, optimizer, precision and augmentation are those of ``run``. The images are on
    the device from the beginning, a batch is one ``index_select``, and nothing beyond the step is
    computed.
    """
    images, batch = run.data.dataset.splits["train"], run.config.training.batch_size
    device = scale.device
    pixels = torch.from_numpy(images.pixels(np.arange(len(images)))).to(device)
    labels = torch.from_numpy(images.labels).to(device)
    module, augmentation = run.module.to(device).train(), run.data.augmentation
    half = str(run.config.precision) == "bf16"
    optimizer = module.configure_optimizers()
    module.set_rates(optimizer, 0.0)
    generator = torch.Generator(device).manual_seed(0)

    def step() -> None:
        rows = torch.randint(len(pixels), (batch,), device=device, generator=generator)
        chosen = pixels.index_select(0, rows).permute(0, 3, 1, 2).to(torch.float32).div_(255)
        if augmentation.active:
            draws = torch.rand(batch, 16, device=device, generator=generator)
            chosen = augmentation(chosen, draws)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = module.objective(module.model.forward_fast(chosen), labels[rows])
        loss.backward()
        optimizer.step()

    return _time(step, batch, scale)


def make_timm_loop(run: Run, name: str, scale: Scale) -> Callable[[int], float]:
    """Return the same for a loop of timm's parts.

    timm's own ``train.py`` is not in its package. This is its training step with ``--amp
    --amp-dtype bfloat16 --channels-last``: ``create_model``, ``create_optimizer_v2``, its collate
    function and its prefetcher, which normalises on the device. Worker processes read the same
    decoded images, so neither side decodes or augments.
    """
    from timm import create_model
    from timm.data.loader import PrefetchLoader, fast_collate
    from timm.optim import create_optimizer_v2
    from torch.utils.data import DataLoader

    images, batch = run.data.dataset.splits["train"], run.config.training.batch_size
    device = scale.device
    loader = DataLoader(
        Pairs(images), batch_size=batch, shuffle=True, drop_last=True, pin_memory=True,
        num_workers=8 if device.type == "cuda" else 0, collate_fn=fast_collate,
        persistent_workers=device.type == "cuda",
    )  # fmt: skip
    batches = PrefetchLoader(loader, device=device)
    classes = len(run.data.class_names)
    model = create_model(name, num_classes=classes).to(device, memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt=run.config.optimizer.name, lr=1e-3)
    loss_of = torch.nn.CrossEntropyLoss()
    half = str(run.config.precision) == "bf16"
    endless = (pair for _ in iter(int, 1) for pair in batches)

    def step() -> None:
        chosen, labels = next(endless)
        chosen = chosen.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = loss_of(model(chosen), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    model.train()
    return _time(step, batch, scale)


class Pairs(torch.utils.data.Dataset):
    """Images as timm's collate function takes them: (C, H, W) uint8, and the label."""

    def __init__(self, images: Images):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        picture = self.images.pixels(np.array([row]))[0]
        return np.ascontiguousarray(picture.transpose(2, 0, 1)), int(self.images.labels[row])


def _time(step: Callable[[], None], batch: int, scale: Scale) -> Callable[[int], float]:
    def run(count: int) -> float:
        for _ in range(scale.warmup):
            step()
        began = now(scale.device)
        for _ in range(count):
            step()
        return batch * count / (now(scale.device) - began)

    return run


def write_images(file: Path, count: int, size: int, classes: int) -> Images:
    """Write ``count`` images of noise into a file and return them, memory-mapped.

    A thousand different images are repeated.
    """
    shape = (count, size, size, 3)
    block = np.random.default_rng(0).integers(0, 256, (1000, *shape[1:]), dtype=np.uint8)
    mapped = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    for start in range(0, count, len(block)):
        mapped[start : start + len(block)] = block[: count - start]
    mapped.flush()
    return Images(np.load(file, mmap_mode="r"), np.arange(count) % classes, range(count))


def count_flops(run: Run, device: torch.device) -> float:
    """Return the floating-point operations of forward and backward pass for one image."""
    from torch.utils.flop_counter import FlopCounterMode

    data, module = run.module.data_config, run.module.to(device).train()
    image = torch.rand(2, data.channels, data.size, data.size, device=device)
    labels = torch.tensor([0, 1], device=device)
    with FlopCounterMode(display=False) as counter:
        module.objective(module.model(image), labels).backward()
    module.zero_grad()
    return counter.get_total_flops() / 2


def measure_rates(device: torch.device, side: int, nbytes: int) -> tuple[float, float]:
    """Return the device's matrix products in bf16, in TFLOP/s, and its copies, in TB/s."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def seconds(act: Callable[[], object], times: int = 10) -> float:
        act()
        began = now(device)
        for _ in range(times):
            act()
        return (now(device) - began) / times

    products = 2 * side**3 / seconds(lambda: a @ b) / 1e12
    return products, 2 * nbytes / seconds(lambda: target.copy_(source)) / 1e12
