"""AttnLRP: relevance of pixels, propagated layer by layer through attention, by the library lxt.

R. Achtibat et al., *AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers*,
ICML 2024, https://arxiv.org/abs/2402.05602

Shapes: ``B`` images, ``C`` channels, ``H W`` their size, ``T`` targets per image.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

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
        library = type(model).__module__.partition(".")[0]
        raise UserError(
            f"attn_lrp supports torchvision's VisionTransformer, not {type(model).__name__} of "
            f"{library}: use legrad or relevance"
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


def _import_rules() -> dict[type[nn.Module], Callable]:
    """Return torch's layers -> function of lxt that gives them their rule.

    ``lxt.efficient`` also imports the language models of transformers, which lxt 2.1 does not find
    in every release. Its rules for vision need none of them, so the packages are passed by.
    """
    spec = find_spec("lxt")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise UserError("attn_lrp needs the package lxt: uv pip install lxt")
    packages = {
        "lxt.efficient": Path(folders[0]) / "efficient",
        "lxt.efficient.models": Path(folders[0]) / "efficient" / "models",
    }
    missing = [name for name in packages if name not in sys.modules]
    try:
        for name in missing:
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__path__ = [str(packages[name])]
        return import_module("lxt.efficient.models.vit_torch").cp_LRP
    except (ImportError, AttributeError):
        raise UserError("attn_lrp needs lxt 2.1 or later: uv pip install -U lxt") from None
    finally:
        for name in missing:
            sys.modules.pop(name, None)


@contextmanager
def _rules_of_lxt() -> Iterator[None]:
    """Give torch's layers the rules of lxt inside a ``with`` block.

    lxt replaces methods of torch's classes, for all networks of the process: they are put back.
    """
    rules = _import_rules()
    originals = [(kind, dict(vars(kind))) for kind in _PATCHED]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # lxt only warns where a rule cannot be set
            for kind, patch in rules.items():
                patch(kind)
        yield
    finally:
        for kind, before in originals:
            for name in set(vars(kind)) - set(before):
                delattr(kind, name)
            for name, value in before.items():
                if vars(kind)[name] is not value:
                    setattr(kind, name, value)
