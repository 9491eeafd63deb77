"""Token occlusion: leave patches out of the sequence, and measure how much a logit falls.

Nothing is painted over, so no baseline colour has to be chosen: the network sees fewer patches.

Shapes: ``B`` images, ``T`` targets per image, ``N`` tokens, ``h w`` grid of patches, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.attention import recording
from convlens.explain.axes import Tokens
from convlens.explain.grad_cam import class_scores, resolve_targets
from convlens.explain.layouts import find_module
from convlens.explain.mode import chunks, explaining, prepare_images
from convlens.explain.occlusion import Occlusion
from convlens.explain.outputs import answering

_ROUNDING = 100  # times the precision, of the largest logit


def token_occlusion(
    model: nn.Module, images: Tensor, targets: Tensor, *, window: int = 1, stride: int = 1,
    batch: int | None = None,
) -> Occlusion:  # fmt: skip
    """Return how much a logit falls when the patches of a window are left out.

    Patches are left out before the first block, where they carry their position. A map's value is
    the mean over all windows that contain the patch. Leaving out patches means the same to the
    network as masking all attention to them (and leaving them out of a mean over patches), but
    takes less time.

    Args:
        model: the network.
        images: ``(B, C, H, W)``, ready for the network.
        targets: ``(B,)`` or ``(B, T)`` classes; -1 for the predicted class, and so on.
        window: patches on each side of a window.
        stride: patches between windows.
        batch: maximum number of shortened sequences per forward pass; None for all at once.

    Returns:
        Maps ``(B, h, w)`` or ``(B, T, h, w)``, signed, on the grid of the patches.

    Raises:
        UserError: if the network knows positions other than by what it adds to the tokens before
            the first block (windows, relative or rotary positions, convolutions), if the window
            does not fit the grid, or if a target is not a class.
    """
    with explaining(model), answering(model), torch.no_grad():
        images = prepare_images(model, images)
        layer, tokens = find_sequence(model, images[:1])
        grid = (tokens.height, tokens.width)
        if not 1 <= stride <= window <= min(grid) or window**2 == grid[0] * grid[1]:
            raise UserError(
                f"token occlusion: window {window}, stride {stride} on a grid of {grid}: choose a "
                f"smaller window, and a stride of 1 up to it"
            )
        logits = torch.cat([model(images[part]) for part in chunks(len(images), batch)])
        asked = targets.detach().to(images.device, torch.long)
        classes = resolve_targets(logits, asked if asked.dim() == 2 else asked[:, None])
        scores = class_scores(logits, classes)
        hidden = _mark_windows(grid, window, stride).to(images.device)
        sums = images.new_zeros(*classes.shape, *grid)
        with _keep_tokens(model, layer) as keep:
            for part in chunks(len(images) * len(hidden), batch):
                indices = torch.arange(part.start, part.stop, device=images.device)
                owners, masks = indices // len(hidden), hidden[indices % len(hidden)]
                keep(_kept_tokens(masks, tokens))
                falls = scores[owners] - class_scores(model(images[owners]), classes[owners])
                sums.index_add_(0, owners, falls[..., None, None] * masks[:, None])
    maps = sums / hidden.sum(0)
    if targets.dim() == 1:
        maps, classes = maps[:, 0], classes[:, 0]
    return Occlusion(maps, logits, classes)


def logits_without(model: nn.Module, images: Tensor, hidden: Tensor) -> Tensor:
    """Return the logits ``(B, K)`` without some patches.

    Args:
        model: the network.
        images: ``(B, C, H, W)``, ready for the network.
        hidden: ``(B, h, w)`` bool, patches to leave out; as many in each image, not all.

    Raises:
        UserError: if patches cannot be left out of the network, see ``token_occlusion``.
    """
    with explaining(model), answering(model), torch.no_grad():
        images = prepare_images(model, images)
        layer, tokens = find_sequence(model, images[:1])
        if hidden.shape != (len(images), tokens.height, tokens.width):
            raise ValueError(f"hidden must be (B, {tokens.height}, {tokens.width})")
        with _keep_tokens(model, layer) as keep:
            keep(_kept_tokens(hidden.to(images.device), tokens))
            return model(images)


def find_sequence(model: nn.Module, image: Tensor) -> tuple[str, Tokens]:
    """Return the first block of a network from which patches can be left out, and its tokens.

    That is so if the order of the patches before that block does not matter: if another order gives
    the same logits, the network knows positions only by what was added to the tokens before.

    Args:
        model: the network.
        image: ``(1, C, H, W)``, ready for the network.

    Raises:
        UserError: if there is no such block.
    """
    with recording(model) as recorder:
        found = recorder.run(image)
        layers = found.check_square("token occlusion")
        block, tokens = layers[0].block, layers[0].places.keys
    assert tokens is not None
    if block is None:
        raise _needs_all_patches(model)
    count = tokens.height * tokens.width
    order = torch.arange(tokens.count)
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    order[tokens.prefix : tokens.prefix + count] = tokens.prefix + shuffled
    with torch.no_grad(), _keep_tokens(model, block.name) as keep:
        keep(order[None].to(image.device))
        logits = model(image)
    scale = found.logits.detach().abs().max()
    tolerance = _ROUNDING * torch.finfo(logits.dtype).eps * scale
    if not bool((logits - found.logits.detach()).abs().max() <= tolerance):
        raise _needs_all_patches(model)
    return block.name, tokens


def _needs_all_patches(model: nn.Module) -> UserError:
    return UserError(
        f"{type(model).__name__} needs all its patches in their places: use occlusion by windows"
    )


def _mark_windows(grid: tuple[int, int], window: int, stride: int) -> Tensor:
    """Return ``(windows, h, w)`` bool: the patches of each window, the last ones at the edge."""
    height, width = grid
    starts = [
        sorted({*range(0, side - window + 1, stride), side - window}) for side in (height, width)
    ]
    masks = torch.zeros(len(starts[0]) * len(starts[1]), height, width, dtype=torch.bool)
    for mask, (top, left) in zip(
        masks, ((t, c) for t in starts[0] for c in starts[1]), strict=True
    ):
        mask[top : top + window, left : left + window] = True
    return masks


def _kept_tokens(hidden: Tensor, tokens: Tokens) -> Tensor:
    """Return ``(B, kept)`` indices of the tokens that stay, from hidden patches ``(B, h, w)``."""
    kept = torch.ones(len(hidden), tokens.count, dtype=torch.bool, device=hidden.device)
    patches = hidden.flatten(1)
    kept[:, tokens.prefix : tokens.prefix + patches.shape[1]] = ~patches
    counts = kept.sum(1)
    if len(hidden) and bool((counts != counts[0]).any()):
        raise ValueError("as many patches must be left out of each image")
    return kept.nonzero()[:, 1].reshape(len(hidden), -1)


@contextmanager
def _keep_tokens(model: nn.Module, layer: str) -> Iterator[Callable[[Tensor], None]]:
    """Make the network keep only some tokens before a layer, inside a ``with`` block.

    Yields:
        Function that sets the indices ``(B, kept)`` of the tokens to keep in the next passes.
    """
    kept: list[Tensor] = []

    def choose(_, args: tuple) -> tuple:
        first, *others = args
        if first.dim() != 3:  # a map, which the block makes into tokens
            raise _needs_all_patches(model)
        indices = kept[0].expand(len(first), -1)[..., None].expand(-1, -1, first.shape[-1])
        return first.gather(1, indices), *others

    with find_module(model, layer).register_forward_pre_hook(choose):
        yield lambda indices: kept.__setitem__(slice(None), [indices])
