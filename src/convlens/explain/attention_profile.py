"""Score the attention of every layer and the tokens after the last block, in one pass.

Shapes: ``B`` images, ``N`` tokens, ``C`` channels, ``h w`` grid of patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, isnan

import torch
from torch import Tensor, nn

from convlens.explain.attention import Attention, Pass, recording, to_grid
from convlens.explain.attention_scores import attention_distance, head_diversity, head_entropy
from convlens.explain.legrad import find_tokens
from convlens.explain.mode import chunks, image_size, prepare_images


@dataclass(frozen=True, eq=False)
class AttentionProfile:
    """Scores of the attention of each layer, means over images, heads and queries.

    Attributes:
        entropy: layer -> how evenly a head spreads its attention, in [0, 1]; see ``head_entropy``.
        diversity: layer -> how differently its heads look, in [0, 1]; see ``head_diversity``.
            Layers with a single head are missing.
        distance: layer -> how far a patch looks, as a fraction of the image's diagonal, in [0, 1];
            see ``attention_distance``. Only layers that attend among all tokens of an image.
        patches: ``(B, C, h, w)`` tokens of the patches after the last block; None if not all of the
            attention is among all tokens of an image.
        read: ``(B, C)`` what the classifier reads of these tokens: the class token, their mean, or
            the mean of both; None likewise.
        layer: the block that returned the tokens; empty if there are none.
    """

    entropy: Mapping[str, float]
    diversity: Mapping[str, float]
    distance: Mapping[str, float]
    patches: Tensor | None
    read: Tensor | None
    layer: str


def profile_attention(
    model: nn.Module, images: Tensor, *, batch: int | None = None
) -> AttentionProfile:
    """Return the scores of all layers for some images.

    Args:
        model: the network.
        images: ``(B, C, H, W)``, ready for the network.
        batch: images per forward pass; None for all at once.

    Raises:
        UserError: if the network has no attention with a matrix of weights.
    """
    diagonal = hypot(*image_size(images))
    sums: list[dict[str, dict[str, float]]] = []
    tokens: list[tuple[Tensor, Tensor, str] | None] = []
    with recording(model) as recorder:
        images = prepare_images(model, images)
        for part in chunks(len(images), batch):
            found = recorder.run(images[part])
            share = len(images[part]) / len(images)
            scores = [_score(each, image_size(images), diagonal) for each in found.attentions]
            sums.append(
                {
                    name: {
                        each.layer: share * values[name]
                        for each, values in zip(found.attentions, scores, strict=True)
                        if name in values
                    }
                    for name in ("entropy", "diversity", "distance")
                }
            )
            tokens.append(_read_tokens(found))
    patches = read = None
    known = [each for each in tokens if each is not None]
    if len(known) == len(tokens):
        patches = torch.cat([each[0] for each in known])
        read = torch.cat([each[1] for each in known])
    entropy, diversity, distance = (
        _add([part[name] for part in sums]) for name in ("entropy", "diversity", "distance")
    )
    layer = known[0][2] if patches is not None else ""
    return AttentionProfile(entropy, diversity, distance, patches, read, layer)


def _score(each: Attention, size: tuple[int, int], diagonal: float) -> dict[str, float]:
    """Return the scores of one attention by name; those that it has not are missing."""
    weights, places, found = each.weights.detach(), each.places, {}
    if places.windows is not None:
        heads = places.windows.heads
        weights = weights.unsqueeze(-3) if heads is None else weights.movedim(heads, -3)
        weights = weights.flatten(0, -4)
    elif places.keys is None:
        return {}
    found["entropy"] = float(head_entropy(weights).mean())
    diversity = float(head_diversity(weights).mean())
    if not isnan(diversity):
        found["diversity"] = diversity
    if each.is_square:
        assert places.keys is not None
        found["distance"] = float(attention_distance(weights, places.keys, size).mean()) / diagonal
    return found


def _add(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {layer: sum(part[layer] for part in parts) for layer in parts[0]}


def _read_tokens(found: Pass) -> tuple[Tensor, Tensor, str] | None:
    """Return patches ``(B, C, h, w)``, what is read ``(B, C)``, and the block; None if unknown."""
    last = found.attentions[-1]
    if found.unread or last.block is None or not all(each.is_square for each in found.attentions):
        return None
    places, output = last.places.keys, find_tokens(last.block.output).detach()
    rows = found.find_reading()
    assert places is not None and rows is not None
    if output.dim() != 3 or output.shape[1] != places.count:
        return None
    patches = to_grid(output.transpose(1, 2), places)
    return patches, rows.to(output) @ output, last.block.name
