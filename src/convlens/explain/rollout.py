"""Attention rollout: how attention passes information from the patches to the answer.

Shapes: ``B`` images, ``N`` tokens, ``h w`` grid of patches.

S. Abnar, W. Zuidema, *Quantifying Attention Flow in Transformers*, ACL 2020,
https://arxiv.org/abs/2005.00928
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convlens.explain.attention import Pass, recording, to_grid
from convlens.explain.mode import chunks, prepare_images


def roll_out(weights: Sequence[Tensor]) -> Tensor:
    """Return the rollout ``(B, N, N)`` of the layers' attention; rows sum to 1.

    With ``A`` the mean of a layer's heads, the residual connection counts as half of the layer:

        rollout = A'_L ... A'_2 A'_1,    A' = 0.5 A + 0.5 I, its rows divided by their sum

    Args:
        weights: one ``(B, heads, N, N)`` per layer, the first layer first.
    """
    result = None
    for each in weights:
        mean = each.detach().mean(1)
        mixed = 0.5 * mean + 0.5 * torch.eye(mean.shape[-1]).to(mean)
        mixed = mixed / mixed.sum(-1, keepdim=True)
        result = mixed if result is None else mixed @ result
    if result is None:
        raise ValueError("no layers to roll out")
    return result


def attention_rollout(model: nn.Module, images: Tensor, *, batch: int | None = None) -> Tensor:
    """Return attention rollout for the tokens that the classifier reads, ``(B, h, w)`` in [0, 1].

    This is the row of the class token; the mean of the patches' rows if the classifier reads their
    mean (see ``convlens.explain.attention.Pass.find_reading``). It is the same for every class.

    Args:
        model: the network.
        images: ``(B, C, H, W)``, ready for the network.
        batch: images per forward pass; None for all at once.

    Raises:
        UserError: if the network has other attention than among all tokens of an image.
    """
    with recording(model) as recorder:
        images = prepare_images(model, images)
        parts = [_roll_out_pass(recorder.run(images[part])) for part in chunks(len(images), batch)]
    return torch.cat(parts)


def _roll_out_pass(found: Pass) -> Tensor:
    layers = found.check_square("attention rollout")
    rows, tokens = found.find_reading(), layers[0].places.keys
    assert rows is not None and tokens is not None
    return to_grid(rows.to(found.logits) @ roll_out([each.weights for each in layers]), tokens)
