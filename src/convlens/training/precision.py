"""``precision: auto``: try what this machine can do, take what is fastest, stay with it."""

from __future__ import annotations

import copy
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

# Lightning's names for ours
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}
# below this gain the plain arithmetic is kept: it is exact and its timing noise is about this
WORTH = 1.1
ROUNDS = 5


def fastest(module, pictures: Tensor, labels: Tensor, device: torch.device, memo: Path) -> str:
    """``32`` or ``bf16``, whichever trains this network faster on ``device``.

    Both take real training steps on a copy of the network, in turn; the medians decide, and
    bf16 must gain a tenth. The answer for a (machine, network, batch) is kept in ``memo``, so
    that every later run of the same thing computes in the same way.

    Args:
        module: a :class:`convlens.training.ClassifierModule`; it is not changed.
        pictures: (B, C, H, W) in [0, 1], a batch as training will see it.
        labels: (B,).
        device: where training will run.
        memo: a JSON file; made when it is not there.
    """
    if device.type not in ("cpu", "cuda"):
        return "32"
    key = _key(module, pictures, device)
    known = _read(memo)
    if key not in known:
        known[key] = _measured(module, pictures, labels, device)
        _write(memo, known)
    return known[key]


def _measured(module, pictures: Tensor, labels: Tensor, device: torch.device) -> str:
    state = torch.get_rng_state()
    trial = copy.deepcopy(module).to(device)
    optimizer = trial.configure_optimizers()
    pictures, labels = pictures.to(device), labels.to(device)

    def step(half: bool) -> float:
        begin = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = trial.objective(trial.model(pictures), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    try:
        for half in (False, True):
            step(half)  # the first step builds kernels and optimizer state
        rounds = [(step(False), step(True)) for _ in range(ROUNDS)]
    finally:
        torch.set_rng_state(state)
    plain, half = (statistics.median(times) for times in zip(*rounds, strict=True))
    return "bf16" if plain > WORTH * half else "32"


def _key(module, pictures: Tensor, device: torch.device) -> str:
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    network = json.dumps([module.config["model"], module.config["optimizer"]], sort_keys=True)
    batch = "x".join(map(str, pictures.shape))
    threads = f"{torch.get_num_threads()} threads"
    return " | ".join([machine, threads, f"torch {torch.__version__}", batch, network])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("vendor_id", "cpu family", "model\t", "model name", "stepping")
    found = [line.partition(":")[2].strip() for line in lines if line.startswith(wanted)]
    return " ".join(found[:5]) or platform.machine()


def _read(memo: Path) -> dict[str, str]:
    try:
        known = json.loads(memo.read_text())
    except (OSError, ValueError):
        return {}  # not there yet, or not ours any more: measured again
    return known if isinstance(known, dict) else {}


def _write(memo: Path, known: dict[str, str]) -> None:
    memo.parent.mkdir(parents=True, exist_ok=True)
    beside = memo.with_suffix(f".{os.getpid()}.tmp")
    beside.write_text(json.dumps(known, indent=1))
    os.replace(beside, memo)
