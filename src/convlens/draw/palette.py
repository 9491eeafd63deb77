"""The colours of panels: background, text, right and wrong."""

from __future__ import annotations

Colour = tuple[int, int, int]

BACKGROUND: Colour = (250, 250, 251)
INK: Colour = (30, 34, 42)
MUTED: Colour = (100, 107, 118)
RED: Colour = (214, 40, 57)
GREEN: Colour = (22, 128, 78)
SLATE: Colour = (84, 96, 116)
GREY: Colour = (150, 154, 160)
EMPTY: Colour = (214, 216, 220)  # cells without content
WHITE: Colour = (255, 255, 255)
# of classes: Matplotlib's tab10 without red, which marks mistakes, and without grey; then others
CLASSES: tuple[Colour, ...] = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (148, 103, 189), (140, 86, 75), (227, 119, 194),
    (188, 189, 34), (23, 190, 207), (20, 40, 110), (120, 220, 120), (255, 205, 60), (180, 170, 235),
)  # fmt: skip


def to_hex(colour: Colour) -> str:
    """Return a colour in the form that Matplotlib accepts.

    >>> to_hex((255, 214, 0))
    '#ffd600'
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)
