"""Small networks on tokens with random but fixed weights, and images for them."""

from __future__ import annotations

import timm
import torch
from torch import nn
from torchvision.models import swin_transformer, vision_transformer

from support.explain_networks import seeded

TINY = {"embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}


def images_of(height: int, width: int | None = None, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    size = (count, 3, height, width or height)
    return torch.rand(*size, generator=generator, dtype=torch.float64)


def timm_vit(**options) -> nn.Module:
    settings = {"img_size": (32, 48), "patch_size": 8, "depth": 3, **options}
    return timm.models.VisionTransformer(**{**TINY, **settings})


def timm_swin() -> nn.Module:
    return timm.models.SwinTransformer(
        img_size=(32, 48), patch_size=2, window_size=4, embed_dim=8, depths=(2, 2),
        num_heads=(2, 4), num_classes=3,
    )  # fmt: skip


def timm_hiera() -> nn.Module:
    return timm.models.Hiera(
        img_size=(64, 96), embed_dim=8, num_heads=1, stages=(1, 1, 1, 1), num_classes=3,
        head_init_scale=1.0,
    )  # fmt: skip


def timm_mixer() -> nn.Module:
    return timm.models.MlpMixer(
        num_classes=3, img_size=32, patch_size=8, num_blocks=2, embed_dim=16
    )


def torchvision_vit() -> nn.Module:
    return vision_transformer.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=3)


def torchvision_swin() -> nn.Module:
    return swin_transformer.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=3)


class OwnTransformer(nn.Module):
    """A patch embedding and torch's own encoder, whose fast path calls no layer in it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, 8)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x).flatten(2).transpose(1, 2)).mean(1))


def double(build, **options) -> nn.Module:
    model = seeded(lambda: build(**options)).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in model.parameters():  # timm's heads and scales may start at zero
            if not parameter.any():
                parameter.data.normal_(0, 0.1)
    return model
