"""What a vision transformer's embeddings have learned: of patches and of their positions.

Shapes: ``C`` channels, ``D`` width of the embedding, ``N`` components, ``h w`` grid of patches.

A. Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021 (its figure 7),
https://arxiv.org/abs/2010.11929
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlens.explain.axes import AxisTracker, Layout
from convlens.explain.filters import kernels
from convlens.explain.mode import explaining, prepare_images

# library -> the attribute in which its transformers hold their learned position embedding
_POSITIONS = {
    "timm": "pos_embed",
    "torchvision": "pos_embedding",
    "transformers": "position_embeddings",
}


@dataclass(frozen=True, eq=False)
class PrincipalKernels:
    """The principal components of a convolution's kernels.

    Attributes:
        kernels: ``(N, C, kh, kw)``, each of norm one, orthogonal to each other, in descending order
            of variance. Signs are arbitrary: the entry of the largest magnitude is positive.
        shares: ``(N,)`` fraction of the kernels' variance that each explains; all of a layer's
            components sum to 1. NaN if all kernels are equal.
    """

    kernels: Tensor
    shares: Tensor


def principal_kernels(module: nn.Module, count: int) -> PrincipalKernels:
    """Return the principal components of a patch embedding's (or any convolution's) kernels.

    With the kernels as rows of a matrix, from which the mean kernel is subtracted, these are its
    right singular vectors. They show what the kernels have in common: colours, gradients, waves.

    Args:
        module: the convolution.
        count: maximum number of components.

    Raises:
        UserError: if the module is not a two-dimensional convolution.
    """
    weights = kernels(module)
    rows = weights.flatten(1).double()
    _, strengths, components = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    strongest = components.gather(1, components.abs().argmax(1, keepdim=True))
    components = (components * strongest.sign())[:count]
    variances = strengths.square()
    shares = (variances / variances.sum())[:count]
    return PrincipalKernels(
        components.to(weights).view(-1, *weights.shape[1:]), shares.to(weights.dtype)
    )


def is_patch_embedding(module: nn.Module) -> bool:
    """Return whether a module is a convolution that cuts its input into patches side by side.

    >>> is_patch_embedding(nn.Conv2d(3, 8, 16, stride=16)), is_patch_embedding(nn.Conv2d(3, 8, 3))
    (True, False)
    """
    return (
        isinstance(module, nn.Conv2d)
        and module.stride == module.kernel_size
        and max(module.kernel_size) > 1
    )


def find_positions(model: nn.Module, example: Tensor) -> dict[str, Layout]:
    """Return the learned embeddings of positions, and how each lies on the grid of patches.

    An embedding is known by the name under which timm (``pos_embed``), torchvision
    (``pos_embedding``) and transformers (``position_embeddings``) keep it, also in a class that is
    derived from one of theirs, and by what it is added to in a pass, which tells the place of each
    patch. Others, and those resampled to another grid, are left out.

    Args:
        model: the network.
        example: ``(1, C, H, W)`` image for one forward pass.

    Returns:
        Path of the parameter -> its layout.
    """
    found = {
        f"{name}.{attribute}".removeprefix("."): parameter
        for name, module in model.named_modules()
        for attribute in _list_attributes(module)
        if isinstance(parameter := getattr(module, attribute, None), nn.Parameter)
    }
    if not found:
        return {}
    with explaining(model), torch.no_grad():
        images = prepare_images(model, example[:1]).repeat(2, 1, 1, 1)
        tracker = AxisTracker(images)
        with tracker:
            model(images)
        layouts = {name: tracker.layout_added_to(one) for name, one in found.items()}
    return {name: each for name, each in layouts.items() if each is not None and each.is_map}


def _list_attributes(module: nn.Module) -> set[str]:
    """Return the names under which the libraries of a module's class keep an embedding."""
    libraries = {kind.__module__.partition(".")[0] for kind in type(module).__mro__}
    return {_POSITIONS[library] for library in libraries & _POSITIONS.keys()}


def position_similarities(model: nn.Module, positions: Mapping[str, Layout]) -> dict[str, Tensor]:
    """Return how similar the learned embeddings of positions are to each other.

    The result is the cosine of the angle between the embeddings of two patches.

    Args:
        model: the network.
        positions: what ``find_positions`` returned for it.

    Returns:
        Path of the parameter -> ``(h, w, h, w)`` in [-1, 1]: element ``[i, j, k, l]`` compares
        patch ``(i, j)`` with patch ``(k, l)``.
    """
    similarities = {}
    for name, layout in positions.items():
        parameter = model.get_parameter(name).detach()
        maps = layout.channels_first(parameter.expand(2, *parameter.shape[1:]))[0]
        directions = F.normalize(maps.flatten(1).double(), dim=0)
        cosines = (directions.T @ directions).clamp(-1, 1)
        similarities[name] = cosines.view(*maps.shape[1:], *maps.shape[1:]).to(maps.dtype)
    return similarities
