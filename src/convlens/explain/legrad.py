"""LeGrad: how much attention to a patch would raise the score of a class, layer by layer.

Shapes: ``B`` images, ``N`` tokens, ``T`` targets per image, ``h w`` grid of patches.

W. Bousselham, A. Boggust, S. Chaybouti, H. Strobelt, H. Kuehne, *LeGrad: An Explainability Method
for Vision Transformers via Feature Formation Sensitivity*, ICCV 2025,
https://arxiv.org/abs/2404.03214
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.attention import Attention, PassRecorder, differentiate, to_grid
from convlens.explain.attention_recorder import Block
from convlens.explain.evidence import ClassMaps, Picker, explain_classes

_ROUNDING = 100  # times the precision, of the largest logit


POOLINGS = ("mean", "network")


def legrad(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    pool: str = "mean",
    batch: int | None = None,
) -> ClassMaps:
    """Return LeGrad maps for the logits of classes.

    The score ``y_l`` of layer ``l`` is the logit of the class if the layers after the last block
    (norm, pooling, classifier) are applied to the tokens after block ``l``. With ``A`` the
    attention of that block,

        map = mean over layers of  mean over heads and queries of ReLU(dy_l / dA_l)

    without the columns of tokens that have no place, such as the class token. The values are
    gradients: the paper rescales a map to [0, 1] to draw it.

    What comes after the last block is not looked up: the network runs once more for each block,
    with the blocks replaced by their recorded outputs and the last one by the tokens of layer l.

    Args:
        model: the network.
        images: ``(B, C, H, W)``, ready for the network.
        targets: ``(B,)`` or ``(B, T)`` classes; -1 for the predicted class, and so on.
        pool: "mean" reads the mean of all tokens, as the authors' code does also where the
            classifier was trained on the class token. "network" reads what the network itself
            reads; if that is the class token, only its row of attention has a gradient.
        batch: images per forward pass; None for all at once.

    Raises:
        UserError: if the network has other attention than among all tokens of an image, if the
            output of a block does not fit the layers after the last block, or a target is not a
            class.
    """

    if pool not in POOLINGS:
        raise UserError(f"LeGrad pools tokens as {' or '.join(POOLINGS)}, not {pool!r}")

    def compute(recorder: PassRecorder, images: Tensor, pick: Picker) -> tuple[Tensor, Tensor]:
        found = recorder.run(images)
        layers = found.check_square("LeGrad")
        tokens = layers[0].places.keys
        assert tokens is not None
        blocks = _check_blocks(layers)
        outputs = [find_tokens(block.output) for block in blocks]
        axis = _find_axis(outputs[-1], tokens.count)
        pick(found.logits)  # ranks are those of the network's own logits
        layer_maps = []
        with _replay(model, blocks, images) as read:
            _check_replay(read(outputs[-1]), found.logits, layers[-1].layer)
            for layer, output in zip(layers, outputs, strict=True):
                if pool == "mean":
                    output = output.mean(axis, keepdim=True).expand_as(output)
                logits = read(output)
                slopes = [differentiate(score, [layer])[0] for score in pick(logits)]
                layer_maps.append(
                    torch.stack([to_grid(each.relu().mean((1, 2)), tokens) for each in slopes], 1)
                )
        return torch.stack(layer_maps).mean(0), found.logits.detach()

    return explain_classes(model, images, targets, compute, batch)


def find_tokens(output) -> Tensor:
    """Return the tensor of tokens that a block returned, alone or first among others.

    Raises:
        UserError: if there is none.
    """
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(first, Tensor):
        raise UserError(f"a block returns a {type(first).__name__} instead of tokens: use grad_cam")
    return first


def _check_blocks(layers: Sequence[Attention]) -> list[Block]:
    """Return the blocks of the layers, if each has its own and all return the same shape."""
    blocks = []
    for layer in layers:
        if layer.block is None or "[" in layer.layer:
            raise UserError(f"LeGrad: {layer.layer!r} is in no block of its own: use relevance")
        blocks.append(layer.block)
    shapes = [tuple(find_tokens(block.output).shape) for block in blocks]
    for block, shape in zip(blocks, shapes, strict=True):
        if shape != shapes[-1]:
            raise UserError(
                f"LeGrad: the output {shape[1:]} of {block.name!r} does not fit the classifier, "
                f"which reads {shapes[-1][1:]}: use grad_cam"
            )
    return blocks


def _find_axis(output: Tensor, count: int) -> int:
    """Return the axis of the tokens in a block's output ``(B, N, C)``."""
    if output.dim() != 3 or output.shape[1] != count:
        shape = tuple(output.shape[1:])
        raise UserError(f"LeGrad: blocks return {shape}, not {count} tokens: use relevance")
    return 1


@contextmanager
def _replay(
    model: nn.Module, blocks: Sequence[Block], images: Tensor
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Replace the blocks by their recorded outputs inside a ``with`` block.

    Yields:
        Function from tokens, which replace the last block's, to the logits.
    """
    current: list[Tensor] = []

    def put(output, tokens: Tensor):
        return tokens if isinstance(output, Tensor) else type(output)([tokens, *output[1:]])

    def replace(block: Block):
        fixed = put(block.output, find_tokens(block.output).detach())
        if block is blocks[-1]:
            return lambda *_, **__: put(block.output, current[-1])
        return lambda *_, **__: fixed

    def read(tokens: Tensor) -> Tensor:
        current[:] = [tokens]
        return model(images)

    modules = [model.get_submodule(block.name) for block in blocks]
    previous = [vars(module).get("forward") for module in modules]
    try:
        for module, block in zip(modules, blocks, strict=True):
            module.forward = replace(block)
        yield read
    finally:
        for module, forward in zip(modules, previous, strict=True):
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _check_replay(again: Tensor, logits: Tensor, layer: str) -> None:
    """Raise a UserError if the layers after the last block do not give the logits again."""
    logits, again = logits.detach(), again.detach()
    tolerance = _ROUNDING * torch.finfo(logits.dtype).eps * logits.abs().max()
    if again.shape != logits.shape or not bool((again - logits).abs().max() <= tolerance):
        raise UserError(
            f"LeGrad: the logits do not come from the block of {layer!r}: use relevance"
        )
