"""AttnLRP: relevance of pixels, propagated layer by layer through attention, by the library lxt.

R. Achtibat et al., *AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers*,
ICML 2024, https://arxiv.org/abs/2402.05602

Shapes: ``B`` images, ``C`` channels, ``H W`` their size, ``T`` targets per image.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.grad_cam import pick_scores, resolve_targets
from convlens.explain.mode import explaining, prepare_images
from convlens.explain.outputs import answering

_PATCHED = (nn.GELU, nn.LayerNorm, nn.MultiheadAttention)


def attn_lrp(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return the relevance of each pixel for the logit of a class, ``(B, T, H, W)``, signed.

    The sum over the channels of the relevance, which lxt computes as input times modified gradient.
    lxt supports torchvision's ``VisionTransformer``, with its variant of the rules for attention
    through which only the values carry relevance (CP-LRP inside the attention).

    Args:
        model: a torchvision ``VisionTransformer``, or a network that holds one.
        images: ``(B, C, H, W)``, ready for the network.
        targets: ``(B,)`` or ``(B, T)`` classes; -1 for the predicted class, and so on.

    Raises:
        UserError: if lxt is not installed or does not support the network, or a target is not a
            class.
    """
    from torchvision.models import VisionTransformer

    if not any(isinstance(module, VisionTransformer) for module in model.modules()):
        raise UserError(
            f"attn_lrp supports torchvision's VisionTransformer, not {type(model).__name__}: use "
            "legrad or relevance"
        )
    asked = targets if targets.dim() == 2 else targets[:, None]
    with explaining(model), answering(model), _rules_of_lxt():
        images = prepare_images(model, images).requires_grad_()
        logits = model(images)
        classes = resolve_targets(logits.detach(), asked.to(images.device, torch.long))
        scores = pick_scores(logits, classes)
        maps = []
        for t in range(classes.shape[1]):
            (slope,) = torch.autograd.grad(scores[:, t].sum(), images, retain_graph=True)
            maps.append((images * slope).sum(1).detach())
    return torch.stack(maps, 1)


@contextmanager
def _rules_of_lxt() -> Iterator[None]:
    """Give torch's layers the rules of lxt inside a ``with`` block.

    lxt replaces methods of torch's classes, for all networks of the process: they are put back.
    """
    try:
        from lxt.efficient.models.vit_torch import cp_LRP
    except ImportError:
        raise UserError("attn_lrp needs the package lxt: uv pip install lxt") from None
    originals = [(kind, dict(vars(kind))) for kind in _PATCHED]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # lxt only warns where a rule cannot be set
            for kind, patch in cp_LRP.items():
                patch(kind)
        yield
    finally:
        for kind, before in originals:
            for name in set(vars(kind)) - set(before):
                delattr(kind, name)
            for name, value in before.items():
                if vars(kind)[name] is not value:
                    setattr(kind, name, value)
