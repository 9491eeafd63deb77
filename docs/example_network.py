"""Train the example network of `make explain`, and save its images.

    .venv/bin/python docs/example_network.py        (two minutes)

It is trained by `make train` with its defaults. Only what a network needs is kept of the checkpoint
(weights, config, class names), about 0.4 MB. The images are test images of `shapes`, one per class.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

from convlens.config.checks import restore_config
from convlens.data.sources.registry import build_index
from convlens.experiment.inputs import EXAMPLE

KEPT = ("state_dict", "hyper_parameters", "epoch", "pytorch-lightning_version")


def main() -> None:
    pictures = EXAMPLE / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "convlens", "train", "callbacks=none"]
        subprocess.run([*command, f"run_dir={run}", "precision=32"], check=True)
        content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    config = content["hyper_parameters"]["config"]
    config["run_dir"] = None  # it was a temporary folder
    torch.save({key: content[key] for key in KEPT}, EXAMPLE / "shapes.ckpt")
    made = restore_config(config, "the run")
    dataset = build_index(made.data, made.seed).load()
    test = dataset.splits["test"]
    for number, name in enumerate(content["hyper_parameters"]["class_names"]):
        row = int((test.labels == number).nonzero()[0][0])
        Image.fromarray(test.pixels([row])[0]).save(pictures / f"{name}.png")
    size = (EXAMPLE / "shapes.ckpt").stat().st_size
    print(f"{EXAMPLE / 'shapes.ckpt'}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
