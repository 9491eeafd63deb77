"""Fused attention: equal seeds give equal bits, and the numbers of the attention written out."""

from __future__ import annotations

import pytest
import timm
import torch

from convlens.training.randomness import seed_batch


def build(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=32, depth=2, num_heads=2,
        num_classes=3, **options,
    )  # fmt: skip


def differentiate(network: torch.nn.Module, batch: int) -> list[torch.Tensor]:
    """Gradients of a loss, after the seeding of a training batch."""
    parameter = next(network.parameters())
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(parameter)
    seed_batch(0, 1, batch, 0, images.device)
    loss = torch.nn.functional.cross_entropy(network(images), torch.arange(8) % 3)
    return list(torch.autograd.grad(loss, list(network.parameters())))


def test_gradients_are_the_same_bits_with_dropout_of_attention_and_paths():
    network = build(drop_path_rate=0.3, attn_drop_rate=0.2, proj_drop_rate=0.1).train()
    assert all(block.attn.fused_attn for block in network.blocks)
    first = differentiate(network, 5)
    for _ in range(3):
        torch.rand(7)  # whatever went on in the process
        assert all(map(torch.equal, first, differentiate(network, 5)))
    assert not all(map(torch.equal, first, differentiate(network, 6)))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gradients_are_those_of_the_attention_written_out(mode):
    network = build().double().train(mode == "train")
    fused = differentiate(network, 0)
    for block in network.blocks:
        block.attn.fused_attn = False
    for one, other in zip(fused, differentiate(network, 0), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
