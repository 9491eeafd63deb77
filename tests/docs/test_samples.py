"""The Python samples of README and the guides run unchanged."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as L
import timm
import torch

from convlens.experiment.inputs import EXAMPLE
from convlens.rundir.maps import Maps, write_maps
from support.runs_made import write_run

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SAMPLES = [
    pytest.param(page, code, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S), 1)
]


def write_run_with_maps(home: Path) -> None:
    """Write the run that the samples call ``last`` and ``outputs/…``."""
    write_run(home, [1.0, 0.5])
    layers = {"backbone.block4.activation": np.ones((2, 2, 8, 8), np.float32)}
    classes = [["disc", "disc"], ["star", "ring"]]
    found = Maps(
        "grad_cam", ["00_disc", "01_ring"], ["predicted", "true"], classes,
        np.full((2, 2), 0.5, np.float32), layers,
    )  # fmt: skip
    write_maps(home / "explanations" / "epoch_007", found)


@pytest.mark.parametrize(("page", "code"), SAMPLES)
def test_a_sample_runs(page, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run_with_maps(tmp_path / "outputs" / "…")
    image = next((EXAMPLE / "pictures").glob("*.png"))
    for file, text in {
        "outputs/…/best.ckpt": str(next(EXAMPLE.glob("*.ckpt"))),
        "cat.jpg": str(image),
    }.items():
        code = code.replace(file, text)
    network = timm.create_model("test_resnet", num_classes=2).eval()
    images, labels = torch.rand(8, 3, 64, 64), torch.arange(8) % 2
    exec(code, {"my_network": network, "val_loader": [(images, labels)], "L": L})
