"""Overrides for a run of a second, and small folders of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def draw_folder(root: Path, counts: dict[str, int], size: int = 24, seed: int = 0) -> Path:
    """Draw class folders of small PNG images; classes differ in brightness."""
    rng = np.random.default_rng(seed)
    for number, (path, count) in enumerate(counts.items()):
        folder = root / path
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 120, (size, size, 3)) + 60 * (number % 3)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def shrink_network(name: str) -> list[str]:
    """Return words that make an experiment with a library's network small and offline."""
    size = {"vgg16": 48, "vit_small_patch14_reg4_dinov2": 56}.get(name, 80)
    words = ["model.weights=none", f"data.size={size}"]
    return [*words, "model.options.depth=1"] if name.startswith("vit_") else words


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

TINY_VIT = [
    "exp=scratch_vit",
    "model=timm",
    "model.name=vit_tiny_patch16_224",
    "model.weights=none",
    "model.options.patch_size=4",
    "model.options.embed_dim=16",
    "model.options.depth=2",
    "model.options.num_heads=2",
    "model.head.dropout=0",
    "data.pictures=60",
    "data.size=16",
    "training.batch_size=8",
    "precision=32",
    "trainer=cpu",
    "probes.count=3",
]
"""The same for a vision transformer of 16 tokens."""

RANDOM_ATTENTION = [
    "model.options.drop_path_rate=0.3",
    "model.options.attn_drop_rate=0.2",
    "model.options.proj_drop_rate=0.1",
    "model.head.dropout=0.1",
]
"""Words that make every part of the network of ``TINY_VIT`` draw random numbers."""

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

ALL = [
    "callbacks=all",
    "scores=all",
    "callbacks.filter_visuals.steps=2",
    "callbacks.filter_visuals.full_units=2",
    "looking.seconds=600",
    "looking.first_seconds=600",
]
"""Words by which everything looks after every epoch, at every layer, with all scores."""
