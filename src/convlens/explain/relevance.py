"""Gradient-weighted attention relevance: which patches the attention uses for a class.

Shapes: ``B`` images, ``N`` tokens, ``T`` targets per image, ``h w`` grid of patches.

H. Chefer, S. Gur, L. Wolf, *Generic Attention-model Explainability for Interpreting Bi-Modal and
Encoder-Decoder Transformers*, ICCV 2021, https://arxiv.org/abs/2103.15679
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convlens.explain.attention import differentiate, to_grid
from convlens.explain.evidence import ClassMaps, explain_classes


def propagate_relevance(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Return the relevance ``(B, N, N)`` of each token (column) for each token (row).

    From ``R = I``, for each self-attention layer, the first layer first:

        R = R + mean over heads of ReLU(dy/dA * A)  R

    Args:
        weights: one ``A`` ``(B, heads, N, N)`` per layer.
        gradients: ``dy/dA`` of the class's logit, in the same shapes.
    """
    count = weights[0].shape[-1]
    result = torch.eye(count).to(weights[0]).expand(len(weights[0]), count, count)
    for each, slope in zip(weights, gradients, strict=True):
        result = result + (slope * each).relu().mean(1) @ result
    return result


def relevance(
    model: nn.Module, images: Tensor, targets: Tensor, *, batch: int | None = None
) -> ClassMaps:
    """Return the relevance of each patch for the logit of a class.

    This is the row of the class token in ``propagate_relevance``; the mean of the patches' rows if
    the classifier reads their mean (see ``convlens.explain.attention.Pass.find_reading``).

    Args:
        model: the network.
        images: ``(B, C, H, W)``, ready for the network.
        targets: ``(B,)`` or ``(B, T)`` classes; -1 for the predicted class, and so on.
        batch: images per forward pass; None for all at once.

    Raises:
        UserError: if the network has other attention than among all tokens of an image, or a target
            is not a class.
    """

    def compute(recorder, images: Tensor, pick):
        found = recorder.run(images)
        layers = found.check_square("relevance")
        rows, tokens = found.find_reading(), layers[0].places.keys
        assert rows is not None and tokens is not None
        maps = []
        for score in pick(found.logits):
            slopes = differentiate(score, layers)
            spread = propagate_relevance([each.weights.detach() for each in layers], slopes)
            maps.append(to_grid(rows.to(spread) @ spread, tokens))
        return torch.stack(maps, 1), found.logits.detach()

    return explain_classes(model, images, targets, compute, batch)
