"""Draw the map of a data set: how sure the network is of each label, and how steadily."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.draw.figure import SMALL_TEXT, add_legend, draw_figure, new_figure, style_axes
from convlens.draw.palette import CLASSES, GREY, RED, to_hex
from convlens.draw.text import printable, shorten

_COLOURS = [to_hex(colour) for colour in CLASSES[:8]]  # those that small points tell apart
_MOST = 6000  # points
_NAME = 110  # maximum width of a class name, pixels
_READING = (
    "Each point is a training image. Top: learned easily. Right: ambiguous, the network changes "
    "its mind. Bottom left: never believed, so hard or mislabelled."
)


def cartography_map(
    confidence: np.ndarray, variability: np.ndarray, labels: np.ndarray, suspected: np.ndarray,
    class_names: Sequence[str], *, title: str,
) -> np.ndarray:  # fmt: skip
    """Draw confidence over variability (Swayamdipta et al. 2020, arXiv:2009.10795).

    The points are coloured by class if there are at most eight classes. Suspects have a red ring.
    Of many images, an even sample is drawn, and all suspects.

    Args:
        confidence: (N,) mean probability of the given label, in [0, 1]; NaN where unknown.
        variability: (N,) standard deviation of that probability, in [0, 0.5].
        labels: (N,) given classes.
        suspected: (N,) bool.
        class_names: K names.
        title: The heading of the picture.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: No image has a confidence.
    """
    known = np.flatnonzero(np.isfinite(confidence) & np.isfinite(variability))
    if not len(known):
        raise ValueError("a map needs at least one image with a confidence")
    even = known[:: -(-len(known) // _MOST)]
    drawn = np.union1d(even, known[suspected[known]])
    figure = new_figure(7.2, 5.0)
    axes = figure.subplots()
    if len(class_names) <= len(_COLOURS):
        for number, name in enumerate(class_names):
            own = drawn[labels[drawn] == number]
            label = shorten(printable(name).lstrip("_"), _NAME)
            axes.scatter(
                variability[own], confidence[own], s=9, color=_COLOURS[number], alpha=0.55,
                linewidths=0, label=label,
            )  # fmt: skip
    else:
        axes.scatter(
            variability[drawn], confidence[drawn], s=9, color=to_hex(GREY), alpha=0.55,
            linewidths=0, label="training images",
        )  # fmt: skip
    ringed = drawn[suspected[drawn]]
    if len(ringed):
        axes.scatter(
            variability[ringed], confidence[ringed], s=34, facecolors="none",
            edgecolors=to_hex(RED), linewidths=1.0, label="suspected",
        )  # fmt: skip
    axes.set_xlim(-0.01, 0.51)  # the same at every epoch
    axes.set_ylim(-0.02, 1.02)
    style_axes(axes, "variability: standard deviation of the given label's probability")
    axes.set_ylabel("confidence: its mean", **SMALL_TEXT)
    add_legend(axes, columns=5)
    return draw_figure(figure, title, _READING)
