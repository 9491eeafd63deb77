"""Every surface."""

from __future__ import annotations

import fuzz_bombs
import fuzz_names
import fuzz_pictures
import fuzz_words

SURFACES = [fuzz_bombs.SURFACE, fuzz_names.SURFACE, fuzz_pictures.SURFACE, fuzz_words.SURFACE]
