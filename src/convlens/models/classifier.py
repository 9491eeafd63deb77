"""A picture classifier: input normalisation, backbone, head.

Legend: ``B`` pictures of a batch, ``C`` channels, ``H W`` height and width, ``K`` classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convlens.core.evaluation import evaluation_mode
from convlens.models.backbone import Backbone
from convlens.models.normalise import Normalise
from convlens.models.pooled import has_hooks


class Classifier(nn.Module):
    """Pictures in [0, 1], (B, C, H, W), to logits (B, K), or (B, 1) for a one-logit head.

    The parts are the attributes ``normalise``, ``backbone`` and ``head``; schedules, layer
    patterns and checkpoints know the layers by these paths (``backbone.block1.conv``).

    The network can be cut after any number of the backbone's links: ``features`` gives what flows
    through the cut, ``from_features`` goes on from there, and one after the other they are
    ``forward``.
    """

    def __init__(self, normalise: Normalise, backbone: Backbone, head: nn.Module):
        super().__init__()
        self.normalise = normalise
        self.backbone = backbone
        self.head = head

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.backbone(self.normalise(pictures)))

    def features(self, pictures: Tensor, cut: int) -> Tensor:
        """Pictures (B, C, H, W) in [0, 1] to what the first ``cut`` links, which are frozen, make
        of them; without gradients."""
        return self.backbone.run_frozen(self.normalise(pictures), cut)

    def from_features(self, features: Tensor, cut: int) -> Tensor:
        """What :meth:`features` gave, to logits."""
        return self.head(self.backbone.run(features, cut, len(self.backbone.link_names), fast=True))

    def forward_fast(self, pictures: Tensor) -> Tensor:
        """:meth:`forward`, its frozen beginning without gradients, all as fast as can be.

        For training and evaluating; hooks of the frozen layers are not called.
        """
        cut = self.backbone.count_frozen_links()
        if not cut and (has_hooks(self) or has_hooks(self.backbone)):
            return self(pictures)
        features = self.features(pictures, cut) if cut else self.normalise(pictures)
        return self.from_features(features, cut)

    def cut_name(self, cut: int) -> str:
        """The link after which ``cut`` cuts, as a person knows it."""
        return self.backbone.link_names[cut - 1] or "backbone"


def feature_shape(backbone: Backbone, channels: int, size: int) -> tuple[int, ...]:
    """(C', h, w) of the backbone's output for pictures of that many channels and pixels.

    Raises:
        RuntimeError: the pictures are too small.
    """
    with torch.no_grad(), evaluation_mode(backbone):
        return tuple(backbone(torch.zeros(1, channels, size, size)).shape[1:])
