"""A small vision transformer behind a convolutional stem, which timm then knows as ``stem_vit``.

A transformer that cuts images into patches needs far more than some thousand of them to learn
shapes. Here a few convolutions make the tokens; the body is timm's plain ``VisionTransformer``.
T. Xiao et al., *Early Convolutions Help Transformers See Better*, NeurIPS 2021,
https://arxiv.org/abs/2106.14881.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from timm.layers import HybridEmbed
from timm.models import (
    VisionTransformer,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
)
from torch import nn

default_cfgs = generate_default_cfgs({
    "stem_vit": {
        "num_classes": 1000, "input_size": (3, 64, 64), "pool_size": None, "fixed_input_size": True,
        "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear",
        "crop_pct": 1.0, "classifier": "head", "first_conv": "patch_embed.backbone.block1.conv",
    }
})  # fmt: skip


class StemVit(VisionTransformer):
    """timm's vision transformer on the map of a convolutional stem.

    A block of the stem is a 3×3 convolution, batch norm, ReLU and 2×2 max pooling, so n blocks make
    a token of 2**n × 2**n pixels.

    Args:
        stem: output channels of each block.
        in_chans: channels of the images.
        **kwargs: those of ``timm.models.VisionTransformer``.
    """

    def __init__(self, stem: Sequence[int] = (16, 32, 64), in_chans: int = 3, **kwargs):
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (before, after) in enumerate(pairwise((in_chans, *stem)), start=1):
            blocks[f"block{number}"] = nn.Sequential(OrderedDict(
                conv=nn.Conv2d(before, after, 3, padding=1, bias=False),
                norm=nn.BatchNorm2d(after), activation=nn.ReLU(inplace=True), pool=nn.MaxPool2d(2),
            ))  # fmt: skip
        embed = partial(HybridEmbed, backbone=nn.Sequential(blocks))
        super().__init__(in_chans=in_chans, embed_layer=embed, **kwargs)


@register_model
def stem_vit(pretrained: bool = False, **options) -> VisionTransformer:
    """Return three blocks of attention over 8 × 8 tokens, for images of 64 pixels.

    Args:
        pretrained: there are no weights of this network.
        **options: replace what follows.
    """
    plan = dict(
        img_size=64, patch_size=1, embed_dim=96, depth=3, num_heads=4, mlp_ratio=2,
        class_token=False, global_pool="avg",
    )  # fmt: skip
    return build_model_with_cfg(StemVit, "stem_vit", pretrained, **(plan | options))
