"""All surfaces."""

from __future__ import annotations

from support import (
    fuzz_bombs,
    fuzz_caches,
    fuzz_checkpoints,
    fuzz_masks,
    fuzz_names,
    fuzz_pictures,
    fuzz_run_folders,
    fuzz_words,
)

SURFACES = [
    fuzz_pictures.SURFACE, fuzz_bombs.SURFACE, fuzz_masks.SURFACE, fuzz_names.SURFACE,
    fuzz_words.SURFACE, fuzz_checkpoints.CHECKPOINTS, fuzz_checkpoints.WEIGHTS, fuzz_caches.SURFACE,
    fuzz_run_folders.SURFACE,
]  # fmt: skip
