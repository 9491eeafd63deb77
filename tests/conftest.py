"""What all tests share: tiny data, a cache of their own, the real data if it lies there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from masks_made import with_masks  # noqa: F401  a fixture of the tests of masks
from pictures_made import damaged, photos  # noqa: F401  fixtures of the decoding tests
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Nothing of the person's caches is read or written; drawn and decoded pictures are shared."""
    os.environ["CONVLENS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("CONVLENS_DATA", None)
    os.environ.pop("CONVLENS_WEIGHTS", None)
    os.environ.pop("CONVLENS_RUN_DIR", None)


@pytest.fixture
def at(tmp_path, monkeypatch) -> Path:
    """An empty folder to stand in; runs land in its outputs/."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not beside this checkout")
    return folder


def draw_folder(root: Path, counts: dict[str, int], size: int = 24, seed: int = 0) -> Path:
    """Class folders below ``root`` with small PNG pictures, a brightness of its own a class."""
    rng = np.random.default_rng(seed)
    for number, (path, count) in enumerate(counts.items()):
        folder = root / path
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 120, (size, size, 3)) + 60 * (number % 3)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture
def folder_of_two(tmp_path) -> Path:
    """train/, validation/ and test/ with cats/ and dogs/."""
    counts = {
        f"{split}/{name}": count
        for split, count in (("train", 10), ("validation", 4), ("test", 4))
        for name in ("cats", "dogs")
    }
    return draw_folder(tmp_path / "pictures", counts)


TINY = [
    "data.pictures=60",
    "data.size=16",
    "model.filters=[4,6]",
    "model.padding=same",
    "model.head.hidden=[8]",
    "training.batch_size=8",
    "precision=32",
    "trainer=cpu",
    "probes.count=3",
]
"""Words that make a run of ``shapes`` last a second."""

TWO_UNFREEZES = [
    "model.batch_norm=true",
    "data.pictures=100",
    "finetune.groups={head: head, last: backbone.block2, base: backbone}",
    "finetune.phases=[{epochs: 2, train: [head], lr: {head: 0.01}, augment: false},"
    "{epochs: 2, train: [head, last], lr: {head: 0.01, last: 0.005}, warmup_epochs: 1},"
    "{epochs: 2, train: [head, last, base], lr: 0.003, warmup_epochs: 0.5}]",
    "training.epochs=null",
]
"""Words of a schedule of three phases for the network of ``TINY``."""


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    folder = SHARED / "weights"
    if not folder.is_dir():
        pytest.skip("the real weights are not beside this checkout")
    return folder
