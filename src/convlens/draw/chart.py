"""Charts by Matplotlib in the panels' colours, as images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convlens.draw.canvas import BACKGROUND, MUTED, Colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100


def html(colour: Colour) -> str:
    """A colour as Matplotlib takes it.

    >>> html((255, 214, 0))
    '#ffd600'
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, known to no pyplot: nothing global."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(width, height), dpi=DPI, facecolor=html(BACKGROUND), layout="constrained"
    )
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Axes) -> None:
    """Only what helps reading: two axis lines and a faint grid."""
    axes.set_facecolor(html(BACKGROUND))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e3e5e8", linewidth=0.8)
    axes.tick_params(colors=html(MUTED), labelsize=9)


def image_of(figure: Figure) -> np.ndarray:
    """The drawn figure, uint8 ``(H, W, 3)``."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
