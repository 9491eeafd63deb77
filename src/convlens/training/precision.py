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
CLEAR = 2.0  # bf16 that takes so many times as long is not measured further


def fastest(seconds: dict[str, float]) -> str:
    """``bf16`` where a step gains at least a tenth by it, else ``32``.

    >>> fastest({"32": 0.2, "bf16": 0.1}), fastest({"32": 0.2, "bf16": 0.19}), fastest({"32": 0.2})
    ('bf16', '32', '32')
    """
    return "bf16" if seconds["32"] > WORTH * seconds.get("bf16", float("inf")) else "32"


def step_seconds(
    module, pictures: Tensor, labels: Tensor, device: torch.device, memo: Path
) -> dict[str, float]:
    """Seconds of a training step of this network on ``device``, by precision.

    Both arithmetics take real training steps on a copy of the network, in turn; the medians
    count. What was measured for a (machine, network, batch) is kept in ``memo``, so that every
    later run of the same thing decides in the same way.

    Args:
        module: a :class:`convlens.training.ClassifierModule`; it is not changed.
        pictures: (B, C, H, W) in [0, 1], as large a batch as training will see.
        labels: (B,).
        device: where training will run.
        memo: a JSON file; made when it is not there.
    """
    key = _key(module, pictures, device)
    known = _read(memo)
    if not isinstance(known.get(key), dict) or "32" not in known[key]:
        known[key] = _measured(module, pictures, labels, device)
        _write(memo, known)
    return known[key]


def _measured(module, pictures: Tensor, labels: Tensor, device: torch.device) -> dict[str, float]:
    state = torch.get_rng_state()
    trial = copy.deepcopy(module).to(device)
    optimizer = trial.configure_optimizers()
    pictures, labels = pictures.to(device), labels.to(device)

    def step(half: bool) -> float:
        begin = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = trial.objective(trial.model.swift(pictures), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    halves = (False, True) if device.type in ("cpu", "cuda") else (False,)
    try:
        for half in halves:
            step(half)  # the first step builds kernels and optimizer state
        first = [step(half) for half in halves]
        if len(first) == 2 and first[1] > CLEAR * first[0]:
            return {"32": first[0], "bf16": first[1]}  # emulated: no need to wait for more of it
        rounds = [[step(half) for half in halves] for _ in range(ROUNDS)]
    finally:
        torch.set_rng_state(state)
    medians = (statistics.median(times) for times in zip(*rounds, strict=True))
    return dict(zip(("32", "bf16"), medians, strict=False))


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


def _read(memo: Path) -> dict[str, dict[str, float]]:
    try:
        known = json.loads(memo.read_text())
    except (OSError, ValueError):
        return {}  # not there yet, or not ours any more: measured again
    return known if isinstance(known, dict) else {}


def _write(memo: Path, known: dict[str, dict[str, float]]) -> None:
    memo.parent.mkdir(parents=True, exist_ok=True)
    beside = memo.with_suffix(f".{os.getpid()}.tmp")
    beside.write_text(json.dumps(known, indent=1))
    os.replace(beside, memo)
