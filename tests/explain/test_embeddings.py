"""Embeddings of patches and of positions, against closed forms."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from convlens.core.errors import UserError
from convlens.explain.embeddings import (
    find_positions,
    is_patch_embedding,
    position_similarities,
    principal_kernels,
)
from support.explain_networks import pictures, seeded
from support.token_networks import (
    TINY,
    OwnTransformer,
    double,
    images_of,
    timm_mixer,
    timm_vit,
    torchvision_vit,
)


class OwnVit(timm.models.VisionTransformer):
    """A class of the user, derived from one of timm's."""


def test_principal_kernels_are_those_of_the_covariance():
    module = seeded(lambda: nn.Conv2d(3, 20, 2))
    found = principal_kernels(module, 5)
    rows = module.weight.detach().flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    values, vectors = values.flip(0), vectors.flip(1)
    torch.testing.assert_close(
        found.shares.double(), (values / values.sum())[:5], rtol=1e-5, atol=0
    )
    cosines = (found.kernels.flatten(1).double() * vectors[:, :5].T).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(5).double(), rtol=0, atol=1e-6)
    assert (found.kernels.flatten(1).amax(1) >= -found.kernels.flatten(1).amin(1)).all()
    with pytest.raises(UserError, match="Linear has no kernels"):
        principal_kernels(nn.Linear(2, 2), 3)


@pytest.mark.parametrize(
    ("build", "name", "prefix", "grid"),
    [
        (timm_vit, "pos_embed", 1, (4, 6)),
        (lambda: timm_vit(reg_tokens=2, no_embed_class=True), "pos_embed", 0, (4, 6)),
        (torchvision_vit, "encoder.pos_embedding", 1, (4, 4)),
        (lambda: OwnVit(**TINY, img_size=32, patch_size=8), "pos_embed", 1, (4, 4)),
    ],
)
def test_position_embeddings_are_compared_patch_by_patch(build, name, prefix, grid):
    model = double(build)
    with torch.no_grad():
        model.get_parameter(name).normal_()
    height, width = grid
    found = position_similarities(model, find_positions(model, images_of(8 * height, 8 * width)))
    assert list(found) == [name] and found[name].shape == (*grid, *grid)
    rows = model.get_parameter(name)[0, prefix:].detach()
    expected = F.cosine_similarity(rows[:, None], rows[None], dim=2).view(*grid, *grid)
    torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-9)


def test_networks_without_a_learned_position_embedding_have_no_similarities():
    assert find_positions(seeded(timm_mixer), pictures(1, 32)) == {}
    assert find_positions(seeded(OwnTransformer), pictures(1, 32)) == {}


def test_patch_embeddings_are_the_convolutions_without_overlap():
    assert is_patch_embedding(timm_vit().patch_embed.proj)
    assert is_patch_embedding(nn.Conv2d(3, 8, (4, 2), (4, 2)))
    for other in (nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 7, 4), nn.Conv2d(3, 8, 3), nn.Linear(3, 8)):
        assert not is_patch_embedding(other)
