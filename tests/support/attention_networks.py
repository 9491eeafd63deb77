"""Small transformers with random but fixed weights, and the attention that timm writes out."""

from __future__ import annotations

import timm
import torch
import torchvision
from torch import Tensor, nn

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
SWIN = {"patch_size": 2, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}


def _timm(name: str, **options):
    return lambda: timm.create_model(name, num_classes=3, **{**SMALL, **options})


def _torchvision() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64,
        num_classes=3,
    )  # fmt: skip


class Logits(nn.Module):
    """A network of transformers that returns its logits."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


def transformers_network(kind: str, attention: str = "sdpa") -> nn.Module:
    """Return an image classifier of transformers: ViT, Dinov2 or Dinov2WithRegisters."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=32, patch_size=8, num_labels=3, attn_implementation=attention,
    )  # fmt: skip
    return Logits(getattr(transformers, f"{kind}ForImageClassification")(config))


PLAIN = {
    "vit": _timm("vit_tiny_patch16_224"),
    "deit": _timm("deit_tiny_distilled_patch16_224"),
    "mean": _timm("vit_tiny_patch16_224", global_pool="avg", class_token=False),
    "registers": _timm("vit_small_patch14_reg4_dinov2"),
    "beit": _timm("beit_base_patch16_224"),
    "eva": _timm("eva02_tiny_patch14_224"),
    "torchvision": _torchvision,
}
WINDOWED = {
    "timm": lambda: timm.models.SwinTransformer(
        img_size=32, window_size=4, num_classes=3, **SWIN
    ),
    "torchvision": lambda: torchvision.models.SwinTransformer(
        window_size=[4, 4], num_classes=3, **{k: [*v] if k != "embed_dim" and k != "patch_size"
                                              else [v, v] if k == "patch_size" else v
                                              for k, v in SWIN.items()},
    ),
}  # fmt: skip


def lively_network(build, seed: int = 0) -> nn.Module:
    """Build a network in float64 whose vectors (biases, tokens, positions) are not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().double().eval()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


def timm_attention(model: nn.Module, images: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Return a plain timm ViT's own attention, what its blocks return, and its logits.

    ``fused_attn`` is switched off, and the input of ``attn_drop`` is read.
    """
    weights, outputs, handles = [], [], []
    for block in model.blocks:
        block.attn.fused_attn = False
        handles.append(
            block.attn.attn_drop.register_forward_hook(lambda _, args, out: weights.append(args[0]))
        )
        handles.append(block.register_forward_hook(lambda _, args, out: outputs.append(out)))
    logits = model(images)
    for handle in handles:
        handle.remove()
    return weights, outputs, logits
