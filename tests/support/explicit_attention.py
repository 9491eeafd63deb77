"""Attention methods from the papers' formulas, on the attention that a network writes out itself.

timm's fused attention is switched off; then every attention is a softmax over the last axis.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convlens.models import Classifier
from convlens.models.features import TokenPool


@contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """Switch timm's fused attention off inside a ``with`` block."""
    fused = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True


class Softmaxes(TorchFunctionMode):
    """Keeps the result of each softmax over the last of three or more axes; may hide keys.

    Args:
        hidden: ``(B, M)`` bool, keys that no query sees; None for none.
    """

    def __init__(self, hidden: Tensor | None = None):
        super().__init__()
        self.hidden, self.weights = hidden, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") != "softmax" or args[0].dim() < 3:
            return func(*args, **kwargs)
        scores, *others = args
        if self.hidden is not None:
            lead = (1,) * (scores.dim() - 2)
            hidden = self.hidden.reshape(len(self.hidden), *lead, -1)
            scores = scores.masked_fill(hidden, -torch.inf)
        self.weights.append(func(scores, *others, **kwargs))
        return self.weights[-1]


class Explicit:
    """One pass of a plain transformer with its blocks in ``blocks``.

    Attributes:
        weights: one ``(B, heads, N, N)`` per attention, with a graph.
        outputs: what each block returned ``(B, N, C)``, with the same graph.
    """

    def __init__(self, model: Classifier, images: Tensor):
        self.model, self.images = model, images
        blocks = [
            (name, module)
            for name, module in model.backbone.named_modules()
            if re.fullmatch(r"(network\.)?(encoder\.)?blocks\.\d+", name)
        ]
        self.last = blocks[-1][0] if blocks else ""
        self.outputs: list[Tensor] = []
        handles = [
            module.register_forward_hook(lambda _, given, output: self.outputs.append(output))
            for _, module in blocks
        ]
        with unfused(model), Softmaxes() as found:
            self.logits = model(images.clone().requires_grad_())
        for handle in handles:
            handle.remove()
        if not all(isinstance(output, Tensor) for output in self.outputs):
            self.outputs = []
        self.weights: list[Tensor] = found.weights

    def read(self, tokens: Tensor) -> Tensor:
        """The logits from tokens after the last block."""
        backbone = self.model.backbone
        links = backbone.link_names
        if self.last in links:
            after = links.index(self.last) + 1
        else:  # in one link, which may end with a norm (beit, eva, vision_transformer_relpos)
            norm = getattr(getattr(backbone, "network", None), "norm", nn.Identity())
            tokens, after = norm(tokens), 1
        return self.model.head(backbone.run(tokens, after, len(links)))

    def read_rows(self, last: Tensor | None = None) -> Tensor:
        """``(N,)`` weights of the tokens after the last block from which the logits are computed.

        1 in all for the tokens without place, or for the patches; half for each if both are read.

        Args:
            last: the last attention among all tokens, whose rows tell it where blocks return none.
        """
        mixed = self.logits * torch.randn(
            self.logits.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
        )
        last = self.weights[-1] if last is None else last
        source = self.outputs[-1] if self.outputs else last
        axis = 1 if self.outputs else last.dim() - 2
        axes = [each for each in range(source.dim()) if each != axis]
        (slope,) = torch.autograd.grad(mixed.sum(), source, retain_graph=True)
        is_read = (slope.abs().amax(axes) > 0).double()
        prefix = self.count_prefix(len(is_read))
        is_read[:prefix] /= is_read[:prefix].sum().clamp_min(1)
        is_read[prefix:] /= is_read[prefix:].sum().clamp_min(1)
        return is_read / is_read.sum()

    def count_prefix(self, count: int) -> int:
        """How many of so many tokens come before the patches, which fill a square."""
        return count - int(count**0.5) ** 2

    def to_grid(self, tokens: Tensor) -> Tensor:
        patches = tokens[..., self.count_prefix(tokens.shape[-1]) :]
        side = int(patches.shape[-1] ** 0.5)
        return patches.unflatten(-1, (side, side))

    def roll_out(self) -> Tensor:
        eye = torch.eye(self.weights[0].shape[-1], dtype=torch.float64)
        result = eye
        for each in self.weights:
            mixed = 0.5 * each.detach().mean(1) + 0.5 * eye
            result = (mixed / mixed.sum(-1, keepdim=True)) @ result
        return self.to_grid(self.read_rows() @ result)

    def propagate(self, targets: Tensor) -> Tensor:
        maps = []
        for image, target in enumerate(targets):
            slopes = torch.autograd.grad(
                self.logits[image, target], self.weights, retain_graph=True
            )
            spread = torch.eye(self.weights[0].shape[-1], dtype=torch.float64)
            for each, slope in zip(self.weights, slopes, strict=True):
                step = torch.zeros_like(spread)
                for head in range(each.shape[1]):
                    step += (slope[image, head] * each[image, head].detach()).clamp_min(0)
                spread = spread + step / each.shape[1] @ spread
            maps.append(self.to_grid(self.read_rows() @ spread))
        return torch.stack(maps)

    def legrad(self, targets: Tensor) -> Tensor:
        maps = []
        for image, target in enumerate(targets):
            total = 0
            for each, output in zip(self.weights, self.outputs, strict=True):
                tokens = output.mean(1, keepdim=True).expand_as(output)
                score = self.read(tokens)[image, target]
                (slope,) = torch.autograd.grad(score, each, retain_graph=True)
                layer = slope[image].clamp_min(0).mean(0).mean(0)
                total = total + self.to_grid(layer) / len(self.weights)
            maps.append(total)
        return torch.stack(maps)

    def leave_out(self, targets: Tensor) -> Tensor:
        """The fall of the logits if no token sees a patch, nor any mean includes it."""
        count = self.weights[-1].shape[-1]
        prefix, falls = self.count_prefix(count), []
        for patch in range(prefix, count):
            gone = torch.arange(count) == patch
            fall = self.logits - self._logits_without(gone)
            falls.append(fall[range(len(targets)), targets].detach())
        side = int((count - prefix) ** 0.5)
        return torch.stack(falls, 1).unflatten(1, (side, side))

    def _logits_without(self, gone: Tensor) -> Tensor:
        def mean(pool, given, output):
            if pool.how == "mean":
                kept = ~gone
                kept[: pool.prefix] = False
                return given[0][:, kept].mean(1)
            return output

        pools = [module for module in self.model.modules() if isinstance(module, TokenPool)]
        handles = [pool.register_forward_hook(mean) for pool in pools]
        hidden = gone.expand(len(self.images), -1)
        with torch.no_grad(), unfused(self.model), Softmaxes(hidden):
            logits = self.model(self.images)
        for handle in handles:
            handle.remove()
        return logits
