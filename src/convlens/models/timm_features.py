"""What the features of a network of timm are, and how timm's own classifier reads them.

Legend: ``B`` images, ``C`` channels, ``h w`` height and width of a map, ``L`` tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.models.features import FeatureLayout, TokenPool

# the errors of a forward pass for which the network, or the size of the images, is to blame
FAILURES = (
    RuntimeError, ValueError, AssertionError, TypeError, LookupError, ArithmeticError,
    AttributeError,
)  # fmt: skip


def check_features(network: nn.Module, name: str, features: object) -> None:
    """Raise a UserError if features are neither one map nor one sequence of tokens."""
    is_tensor = isinstance(features, Tensor) and features.dim() in (3, 4)
    if not is_tensor or features.shape[_find_axis(network, features)] != network.num_features:
        raise _features_error(name)


def _features_error(name: str) -> UserError:
    return UserError(
        f"model.name={name}: its features are neither one map nor one sequence of tokens; choose "
        f"another, such as vit_small_patch16_224 or convnext_tiny"
    )


def _find_axis(network: nn.Module, features: Tensor) -> int:
    """Return the axis of the channels; timm's ``output_fmt`` says it of maps."""
    order = str(getattr(network, "output_fmt", "NCHW")).removeprefix("Format.")
    return 1 if features.dim() == 4 and order == "NCHW" else -1


def read_layout(
    network: nn.Module, name: str, images: Tensor, features: Tensor, norm: nn.Module | None
) -> FeatureLayout:
    """Return how the features of a network lie, from what timm says of it, and computes.

    Args:
        network: timm's network.
        name: its name, for messages.
        images: (B, C, H, W).
        features: what ``forward_features`` computes from them.
        norm: from ``find_norm``.

    Raises:
        UserError: it is unknown which tokens are patches.
    """
    if features.dim() == 4:
        return FeatureLayout(_find_axis(network, features))
    grid = _find_grid(network, images, features)
    class_token = getattr(network, "cls_token", None)
    prefix = getattr(network, "num_prefix_tokens", None)
    if prefix is None and grid is not None:
        prefix = features.shape[1] - grid[0] * grid[1]
    elif prefix is None and class_token is not None and class_token.shape[-2] == features.shape[1]:
        prefix = features.shape[1]  # nothing but class tokens
    elif prefix is None:
        if not _is_read(network, features, features.mean(dim=1), norm):
            raise _features_error(name)
        prefix = 0  # timm's own classifier averages all tokens
    return FeatureLayout(-1, prefix, prefix > 0 and class_token is not None, grid)


def _find_grid(network: nn.Module, images: Tensor, features: Tensor) -> tuple[int, int] | None:
    """Return rows and columns of the patches, if timm's map of the features has the same values."""
    if not hasattr(network, "forward_intermediates"):
        return None
    try:
        maps = network.forward_intermediates(
            images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )[-1]
    except FAILURES:
        return None
    patches = features[:, -maps.shape[-2] * maps.shape[-1] :]
    same = patches.transpose(1, 2).reshape(maps.shape) if patches.numel() == maps.numel() else None
    return tuple(maps.shape[-2:]) if same is not None and torch.allclose(same, maps) else None


def find_norm(
    network: nn.Module, rest: list[str], features: Tensor
) -> tuple[nn.Module | None, int]:
    """Return the norm that is the first layer with parameters in timm's classifier.

    Returns:
        The norm, or None, and the number of axes of its input.
    """
    calls: list[tuple[nn.Module, int]] = []
    handles = [
        module.register_forward_pre_hook(
            lambda module, inputs: calls.append((module, inputs[0].dim()))
        )
        for name in rest
        for module in network.get_submodule(name).modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    try:
        network.forward_head(features)
    finally:
        for handle in handles:
            handle.remove()
    if calls and _is_norm(calls[0][0]):
        return calls[0]
    return None, 0


def _is_norm(module: nn.Module) -> bool:
    """Return whether a module is a normalisation: its parameters are vectors, one value each."""
    from timm.layers import RmsNorm, SimpleNorm

    kinds = (
        RmsNorm,
        SimpleNorm,
        nn.LayerNorm,
        nn.GroupNorm,
        nn.RMSNorm,
        nn.modules.batchnorm._BatchNorm,
    )
    return isinstance(module, kinds)


def find_pooling(
    network: nn.Module, features: Tensor, layout: FeatureLayout, norm: nn.Module | None
) -> str:
    """Return how timm's classifier reduces tokens, by comparing what it computes."""
    ways = ["class"] * layout.has_class_token + ["mean"] * (features.shape[1] > layout.prefix)
    for how in ways:
        if _is_read(network, features, TokenPool(how, layout.prefix)(features), norm):
            return how
    return "own"


def _is_read(network: nn.Module, features: Tensor, pooled: Tensor, norm: nn.Module | None) -> bool:
    """Return whether timm's classifier reads ``pooled``, normalised or not, of ``features``."""
    wanted = network.forward_head(features, pre_logits=True)
    results = [pooled] if norm is None else [norm(pooled), pooled]
    return any(r.shape == wanted.shape and torch.allclose(r, wanted, atol=1e-6) for r in results)
