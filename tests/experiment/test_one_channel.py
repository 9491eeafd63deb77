"""Pictures of one channel go through a whole run with everything that looks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from convlens.cli.main import main
from support.tiny import ALL, TINY, draw_folder

NAMES = (
    "grad_cam", "layers/activations", "layers/filters", "layers/depth", "predictions", "occlusion",
)  # fmt: skip


@pytest.mark.parametrize("stored", ["L", pytest.param("RGB", marks=pytest.mark.slow)])
def test_everything_looks_at_one_channel_pictures(tmp_path, stored):
    counts = {f"{split}/{name}": 8 for split in ("train", "validation", "test") for name in "ab"}
    data = draw_folder(tmp_path / "data", counts)
    masks = tmp_path / "masks"
    for file in sorted(data.rglob("*.png")):
        Image.open(file).convert(stored).save(file)
        mask = masks / file.relative_to(data)
        mask.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((24, 24), np.uint8)
        pixels[6:18, 6:18] = 255
        Image.fromarray(pixels).save(mask)
    words = [w for w in TINY if not w.startswith("data.pictures")]
    run = tmp_path / "run"
    assert main([
        "train", f"run_dir={run}", *words, "data=image_folder", f"data.dir={data}",
        f"data.masks={masks}", "data.channels=1", "training.epochs=2", *ALL,
    ]) == 0  # fmt: skip
    summary = json.loads((run / "summary.json").read_text())
    assert not summary["failures"] and not summary.get("left_out")
    last = run / "explanations" / "epoch_002"
    assert [name for name in NAMES if not (last / name).is_dir()] == []
    for picture in last.rglob("*.jpg"):
        assert np.asarray(Image.open(picture)).std() > 2, picture  # none is blank
