"""Score attention and tokens: where heads look, how far, how much alike, and odd tokens.

Shapes: ``B`` images, ``N`` queries, ``M`` keys, ``C`` channels, ``h w`` grid of patches, ``H W``
size of the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from convlens.explain.axes import Tokens


def head_entropy(weights: Tensor) -> Tensor:
    """Return how evenly each head spreads its attention, ``(B, heads)`` in [0, 1].

    Entropy of each query's weights, divided by ``log(M)``, mean over the queries: 0 if every query
    looks at one token, 1 if it looks at all equally. 0 for a single key.

    Args:
        weights: ``(B, heads, N, M)``, rows sum to 1.

    >>> head_entropy(torch.full((1, 1, 2, 4), 0.25))
    tensor([[1.]])
    """
    # rounding of even weights may exceed 1
    return (_entropy(weights).mean(-1) / math.log(max(2, weights.shape[-1]))).clamp(0, 1)


def head_diversity(weights: Tensor) -> Tensor:
    """Return how differently the heads of a layer look, ``(B,)`` in [0, 1].

    Jensen-Shannon divergence of the heads' weights, ``H(mean of heads) - mean of H(head)``, divided
    by ``log(heads)``, mean over the queries: 0 if all heads are alike, 1 if no two heads look at
    the same token. NaN for a single head.

    Args:
        weights: ``(B, heads, N, M)``, rows sum to 1.
    """
    heads = weights.shape[1]
    if heads == 1:
        return weights.new_full((len(weights),), math.nan)
    divergence = _entropy(weights.mean(1)) - _entropy(weights).mean(1)
    return (divergence.mean(-1) / math.log(heads)).clamp(0, 1)


def _entropy(weights: Tensor) -> Tensor:
    return torch.special.entr(weights).sum(-1)


def attention_distance(weights: Tensor, tokens: Tokens, size: tuple[int, int]) -> Tensor:
    """Return how far each head looks on average, ``(B, heads)`` in pixels.

    Distance between the centres of a patch and the patches that it attends to, weighted by the
    attention, mean over the patches; attention to tokens without a place is left out, and the rest
    of each row divided by its sum.

    A. Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, appendix D.7,
    https://arxiv.org/abs/2010.11929

    Args:
        weights: ``(B, heads, N, N)``, rows sum to 1.
        tokens: how the tokens lie on the image.
        size: ``(H, W)`` of the image.
    """
    steps = [side / cells for side, cells in zip(size, (tokens.height, tokens.width), strict=True)]
    rows = torch.arange(tokens.height).to(weights) * steps[0]
    columns = torch.arange(tokens.width).to(weights) * steps[1]
    places = torch.cartesian_prod(rows, columns).reshape(-1, 2)
    apart = (places[:, None] - places).square().sum(-1).sqrt()
    patches = slice(tokens.prefix, tokens.prefix + len(places))
    inner = weights[..., patches, patches]
    return ((inner * apart).sum(-1) / inner.sum(-1)).mean(-1)


@dataclass(frozen=True, eq=False)
class NormOutliers:
    """Patch tokens with an unusually large norm.

    Attributes:
        norms: ``(B, h, w)``, at least 0.
        threshold: the norm above which a token counts.
        share: ``(B,)`` in [0, 1], fraction of the patches above it; of the background's, if masks
            were given. NaN for an image without background.
    """

    norms: Tensor
    threshold: float
    share: Tensor

    @property
    def map(self) -> Tensor:
        """``(B, h, w)`` bool: which tokens count."""
        return self.norms > self.threshold


def norm_outliers(
    patches: Tensor, masks: Tensor | None = None, *, deviations: float = 6.0, times: float = 1.0
) -> NormOutliers:
    """Return the patch tokens whose norm is far above that of the others.

    Large transformers write image-wide information into patches of uniform background, whose norms
    are then many times those of others; attention maps show them as bright dots. Registers prevent
    this (T. Darcet et al., *Vision Transformers Need Registers*, ICLR 2024,
    https://arxiv.org/abs/2309.16588). The paper reads a threshold off the histogram of one
    network; here it comes from the distribution of the norms of all patches given:

        log threshold = median + deviations * 1.4826 * median of |log norm - median|

    The factor makes the second term a standard deviation if the logarithms are normal. Of images
    with a plain background nearly all norms are equal, and ordinary patches of the object would
    count; ``times`` asks for more.

    Args:
        patches: ``(B, C, h, w)`` patch tokens of one layer, such as the last block.
        masks: ``(B, H, W)`` bool, True on the object; a patch is background if less than half of
            it is on the object. None to count all patches.
        deviations: number of standard deviations; at 6, one in 1e9 of normal logarithms counts.
        times: the threshold is at least this multiple of the median norm.
    """
    norms = patches.norm(dim=1)
    logs = norms.clamp_min(torch.finfo(norms.dtype).tiny).log()
    centre = logs.median()
    spread = 1.4826 * (logs - centre).abs().median()
    threshold = max(float((centre + deviations * spread).exp()), times * float(centre.exp()))
    counted = torch.ones_like(norms, dtype=torch.bool)
    if masks is not None:
        covered = F.adaptive_avg_pool2d(masks.to(norms)[:, None], norms.shape[-2:])[:, 0]
        counted = covered < 0.5
    # by the threshold as it is reported
    outliers = (norms > threshold) & counted
    share = outliers.sum((-2, -1)).to(norms) / counted.sum((-2, -1))
    return NormOutliers(norms, threshold, share)


def token_drift(before: Tensor, after: Tensor) -> Tensor:
    """Return how far the class token turned between two looks, ``(B,)`` in [0, 2].

    ``1 - cosine`` of the same images' tokens: 0 if unchanged up to a factor, 1 if perpendicular.
    NaN if a token is zero.

    Args:
        before: ``(B, C)`` class tokens, or other features, at the earlier look.
        after: ``(B, C)`` at the later look.
    """
    lengths = before.norm(dim=1) * after.norm(dim=1)
    return 1 - ((before * after).sum(1) / lengths).clamp(-1, 1)
