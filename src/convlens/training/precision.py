"""``precision: auto``: try what this machine can do, take what is fastest, stay with it."""

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

# Lightning's names for ours
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}
# below this gain the plain arithmetic is kept: it is exact and its timing noise is about this
WORTH = 1.1
ROUNDS = 5
CLEAR = 2.0  # bf16 whose forward pass takes so many times a float32 step is emulated
# A step on few images tells what one on many takes; these bound the sample, not the batch.
LEAST = 2  # images: batch normalisation takes no single one
FAIR = 0.25  # seconds of a step that is long enough to go by
PATIENCE = 4.0  # seconds after which no further round begins
SLOW = 1.0  # seconds of a first forward pass that building kernels does not explain
ROOM = 1e9  # bytes of feature maps that a step may keep for its backward pass, off a GPU


def choose_precision(seconds: dict[str, float]) -> str:
    """``bf16`` where a step gains at least a tenth by it, else ``32``.

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
    """Seconds of a training step of this network on ``device``, by precision.

    Each arithmetic takes real training steps on a copy of the network, in turn, on noise; the
    medians count. They are steps on as few images as give a fair time; the two passes through the
    network are scaled to the batch, the move of the weights is not. What was measured for a
    (machine, network, trained part, batch) is kept in ``memo``, so that every later run of the
    same thing decides in the same way.

    Args:
        module: a :class:`convlens.training.ClassifierModule` in the phase to be timed; it is not
            changed.
        batch: images of a training step.
        device: where training will run.
        memo: a JSON file; made when it is not there.
        precisions: of ``32`` and ``bf16``; the latter is left out where there is none.
    """
    if device.type not in ("cpu", "cuda"):
        precisions = ("32",)
    key = _key(module, batch, device)
    known = _read(memo)
    found = known.get(key)
    if not isinstance(found, dict) or not set(precisions) <= set(found):
        known[key] = found = _measured(module, batch, device, precisions)
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(memo, json.dumps(known, indent=1))
    return found


class _Trial:
    """Training steps of a copy of a network, on noise."""

    def __init__(self, module, device: torch.device):
        self.module, self.device = copy.deepcopy(module).to(device), device
        self.optimizer = self.module.configure_optimizers()

    def noise(self, count: int) -> tuple[Tensor, Tensor]:
        """Images (count, C, H, W) in [0, 1], channels last, and labels (count,)."""
        data = self.module.data_config
        shape = (count, data.channels, data.size, data.size)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(count) % len(self.module.class_names)
        images = images.to(self.device, memory_format=torch.channels_last)
        return images, labels.to(self.device)

    def step(self, images: Tensor, labels: Tensor, precision: str) -> tuple[float, float]:
        """Seconds of the two passes, and of the move of the weights."""
        half, times = precision == "bf16", [self._now()]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            loss = self.module.objective(self.module.model.forward_fast(images), labels)
        loss.backward()
        times.append(self._now())
        self.optimizer.step()
        self.optimizer.zero_grad()
        times.append(self._now())
        return times[1] - times[0], times[2] - times[1]

    def forward_of_emulated(self, images: Tensor, step: float) -> float:
        """Seconds of a forward pass in bf16 on a processor that has to emulate it, else 0.

        There a step takes ten times as long as in float32; its forward pass alone shows it.

        Args:
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
        """Images and labels of the whole batch, or of as few as give a fair time.

        With the seconds of a step on them, in float32.
        """
        count = LEAST
        while True:
            found = self.noise(count)
            kept = _KeptBytes(self.module)
            with kept:
                self.step(*found, "32")  # the first step builds kernels and optimizer state
            seconds = sum(self.step(*found, "32"))
            if count >= batch or seconds >= FAIR:
                return *found, seconds
            larger = int(count * min(FAIR / max(seconds, 1e-6), self._room() / max(kept.total, 1)))
            larger = min(larger + 1, batch)
            if larger <= count:
                return *found, seconds
            count = larger

    def _room(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0] / 2
        return ROOM


class _KeptBytes(torch.autograd.graph.saved_tensors_hooks):
    """Sums up, in ``total``, what autograd keeps inside the ``with``, the weights left out."""

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


def _measured(
    module, batch: int, device: torch.device, precisions: tuple[str, ...]
) -> dict[str, float]:
    state = torch.get_rng_state()
    found: dict[str, list[float]] = {precision: [] for precision in precisions}
    try:
        trial = _Trial(module, device)
        images, labels, step = trial.sample(batch)
        scale = batch / len(images)
        waiting = list(precisions)
        if "bf16" in waiting:
            if seconds := trial.forward_of_emulated(images, step):
                waiting.remove("bf16")
                found["bf16"] = [seconds * scale]  # less than a step takes
            else:
                trial.step(images, labels, "bf16")  # builds its kernels
        began = time.perf_counter()
        for number in range(ROUNDS):
            if number and time.perf_counter() > began + PATIENCE:
                break
            for precision in waiting:
                passes, move = trial.step(images, labels, precision)
                found[precision].append(passes * scale + move)
    finally:
        torch.set_rng_state(state)
    return {precision: statistics.median(times) for precision, times in found.items()}


def _key(module, batch: int, device: torch.device) -> str:
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    kinds = [module.model_config.plain(), module.optimizer_config.plain()]
    network = json.dumps(kinds, sort_keys=True)
    data = module.data_config
    shape = f"{batch}x{data.channels}x{data.size}x{data.size}"
    # what is frozen costs no backward pass
    parameters = [(p.numel(), p.requires_grad) for p in module.parameters()]
    trained = sum(size for size, wanted in parameters if wanted)
    share = f"{trained} of {sum(size for size, _ in parameters)} trained"
    threads = f"{torch.get_num_threads()} threads"
    return " | ".join([machine, threads, f"torch {torch.__version__}", shape, share, network])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("vendor_id", "cpu family", "model\t", "model name", "stepping")
    found = [line.partition(":")[2].strip() for line in lines if line.startswith(wanted)]
    return " ".join(found[:5]) or platform.machine()


def _read(memo: Path) -> dict[str, dict[str, float]]:
    try:
        known = json.loads(memo.read_text())
    except (OSError, ValueError):
        return {}  # not there yet, or not ours any more: measured again
    return known if isinstance(known, dict) else {}
