"""Class names, numbers, and helpers that inspect a panel."""

from __future__ import annotations

import numpy as np
import torch

from convlens.draw.canvas import PAD
from convlens.draw.palette import BACKGROUND

NAMES = ["dog", "Größe é", "狗", "🐶", "<b>bold</b>&amp;", "$x_1$", "x" * 200, "", "\ud800"]


def uniform(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def uniform_tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def names(count: int) -> list[str]:
    return [NAMES[i] if i < len(NAMES) else f"class {i}" for i in range(count)]


def some_counts(classes: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(1.0, (classes, classes)) + 30 * np.eye(classes, dtype=int)


def assert_margin_is_empty(image: np.ndarray, margin: int = PAD - 2) -> None:
    """Assert that nothing is cut off: the margin of the panel is background only."""
    for edge in (image[:margin], image[-margin:], image[:, :margin], image[:, -margin:]):
        assert (edge == np.array(BACKGROUND)).all()


def is_colour(image: np.ndarray, colour) -> np.ndarray:
    return (image == np.array(colour)).all(-1)


def any_of(panel: np.ndarray, colour) -> bool:
    return bool(is_colour(panel, colour).any())


def find(panel: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """Return every place (top, left) where ``panel`` contains exactly ``image``."""
    height, width = image.shape[:2]
    inside = panel[: panel.shape[0] - height + 1, : panel.shape[1] - width + 1]
    starts = np.argwhere(is_colour(inside, image[0, 0]))
    return [
        (int(y), int(x)) for y, x in starts if (panel[y : y + height, x : x + width] == image).all()
    ]
