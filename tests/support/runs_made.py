"""Write run folders without training."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from PIL import Image

CONFIG = {
    "experiment": "scratch",
    "seed": 0,
    "run_dir": None,
    "optimizer": {"name": "adam", "lr": 0.001, "betas": [0.9, 0.999]},
    "training": {"epochs": 2, "batch_size": 8},
    "callbacks": {"budget": 0.05, "grad_cam": {"layers": "auto", "batch": 32}},
    "finetune": {"phases": [{"epochs": 1, "train": ["head"]}, {"epochs": 1, "train": ["base"]}]},
}


def changed(config: dict, **values) -> dict:
    """Return a config with changed keys: ``optimizer__lr=1`` sets ``optimizer.lr``."""
    config = json.loads(json.dumps(config))
    for key, value in values.items():
        *parents, leaf = key.split("__")
        place = config
        for parent in parents:
            place = place[int(parent) if isinstance(place, list) else parent]
        place[leaf] = value
    return config


def write_run(
    home: Path, losses: list[float], *, config: dict = CONFIG,
    test: tuple[float, float] = (1.0, 0.5), seconds: float = 10.0, alarms: tuple[str, ...] = (),
    finished: bool = True, probes: dict[str, str] | None = None,
) -> Path:  # fmt: skip
    """Write a run folder.

    Args:
        losses: validation losses from epoch 0 on; the accuracy is 1 / (1 + loss).
        test: test loss and accuracy.
        probes: name to the colour of its image; Grad-CAM pictures are written at the first and the
            last epoch.
    """
    home.mkdir(parents=True)
    (home / "config.yaml").write_text(yaml.safe_dump({**config, "run_dir": str(home)}))
    rows = [{"val/loss": x, "val/accuracy": 1 / (1 + x), "train/loss": x / 2, "train/accuracy": 0.5}
            for x in losses]  # fmt: skip
    lines = ["epoch,val/loss,val/accuracy,train/loss,train/accuracy,explain/seconds"]
    lines += [f"{n},{','.join(map(str, row.values()))}," for n, row in enumerate(rows)]
    (home / "metrics.csv").write_text("\n".join(lines) + "\n")
    for name, colour in (probes or {}).items():
        (home / "probes").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(home / "probes" / f"{name}.png")
        for epoch in (0, len(losses) - 1):
            folder = home / "explanations" / f"epoch_{epoch:03d}" / "grad_cam"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8 + epoch, 8), colour).save(folder / f"{name}.jpg")
    if finished:
        best = min(range(1, len(losses)), key=lambda epoch: losses[epoch])
        summary = {
            "experiment": config["experiment"], "seed": config["seed"], "epochs": len(losses) - 1,
            "best_epoch": best, "val": {"loss": losses[best], "accuracy": 1 / (1 + losses[best])},
            "test": {"loss": test[0], "accuracy": test[1], "f1/cat": test[1]},
            "images_per_second": 100.0, "seconds": {"total": seconds, "training": seconds / 2},
            "precision": "32", "alarms": list(alarms), "failures": [],
        }  # fmt: skip
        (home / "summary.json").write_text(json.dumps(summary))
    return home
