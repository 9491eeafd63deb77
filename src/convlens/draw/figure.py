"""The parts that all Matplotlib charts share: figure, axes, heading, legend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from convlens.draw.canvas import add_title
from convlens.draw.palette import BACKGROUND, INK, MUTED, to_hex
from convlens.draw.text import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, FAINT = "#3465c0", "#e27a18", "#a0a6b0"  # of lines
SMALL_TEXT: dict[str, Any] = {"color": to_hex(MUTED), "fontsize": 9}  # text at an axis
DPI = 100  # pixels per inch
_HEADING = 300  # maximum width of a chart's heading, pixels
_LEGEND_ROW, _ROW = 20, 12  # points: height of a legend, and of a row of text


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, independent of pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(width, height), dpi=DPI, facecolor=to_hex(BACKGROUND), layout="constrained"
    )
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes, xlabel: str) -> None:
    """Reduce the chart to what helps the reader: two muted axis lines and a faint grid."""
    axes.set_facecolor(to_hex(BACKGROUND))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(to_hex(MUTED))
    axes.set_axisbelow(True)
    axes.grid(True, color="#e3e5e8", linewidth=0.8)
    axes.tick_params(colors=to_hex(MUTED), labelsize=9)
    axes.set_xlabel(xlabel, **SMALL_TEXT)


def add_legend(axes: Axes, heading: str = "", *, rows: int = 0, columns: int = 4) -> None:
    """Write the legend above the chart, where no line can cross it, and a heading above that.

    Args:
        axes: The chart, with all its lines.
        heading: What the chart shows; "" for none.
        rows: Rows of other text between the chart and the legend, of 12 points each.
        columns: Maximum number of entries side by side.
    """
    from matplotlib.transforms import ScaledTranslation

    up = ScaledTranslation(0, rows * _ROW / 72, axes.figure.dpi_scale_trans)  # 72 points per inch
    axes.legend(
        ncols=columns, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9,
        bbox_transform=axes.transAxes + up,
        labelcolor=to_hex(INK), borderaxespad=0.2, borderpad=0.2,
        handlelength=1.4, handletextpad=0.5, columnspacing=1.2,
    )  # fmt: skip
    if heading:
        lines = -(-len(axes.get_legend_handles_labels()[1]) // columns)
        axes.set_title(
            shorten(heading, _HEADING), loc="left", color=to_hex(INK), fontsize=11,
            parse_math=False, pad=_LEGEND_ROW * lines + rows * _ROW,
        )  # fmt: skip


def draw_figure(figure: Figure, title: str, reading: str | None = None) -> np.ndarray:
    """Draw the figure below its title and how to read it, uint8 ``(H, W, 3)``."""
    figure.canvas.draw()
    return add_title(np.asarray(figure.canvas.buffer_rgba())[..., :3], title, reading)
