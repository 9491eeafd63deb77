"""``precision: auto``: know or measure which precision trains fastest on this machine."""

from __future__ import annotations

import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from convlens.core.evaluation import evaluation_mode
from convlens.core.files import write_atomic
from convlens.core.system import name_processor

# our names to Lightning's
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}
# smallest gain that pays for less exact arithmetic; timing noise is about as large
WORTH = 1.1
ROUNDS = 5
# multiply-adds of a step's forward pass, in billions, from which on a GPU with bf16 matrix units is
# limited by arithmetic and not by launching kernels: bf16 is then taken without a measurement
LARGE = 50.0
# Steps are timed on a sample of the batch and scaled up; these limits are for the sample.
LEAST = 2  # images: batch normalisation refuses a single one
FAIR = 0.25  # seconds of a step that is long enough to measure
PATIENCE, SHARE = 3.0, 0.02  # seconds, or fraction of the run, that measuring may take
STOPPED = "stopped_after"  # in the memo: the seconds after which bf16 was still not measured
ROOM = 1e9  # bytes of feature maps that a step may keep for its backward pass, except on a GPU


def has_native_bf16(device: torch.device) -> bool:
    """Return whether a device computes in bf16; others emulate it, which is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        # torch's own check also accepts processors that have AVX-512 without bf16
        return torch.cpu._is_avx512_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def count_multiply_adds(module) -> float:
    """Return the multiply-adds, in billions, of a forward pass of one image.

    Args:
        module: a ``convlens.training.ClassifierModule``; not changed.
    """
    from torch.utils.flop_counter import FlopCounterMode  # 0.2 s, and only GPUs need it

    data, parameter = module.data_config, next(module.model.parameters())
    image = parameter.new_zeros(1, data.channels, data.size, data.size)
    with torch.no_grad(), evaluation_mode(module.model), FlopCounterMode(display=False) as counter:
        module.model(image)
    return counter.get_total_flops() / 2e9


def choose_precision(seconds: dict[str, float]) -> str:
    """Return ``bf16`` if it makes a step at least 10 % faster, else ``32``.

    Args:
        seconds: seconds per training step, by precision; without ``bf16`` if the time for
            measuring ran out.

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
    steps: int = 0,
) -> dict[str, float]:
    """Measure the seconds of a training step of this network on ``device``, by precision.

    A copy of the network takes real training steps on noise, with each precision in turn, on as few
    images as give a reliable time. Forward and backward pass are scaled to the batch, the update of
    the weights is not; the medians are returned. Results are kept in ``memo`` by machine, network,
    trained part and batch, so that later runs of the same kind choose the same precision.

    No step begins that would end, by what was measured so far, after 3 s or 2 % of the run,
    whichever is longer; only the first, on two images, always runs. If the time does not suffice
    for bf16, the result lacks it, and a longer run will measure again.

    Args:
        module: a ``convlens.training.ClassifierModule`` in the phase to be timed; not changed.
        batch: images of a training step.
        device: where training will run.
        memo: a JSON file; created if missing.
        precisions: ``32`` and ``bf16``; or one of them, which is then measured in any case.
        steps: training steps of the run; 0 if unknown.
    """
    key = _key(module, batch, device)
    known = _read(memo)
    seconds = known.get(key)
    if not _suffices(seconds, precisions, steps):
        found = _measure(module, batch, device, precisions, steps)
        known[key] = seconds = {**(seconds if isinstance(seconds, dict) else {}), **found}
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(memo, json.dumps(known, indent=1))
    return {name: seconds[name] for name in precisions if name in seconds}


def _suffices(seconds: object, precisions: tuple[str, ...], steps: int) -> bool:
    """Return whether remembered seconds answer for a run of this many steps."""
    if not isinstance(seconds, dict):
        return False
    if set(precisions) <= set(seconds):
        return True
    stopped = seconds.get(STOPPED, 0.0) if len(precisions) > 1 and "32" in seconds else 0.0
    return bool(stopped) and stopped >= _allow(steps, seconds["32"])


def _allow(steps: int, step: float) -> float:
    """Return how many seconds to measure for, in a run of ``steps`` steps of ``step`` seconds."""
    return max(PATIENCE, SHARE * steps * step)


class _Trial:
    """Takes training steps on noise with a copy of a network."""

    def __init__(self, module, device: torch.device):
        self.module, self.device = copy.deepcopy(module).to(device), device
        self.optimizer = self.module.configure_optimizers()

    def noise(self, count: int) -> tuple[Tensor, Tensor]:
        """Return images (count, C, H, W) in [0, 1], channels last, and labels."""
        data = self.module.data_config
        shape = (count, data.channels, data.size, data.size)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(count) % len(self.module.class_names)
        if self.module.multi_label:
            labels = torch.eye(len(self.module.class_names), dtype=torch.bool)[labels]
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

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def sample(self, batch: int, fits: Callable[[float, float], bool]) -> _Sample:
        """Return images, labels and a float32 step on them.

        This is the smallest sample that gives a reliable time, at most the whole batch.

        Args:
            batch: images of a training step.
            fits: whether there is time for so many seconds, if a whole step takes the second.
        """
        count = LEAST
        while True:
            images, labels = self.noise(count)
            kept = _KeptBytes(self.module)
            with kept:
                # builds kernels and optimizer state
                found = _Sample(images, labels, *self.step(images, labels, "32"))
            if not fits(found.seconds, found.scale(batch)):
                return found
            found = _Sample(images, labels, *self.step(images, labels, "32"))
            seconds = found.seconds
            if count >= batch or seconds >= FAIR:
                return found
            larger = int(count * min(FAIR / max(seconds, 1e-6), self._room() / max(kept.total, 1)))
            larger = min(larger + 1, batch)
            if larger <= count or not fits(2 * seconds * larger / count, found.scale(batch)):
                return found
            count = larger

    def _room(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0] / 2
        return ROOM


@dataclass(frozen=True)
class _Sample:
    """Images, labels, and the seconds of a float32 step on them: both passes, and the update."""

    images: Tensor
    labels: Tensor
    passes: float
    update: float

    @property
    def seconds(self) -> float:
        return self.passes + self.update

    def scale(self, batch: int) -> float:
        """Return the seconds of a step on ``batch`` images."""
        return self.passes * batch / len(self.images) + self.update


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
    module, batch: int, device: torch.device, precisions: tuple[str, ...], steps: int
) -> dict[str, float]:
    """Return the seconds of a step by precision, and ``STOPPED`` if there was no time for bf16."""
    state, began = torch.get_rng_state(), time.perf_counter()

    def fits(seconds: float, step: float) -> bool:
        return time.perf_counter() + seconds <= began + _allow(steps, step)

    try:
        trial = _Trial(module, device)
        sample = trial.sample(batch, fits)
        images, labels = sample.images, sample.labels
        whole, scale = sample.scale(batch), batch / len(images)
        times: dict[str, list[float]] = {precision: [] for precision in precisions}
        last = dict.fromkeys(precisions, sample.seconds)  # of a step on the sample

        def take(precision: str) -> float:
            passes, update = trial.step(images, labels, precision)
            last[precision] = passes + update
            return passes * scale + update

        def has_time(precision: str) -> bool:
            return fits(last[precision], whole)

        is_alone = len(precisions) == 1
        if "bf16" in precisions and (is_alone or has_time("bf16")):
            first = take("bf16")  # builds kernels
            if is_alone and not has_time("bf16"):
                times["bf16"].append(first)
        for _ in range(ROUNDS):
            for precision in precisions:
                if has_time(precision):
                    times[precision].append(take(precision))
        if "32" in times:
            times["32"] = times["32"] or [whole]
    finally:
        torch.set_rng_state(state)
    medians = {name: statistics.median(values) for name, values in times.items() if values}
    if set(medians) < set(precisions):
        medians[STOPPED] = _allow(steps, medians["32"])
    return medians


def _key(module, batch: int, device: torch.device) -> str:
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else name_processor()
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


def _read(memo: Path) -> dict[str, dict[str, float]]:
    try:
        known = json.loads(memo.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # missing or damaged: measure again
    return known if isinstance(known, dict) else {}
