"""An image classifier: input normalisation, backbone, head.

Legend: ``B`` images of a batch, ``C`` channels, ``H W`` height and width, ``K`` classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convlens.core.evaluation import evaluation_mode
from convlens.models.backbone import Backbone
from convlens.models.normalise import Normalise
from convlens.models.pooled import has_hooks


class Classifier(nn.Module):
    """Computes logits (B, K), or (B, 1) for a one-logit head, from images (B, C, H, W) in [0, 1].

    The parts are the attributes ``normalise``, ``backbone`` and ``head``; schedules, layer
    patterns and checkpoints refer to the layers by these paths (``backbone.block1.conv``).

    The network can be cut after any link of the backbone: ``features`` computes the features at
    the cut, ``from_features`` continues from there, and both together equal ``forward``.

    Args:
        normalise: the input normalisation.
        backbone: images to feature map.
        head: feature map to logits.
    """

    def __init__(self, normalise: Normalise, backbone: Backbone, head: nn.Module):
        super().__init__()
        self.normalise = normalise
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(self.normalise(images)))

    def features(self, images: Tensor, cut: int) -> Tensor:
        """Compute the output of the first ``cut`` links, which are frozen, without gradients.

        Args:
            images: (B, C, H, W) in [0, 1].
            cut: number of links.
        """
        return self.backbone.run_frozen(self.normalise(images), cut)

    def from_features(self, features: Tensor, cut: int) -> Tensor:
        """Compute logits from the output of ``features`` for the same cut."""
        return self.head(self.backbone.run(features, cut, len(self.backbone.link_names), fast=True))

    def forward_fast(self, images: Tensor) -> Tensor:
        """Compute what ``forward`` computes, faster, for training and evaluation.

        The frozen links at the start run without gradients, and their hooks are not called.
        """
        cut = self.backbone.count_frozen_links()
        if not cut and (has_hooks(self) or has_hooks(self.backbone)):
            return self(images)
        features = self.features(images, cut) if cut else self.normalise(images)
        return self.from_features(features, cut)

    def cut_name(self, cut: int) -> str:
        """Return the name of the last link before the cut, for messages."""
        return self.backbone.link_names[cut - 1] or "backbone"


def feature_shape(backbone: Backbone, channels: int, size: int) -> tuple[int, ...]:
    """Return the shape (C', h, w) of the backbone's output.

    Args:
        backbone: the network.
        channels: channels of the images.
        size: height and width of the images in pixels.

    Raises:
        RuntimeError: the images are too small.
    """
    with torch.no_grad(), evaluation_mode(backbone):
        return tuple(backbone(torch.zeros(1, channels, size, size)).shape[1:])
