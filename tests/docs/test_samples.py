"""The Python samples of README and the guides run unchanged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytorch_lightning as L
import timm
import torch

from convlens.experiment.inputs import EXAMPLE

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SAMPLES = [
    pytest.param(page, code, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S), 1)
]


@pytest.mark.parametrize(("page", "code"), SAMPLES)
def test_a_sample_runs(page, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = next((EXAMPLE / "pictures").glob("*.png"))
    for file, text in {
        "outputs/…/best.ckpt": str(next(EXAMPLE.glob("*.ckpt"))),
        "cat.jpg": str(image),
    }.items():
        code = code.replace(file, text)
    network = timm.create_model("resnet18", num_classes=2).eval()
    images, labels = torch.rand(8, 3, 64, 64), torch.arange(8) % 2
    exec(code, {"my_network": network, "val_loader": [(images, labels)], "L": L})
