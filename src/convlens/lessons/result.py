"""What a lesson returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Lesson:
    """The result of a lesson.

    Attributes:
        panel: The picture, uint8 ``(H, W, 3)``.
        lines: The numbers as text.
    """

    panel: np.ndarray
    lines: list[str]
