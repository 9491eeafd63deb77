"""Attention maps: what the attention of a network looks at.

Shapes: ``B`` images, ``N`` queries, ``M`` keys, ``h w`` grid of patches, ``K`` classes.

Attention shows from where a block reads, not what the network concludes from it: it is the same for
every class (S. Jain, B. Wallace, *Attention is not Explanation*, NAACL 2019,
https://arxiv.org/abs/1902.10186). For evidence see ``convlens.explain.legrad``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.explain.attention_recorder import Block, Places, Recorded, Recorder
from convlens.explain.axes import Tokens
from convlens.explain.mode import chunks, explaining, prepare_images, switch_off
from convlens.explain.outputs import answering


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention in one pass.

    Attributes:
        layer: path of the module that computes it; "path[2]" for its second call.
        weights: ``(B, heads, N, M)``, rows sum to 1. In windows they have the order of the network,
            such as ``(B * windows, heads, n, n)``.
        places: where queries and keys lie on the image.
        source: the same numbers on the path to the logits, for gradients; see ``differentiate``.
        block: the part of the network around it; None if no module contains it alone.
    """

    layer: str
    weights: Tensor
    places: Places
    source: Tensor
    block: Block | None

    @property
    def is_square(self) -> bool:
        """Whether the queries are the keys: self-attention among all tokens of an image."""
        return self.places.keys is not None and self.places.queries == self.places.keys

    def receive(self, rows: Tensor | None = None) -> Tensor:
        """Return how much attention each position gets, ``(B, heads, h, w)``, at least 0.

        Args:
            rows: ``(N,)`` weight of each query; None for the mean of all queries, as in windows and
                where the queries are others.

        Raises:
            UserError: if it is not known where the keys lie.
        """
        weights, places = self.weights.detach(), self.places
        if places.windows is not None:
            return places.windows.gather(weights.mean(-2))
        if places.keys is None:
            raise UserError(f"{self.layer!r} {places.reason}: choose another layer")
        if rows is None or len(rows) != weights.shape[-2]:
            return to_grid(weights.mean(-2), places.keys)
        return to_grid((weights * rows.to(weights)[:, None]).sum(-2), places.keys)


def to_grid(values: Tensor, tokens: Tokens) -> Tensor:
    """Return the patches among ``values`` ``(…, tokens)`` as maps ``(…, h, w)``."""
    patches = values.narrow(-1, tokens.prefix, tokens.height * tokens.width)
    return patches.unflatten(-1, (tokens.height, tokens.width))


@dataclass(frozen=True, eq=False)
class Pass:
    """One recorded forward pass.

    Attributes:
        logits: ``(B, K)``, with the graph of the pass.
        attentions: the attentions in the order of the pass; at least one.
        unread: paths of modules with a softmax like that of attention, of which it is not known
            what it mixes.
    """

    logits: Tensor
    attentions: tuple[Attention, ...]
    unread: tuple[str, ...]

    def find_reading(self) -> Tensor | None:
        """Return how the classifier reads the tokens: ``(N,)`` weights that sum to 1.

        1 for the class token, equal weights for the patches if their mean is read; half of each if
        both are read. A token is read if the logits depend on its row of the last self-attention.
        None if there is no self-attention among all tokens of an image.
        """
        square = [each for each in self.attentions if each.is_square]
        if not square:
            return None
        generator = torch.Generator().manual_seed(0)
        mixed = torch.randn(self.logits.shape, generator=generator).to(self.logits)
        (slope,) = differentiate((self.logits * mixed).sum(), square[-1:])
        is_read = slope.abs().amax((0, 1, 3)) > 0
        keys = square[-1].places.keys
        assert keys is not None
        is_patch = torch.zeros_like(is_read)
        is_patch[keys.prefix : keys.prefix + keys.height * keys.width] = True
        parts = [part for part in (is_read & ~is_patch, is_read & is_patch) if part.any()]
        none = torch.zeros(is_read.shape).to(self.logits)
        return sum((part.to(none) / part.sum() for part in parts), none) / max(1, len(parts))

    def check_square(self, method: str) -> list[Attention]:
        """Return the attentions, if each is self-attention among the same tokens.

        Raises:
            UserError: if one is not; the message names ``method``.
        """
        if self.unread:
            raise UserError(f"{method}: what {self.unread[0]!r} mixes is not known: use grad_cam")
        first = self.attentions[0]
        for each in self.attentions:
            if not each.is_square or each.places.keys != first.places.keys:
                what = each.places.reason or "does not attend among all tokens of the image"
                raise UserError(f"{method}: {each.layer!r} {what}: use grad_cam")
        return list(self.attentions)


def differentiate(score: Tensor, attentions: Sequence[Attention]) -> list[Tensor]:
    """Return the gradients of a score with respect to the weights, in their shape.

    The graph is kept. Where the score does not depend on weights, their gradient is 0.
    """
    found = torch.autograd.grad(
        score, [each.source for each in attentions], retain_graph=True, allow_unused=True
    )
    return [
        torch.zeros_like(each.weights) if slope is None else slope.reshape(each.weights.shape)
        for each, slope in zip(attentions, found, strict=True)
    ]


class PassRecorder:
    """Runs a network and records its attention; see ``recording``."""

    def __init__(self, recorder: Recorder):
        self._recorder = recorder

    def run(self, images: Tensor) -> Pass:
        """Record one pass.

        Args:
            images: ``(B, C, H, W)``, ready for the network.

        Raises:
            UserError: if the network has no attention with a matrix of weights.
        """
        logits = self._recorder.run(images)
        found, blocks, unread = (
            self._recorder.found, self._recorder.blocks, self._recorder.unread
        )  # fmt: skip
        if not found:
            raise UserError(
                f"{type(self._recorder.model).__name__} has no attention with a matrix of weights: "
                "use grad_cam"
            )
        pairs = zip(found, blocks, strict=True)
        return Pass(logits, tuple(_make(each, block) for each, block in pairs), tuple(unread))


def _make(each: Recorded, block: Block | None) -> Attention:
    shape = each.places.shape or each.weights.shape
    return Attention(each.layer, each.weights.reshape(shape), each.places, each.weights, block)


@contextmanager
def recording(model: nn.Module) -> Iterator[PassRecorder]:
    """Record the attention of a network's passes inside a ``with`` block.

    Fused attention is replaced by its definition while a pass is recorded; the outputs are equal up
    to rounding. Afterwards the network is unchanged, see ``convlens.explain.explaining``.

    Args:
        model: the network.

    Raises:
        UserError: if the network is scripted, so that nothing can be seen inside it.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise UserError("attention inside a scripted network cannot be seen: pass the nn.Module")
    recorder = Recorder(model)
    with explaining(model), answering(model), ExitStack() as stack:
        # a checkpointed block runs again in the backward pass, when nothing is recorded
        stack.enter_context(switch_off(model.modules(), "grad_checkpointing"))
        for path, module in model.named_modules():
            stack.enter_context(
                module.register_forward_pre_hook(
                    lambda _, args, path=path: recorder.enter(path, args), prepend=True
                )
            )
            stack.enter_context(
                module.register_forward_hook(
                    lambda _, args, output, path=path: recorder.leave(path, output),
                    always_call=True,
                )
            )
        yield PassRecorder(recorder)


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention of each layer and head for a batch of images; detached.

    Attributes:
        maps: layer -> ``(B, heads, h, w)``, at least 0: the share of its attention that the class
            token gives to each patch; the mean over the patches' shares if the classifier reads
            their mean. In windows: the attention that a position gets in its window, mean of all
            queries. What goes to tokens without a place is missing from the sum.
        weights: layer -> ``(B, heads, N, M)``, for layers that attend among all tokens.
        tokens: layer -> how its keys lie on the image, for the same layers.
        reading: how the classifier reads the tokens, see ``Pass.find_reading``.
        logits: ``(B, K)``.
        refused: layer -> why it has no maps.
    """

    maps: dict[str, Tensor]
    weights: dict[str, Tensor]
    tokens: dict[str, Tokens]
    reading: Tensor | None
    logits: Tensor
    refused: dict[str, str]

    def stack(self) -> Tensor:
        """Return the maps of all layers, ``(B, L, heads, h, w)``.

        Raises:
            ValueError: if their sizes differ.
        """
        shapes = {tuple(each.shape) for each in self.maps.values()}
        if len(shapes) != 1:
            raise ValueError(f"maps of {len(shapes)} sizes cannot be stacked")
        return torch.stack(list(self.maps.values()), 1)


def attention_maps(model: nn.Module, images: Tensor, *, batch: int | None = None) -> AttentionMaps:
    """Return what the attention of each layer looks at.

    Args:
        model: the network.
        images: ``(B, C, H, W)``, ready for the network.
        batch: images per forward pass; None for all at once.

    Raises:
        UserError: if the network has no attention over positions.
    """
    with recording(model) as recorder:
        images = prepare_images(model, images)
        parts = [_read_maps(recorder.run(images[part])) for part in chunks(len(images), batch)]
    first = parts[0]
    if not first.maps:
        layer, reason = next(iter(first.refused.items()))
        raise UserError(f"no attention over positions: {layer!r} {reason}; use grad_cam")

    def join(field: str) -> dict[str, Tensor]:
        return {
            layer: torch.cat([getattr(part, field)[layer] for part in parts])
            for layer in getattr(first, field)
        }

    return AttentionMaps(
        join("maps"), join("weights"), first.tokens, first.reading,
        torch.cat([part.logits for part in parts]), first.refused,
    )  # fmt: skip


def _read_maps(found: Pass) -> AttentionMaps:
    rows = found.find_reading()
    maps, weights, tokens = {}, {}, {}
    refused = dict.fromkeys(found.unread, "is no attention with a matrix of weights")
    for each in found.attentions:
        try:
            maps[each.layer] = each.receive(rows)
        except UserError:
            refused[each.layer] = each.places.reason
            continue
        if each.places.keys is not None:
            weights[each.layer] = each.weights.detach()
            tokens[each.layer] = each.places.keys
    return AttentionMaps(maps, weights, tokens, rows, found.logits.detach(), refused)


def choose_attention(
    found: AttentionMaps, patterns: str | Sequence[str], limit: int | None
) -> list[str]:
    """Return the layers of attention that match, in the order of the pass.

    Args:
        found: the attention of a network.
        patterns: ``auto``, a name, a glob, or a list of them.
        limit: maximum number of layers with ``auto``, spread over the depth; None for all.

    Raises:
        UserError: a pattern matches no layer with maps.
    """
    names = list(found.maps)
    if patterns == "auto" or list(patterns) == ["auto"]:
        count = len(names) if limit is None else min(limit, len(names))
        return [names[round(i * (len(names) - 1) / max(1, count - 1))] for i in range(count)]
    chosen: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = [name for name in names if name == pattern or fnmatchcase(name, pattern)]
        if pattern in found.refused:
            raise UserError(f"attention of {pattern!r}: {found.refused[pattern]}")
        if not matches:
            raise UserError(f"no layer of attention matches {pattern!r}: {nearest(pattern, names)}")
        chosen.update(matches)
    return [name for name in names if name in chosen]
