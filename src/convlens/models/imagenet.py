"""The class names that a network's own head answers with."""

from __future__ import annotations

from torchvision.models import VGG16_Weights


def imagenet_classes() -> list[str]:
    """The 1000 ImageNet class names in the order of the logits, as torchvision has them.

    >>> imagenet_classes()[0], imagenet_classes()[285], len(imagenet_classes())
    ('tench', 'Egyptian cat', 1000)
    """
    return list(VGG16_Weights.IMAGENET1K_V1.meta["categories"])
