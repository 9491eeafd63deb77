"""Evaluation mode leaves nothing behind, and finds nothing that belongs to earlier weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convlens.core.evaluation import evaluation_mode
from convlens.explain.mode import explaining


def build_attentions() -> dict[str, nn.Module]:
    """Every layer of timm that keeps its attention biases, each on 4×4 positions."""
    from timm.models import efficientformer, efficientformer_v2, efficientvit_msra, levit, tiny_vit

    few = {"key_dim": 4, "num_heads": 2, "resolution": (4, 4)}
    return {
        "levit": levit.Attention(8, **few),
        "levit down": levit.AttentionDownsample(8, 8, **few),
        "efficientformer": efficientformer.Attention(8, **{**few, "resolution": 4}),
        "efficientformer_v2": efficientformer_v2.Attention2d(8, **few),
        "efficientformer_v2 down": efficientformer_v2.Attention2dDownsample(8, **few),
        "tiny_vit": tiny_vit.Attention(8, 4, num_heads=2, resolution=(4, 4)),
        "efficientvit": efficientvit_msra.CascadedGroupAttention(
            8, 4, 2, attn_ratio=1, resolution=4
        ),
    }


NAMES = ("levit", "levit down", "efficientformer", "efficientformer_v2", "efficientformer_v2 down",
         "tiny_vit", "efficientvit")  # fmt: skip


@pytest.mark.parametrize("mode", [evaluation_mode, explaining])
@pytest.mark.parametrize("name", NAMES)
def test_attention_biases_are_those_of_the_weights(name, mode):
    """Lightning restores flags, too: what its validation computed stays until the next one."""
    torch.manual_seed(0)
    layer = build_attentions()[name]
    shape = (1, 8, 4, 4) if "v2" in name or name == "efficientvit" else (1, 16, 8)
    values = torch.rand(shape)
    layer.eval()
    with torch.no_grad():
        layer(values)
    for module in layer.modules():
        module.training = True
    for key, value in layer.named_parameters():
        if "attention_biases" in key:
            nn.init.normal_(value)
    with mode(layer):
        found = layer(values)
    layer.eval()  # which forgets the biases, too
    assert torch.equal(found, layer(values))
