"""One value of every layer, over depth: the network now against the one before training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.draw.canvas import INK, MUTED, titled
from convlens.draw.chart import DPI, html, image_of, new_figure, plain
from convlens.draw.text import BODY, printable, shorten

_LINE, _FAINT = "#3465c0", "#a0a6b0"
_NAME = 170  # pixels a layer's name may take
_STEP = 14  # pixels from one name to the next
_NARROWEST, _WIDEST = 520, 1500  # pixels of the chart


def layer_labels(layers: Sequence[str], width: int = _NAME) -> list[str]:
    """Names of layers as short as a chart wants them, each at most ``width`` pixels.

    The dotted parts at the beginning that all share are left out, and what is still too long
    loses its beginning: layers differ at the end.

    >>> layer_labels(["backbone.block1.conv", "backbone.block2.conv"])
    ['block1.conv', 'block2.conv']
    """
    parts = [printable(layer).split(".") for layer in layers]
    shared = 0
    while all(len(names) > shared + 1 and names[shared] == parts[0][shared] for names in parts):
        shared += 1
    return [shorten(".".join(names[shared:])[::-1], width, BODY)[::-1] for names in parts]


def depth_chart(
    layers: Sequence[str],
    now: Sequence[float],
    before: Sequence[float] | None,
    *,
    title: str,
    what: str,
) -> np.ndarray:
    """A share of every layer, from the first to the last: now (strong), before training (grey).

    Args:
        layers: names in the order of depth; their common beginning is left out.
        now: one value in [0, 1] a layer, such as its sparsity or its share of dead channels; NaN
            leaves a gap.
        before: likewise at epoch 0; None where it is not known.
        title: the picture's heading.
        what: what the values are, written at the axis.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: no layer, another number of values, or values outside [0, 1].
    """
    series = {"before training": before, "now": now} if before is not None else {"now": now}
    for name, values in series.items():
        if not layers or len(values) != len(layers):
            raise ValueError(f"{name} has {len(values)} values for {len(layers)} layers")
        if not all(0 <= value <= 1 for value in values if not np.isnan(value)):
            raise ValueError(f"{name} has values outside [0, 1]")
    muted = html(MUTED)
    width = min(max(_STEP * len(layers) + 120, _NARROWEST), _WIDEST)
    figure = new_figure(width / DPI, 4.4)
    axes = figure.subplots()
    depth = np.arange(len(layers))
    marker = "o" if len(layers) <= 120 else None
    for name, values in series.items():
        strong = name == "now"
        axes.plot(
            depth, np.asarray(values, float), color=_LINE if strong else _FAINT, label=name,
            linewidth=2 if strong else 1.5, marker=marker, markersize=4.5 if strong else 3.5,
        )  # fmt: skip
    every = -(-len(layers) * _STEP // (width - 100))  # names never overlap
    labels = layer_labels(layers)
    axes.set_xticks(depth[::every], labels[::every], rotation=90, parse_math=False)
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(-0.03, 1.03)  # the whole range: 0.01 against 0.02 shall look like little
    plain(axes)
    axes.spines[["left", "bottom"]].set_color(muted)
    axes.set_axisbelow(True)
    axes.set_ylabel(shorten(what, 260), color=muted, fontsize=9, parse_math=False)
    axes.set_xlabel("depth: from the first layer to the last", color=muted, fontsize=9)
    # above the chart: inside it every corner may be where a line runs
    axes.legend(
        frameon=False, fontsize=9, labelcolor=html(INK), ncols=2, loc="lower left",
        bbox_to_anchor=(0, 1), borderaxespad=0.2,
    )  # fmt: skip
    return titled(image_of(figure), title)
