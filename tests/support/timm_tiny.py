"""Networks of timm that cost little: a name, a size in pixels, and options that make them small."""

from __future__ import annotations

from convlens.config.compose import compose
from convlens.models import Classifier, build_model

VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SWIN = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}

# one of each kind of features: tokens with a class token, registers, two tokens, only a class
# token, a pooling with weights, a norm in the head; maps with channels last and first
KINDS = {
    "vit_tiny_patch16_224": (32, {"patch_size": 8, **VIT}),
    "vit_small_patch14_reg4_dinov2": (28, VIT),
    "deit_tiny_distilled_patch16_224": (32, {"patch_size": 8, **VIT}),
    "vit_small_patch16_dinov3": (32, VIT),
    "vit_base_patch16_siglip_224": (32, {"patch_size": 8, **VIT}),
    "cait_xxs24_224": (32, VIT),
    "eva02_tiny_patch14_224": (28, VIT),
    "swin_tiny_patch4_window7_224": (64, SWIN),
    "test_coatnet": (64, {}),
}
SPEC = compose(["model=timm", "model.weights=none"]).model


def build_tiny(name: str, outputs: int = 5, **keys) -> Classifier:
    """Build a network of ``KINDS`` with random weights."""
    size, options = KINDS[name]
    spec = SPEC.replace(name=name, options=options, **keys)
    return build_model(spec, channels=3, size=size, outputs=outputs, pretrained=False)
