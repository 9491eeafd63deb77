"""Every surface."""

from __future__ import annotations

import fuzz_bombs
import fuzz_caches
import fuzz_checkpoints
import fuzz_masks
import fuzz_names
import fuzz_pictures
import fuzz_run_folders
import fuzz_words

SURFACES = [
    fuzz_pictures.SURFACE, fuzz_bombs.SURFACE, fuzz_masks.SURFACE, fuzz_names.SURFACE,
    fuzz_words.SURFACE, fuzz_checkpoints.CHECKPOINTS, fuzz_checkpoints.WEIGHTS, fuzz_caches.SURFACE,
    fuzz_run_folders.SURFACE,
]  # fmt: skip
