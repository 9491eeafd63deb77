"""``precision: auto``: time training steps on this machine and keep the fastest precision."""

from __future__ import annotations

import copy
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from convlens.core.files import write_atomic

# our names to Lightning's
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}
# smallest gain that pays for less exact arithmetic; timing noise is about as large
WORTH = 1.1
ROUNDS = 5
CLEAR = 2.0  # bf16 is emulated if its forward pass takes this many times a float32 step
# Steps are timed on a sample of the batch and scaled up; these limits are for the sample.
LEAST = 2  # images: batch normalisation refuses a single one
FAIR = 0.25  # seconds of a step that is long enough to measure
PATIENCE = 4.0  # seconds after which no further round starts
SLOW = 1.0  # seconds: a first forward pass takes less, even if it has to build kernels
ROOM = 1e9  # bytes of feature maps that a step may keep for its backward pass, except on a GPU


def choose_precision(seconds: dict[str, float]) -> str:
    """Return ``bf16`` if it makes a step at least 10 % faster, else ``32``.

    Args:
        seconds: seconds per training step, by precision.

    >>> choose_precision({"32": 0.2, "bf16": 0.1})
    'bf16'
    >>> choose_precision({"32": 0.2, "bf16": 0.19}), choose_precision({"32": 0.2})
    ('32', '32')
    """
    return "bf16" if seconds["32"] > WORTH * seconds.get("bf16", float("inf")) else "32"


def measure_step_seconds(
    module,
    batch: int,
    device: torch.device,
    memo: Path,
    precisions: tuple[str, ...] = ("32", "bf16"),
) -> dict[str, float]:
    """Measure the seconds of a training step of this network on ``device``, by precision.

    A copy of the network takes real training steps on noise, with each precision in turn, on as few
    images as give a reliable time. Forward and backward pass are scaled to the batch, the update of
    the weights is not; the medians are returned. Results are kept in ``memo`` by machine, network,
    trained part and batch, so that later runs of the same kind choose the same precision.

    Args:
        module: a ``convlens.training.ClassifierModule`` in the phase to be timed; not changed.
        batch: images of a training step.
        device: where training will run.
        memo: a JSON file; created if missing.
        precisions: ``32`` and ``bf16``, or one of them; devices without bf16 skip it.
    """
    if device.type not in ("cpu", "cuda"):
        precisions = ("32",)
    key = _key(module, batch, device)
    known = _read(memo)
    seconds = known.get(key)
    if not isinstance(seconds, dict) or not set(precisions) <= set(seconds):
        known[key] = seconds = _measure(module, batch, device, precisions)
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(memo, json.dumps(known, indent=1))
    return seconds


class _Trial:
    """Takes training steps on noise with a copy of a network."""

    def __init__(self, module, device: torch.device):
        self.module, self.device = copy.deepcopy(module).to(device), device
        self.optimizer = self.module.configure_optimizers()

    def noise(self, count: int) -> tuple[Tensor, Tensor]:
        """Return images (count, C, H, W) in [0, 1], channels last, and labels (count,)."""
        data = self.module.data_config
        shape = (count, data.channels, data.size, data.size)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(count) % len(self.module.class_names)
        images = images.to(self.device, memory_format=torch.channels_last)
        return images, labels.to(self.device)

    def step(self, images: Tensor, labels: Tensor, precision: str) -> tuple[float, float]:
        """Take a step; return the seconds of both passes, and of the update of the weights."""
        half, times = precision == "bf16", [self._now()]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            loss = self.module.objective(self.module.model.forward_fast(images), labels)
        loss.backward()
        times.append(self._now())
        self.optimizer.step()
        self.optimizer.zero_grad()
        times.append(self._now())
        return times[1] - times[0], times[2] - times[1]

    def time_emulated_forward(self, images: Tensor, step: float) -> float:
        """Return the seconds of a bf16 forward pass if the processor has to emulate bf16, else 0.

        An emulated step takes ten times as long as one in float32; a forward pass is enough to
        detect it.

        Args:
            images: input of the forward pass.
            step: seconds of a step on these images in float32.
        """
        if self.device.type != "cpu":
            return 0.0
        began = self._now()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            self.module.model.forward_fast(images)
        seconds = self._now() - began
        return seconds if seconds > max(CLEAR * step, SLOW) else 0.0

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def sample(self, batch: int) -> tuple[Tensor, Tensor, float]:
        """Return images and labels, and the seconds of a float32 step on them.

        This is the smallest sample that gives a reliable time, at most the whole batch.
        """
        count = LEAST
        while True:
            sample = self.noise(count)
            kept = _KeptBytes(self.module)
            with kept:
                self.step(*sample, "32")  # the first step builds kernels and optimizer state
            seconds = sum(self.step(*sample, "32"))
            if count >= batch or seconds >= FAIR:
                return *sample, seconds
            larger = int(count * min(FAIR / max(seconds, 1e-6), self._room() / max(kept.total, 1)))
            larger = min(larger + 1, batch)
            if larger <= count:
                return *sample, seconds
            count = larger

    def _room(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0] / 2
        return ROOM


class _KeptBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts, in ``total``, the bytes that autograd keeps inside the ``with``, except weights."""

    def __init__(self, module: nn.Module):
        self.total = 0
        seen = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                self.total += storage.nbytes()
            return tensor

        super().__init__(count, lambda tensor: tensor)


def _measure(
    module, batch: int, device: torch.device, precisions: tuple[str, ...]
) -> dict[str, float]:
    state = torch.get_rng_state()
    times: dict[str, list[float]] = {precision: [] for precision in precisions}
    try:
        trial = _Trial(module, device)
        images, labels, step = trial.sample(batch)
        scale = batch / len(images)
        waiting = list(precisions)
        if "bf16" in waiting:
            if seconds := trial.time_emulated_forward(images, step):
                waiting.remove("bf16")
                times["bf16"] = [seconds * scale]  # a lower bound for a step
            else:
                trial.step(images, labels, "bf16")  # builds kernels
        began = time.perf_counter()
        for number in range(ROUNDS):
            if number and time.perf_counter() > began + PATIENCE:
                break
            for precision in waiting:
                passes, update = trial.step(images, labels, precision)
                times[precision].append(passes * scale + update)
    finally:
        torch.set_rng_state(state)
    return {precision: statistics.median(values) for precision, values in times.items()}


def _key(module, batch: int, device: torch.device) -> str:
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    kinds = [module.model_config.plain(), module.optimizer_config.plain()]
    network = json.dumps(kinds, sort_keys=True)
    data = module.data_config
    shape = f"{batch}x{data.channels}x{data.size}x{data.size}"
    # frozen parameters need no backward pass
    parameters = [(p.numel(), p.requires_grad) for p in module.parameters()]
    trained = sum(size for size, is_trained in parameters if is_trained)
    share = f"{trained} of {sum(size for size, _ in parameters)} trained"
    threads = f"{torch.get_num_threads()} threads"
    return " | ".join([machine, threads, f"torch {torch.__version__}", shape, share, network])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    keys = ("vendor_id", "cpu family", "model\t", "model name", "stepping")
    values = [line.partition(":")[2].strip() for line in lines if line.startswith(keys)]
    return " ".join(values[:5]) or platform.machine()


def _read(memo: Path) -> dict[str, dict[str, float]]:
    try:
        known = json.loads(memo.read_text())
    except (OSError, ValueError):
        return {}  # missing or damaged: measure again
    return known if isinstance(known, dict) else {}
