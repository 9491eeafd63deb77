"""A photograph beside the network: whole, at its own proportions, with what the network saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Frame = tuple[float, float, float, float]
WHOLE: Frame = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Photograph:
    """A picture of an image on which maps of the network are drawn.

    Attributes:
        picture: uint8 ``(H, W, 3)``, upright.
        frame: left, top, right and bottom edge of the part that the network sees, as fractions of
            the picture's width and height.
        seen: what the network sees of it, in a few words, such as ``squashed to 224×224``; empty if
            it sees these pixels.
    """

    picture: np.ndarray
    frame: Frame = WHOLE
    seen: str = ""
