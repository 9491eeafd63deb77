"""Every surface."""

from __future__ import annotations

import fuzz_bombs
import fuzz_pictures

SURFACES = [fuzz_bombs.SURFACE, fuzz_pictures.SURFACE]
