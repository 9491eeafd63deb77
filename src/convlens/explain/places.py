"""Whether the evidence for a class sits in one and the same place near the border.

Legend: ``N`` pictures of one class.
"""

from __future__ import annotations

import torch
from torch import Tensor


def same_border_place(peaks: Tensor, border: float = 0.2, near: float = 0.15) -> float:
    """Share of pictures whose peak lies near the border and in one place, in [0, 1]; lower is
    better.

    Objects move from picture to picture, a watermark, a frame or a date does not: a class whose
    maps all peak in one corner is known by what stands there. The place is the border peak with
    the most border peaks around it. No mask is needed. (The horse that could count by watching its
    questioner: S. Lapuschkin et al., *Unmasking Clever Hans predictors*, 2019,
    https://arxiv.org/abs/1902.10178, cluster whole maps; this looks at their peaks.)

    Args:
        peaks: ``(N, 2)`` rows and columns in [0, 1], see
            :func:`convlens.explain.scores.peak_position`; NaN for a map without a peak, which
            counts as a picture without evidence at the border.
        border: a peak counts as near it below this distance, a share of the edge.
        near: peaks no farther apart than this, in rows and in columns, are in one place.

    Returns:
        NaN without pictures.

    >>> same_border_place(torch.tensor([[0.1, 0.1], [0.1, 0.2], [0.5, 0.5], [0.9, 0.9]]))
    0.5
    """
    if not len(peaks):
        return float("nan")
    edge = torch.minimum(peaks, 1 - peaks).amin(1)
    at_border = peaks[edge < border]  # NaN is never below
    if not len(at_border):
        return 0.0
    apart = (at_border[:, None] - at_border[None]).abs().amax(2)
    return float((apart <= near + 1e-6).sum(1).max()) / len(peaks)
