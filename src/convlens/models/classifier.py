"""A picture classifier: input normalisation, backbone, head.

Legend: ``B`` pictures of a batch, ``C`` channels, ``H W`` height and width, ``K`` classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convlens.errors import UserError, nearest
from convlens.models.head import head
from convlens.models.initialise import initialise
from convlens.models.scratch import scratch

# mean and standard deviation that turn pixels in [0, 1] into what the network was made for
NORMALISATIONS = {
    "unit": (0.0, 1.0),  # [0, 1], as the pictures come
    "symmetric": (0.5, 0.5),  # [-1, 1]
}


class Normalise(nn.Module):
    """``(x - mean) / std`` per channel, with both as buffers so that they travel in checkpoints.

    Input and output are (B, C, H, W); the input is in [0, 1].
    """

    def __init__(self, mean: list[float], std: list[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.neutral = all(m == 0 for m in mean) and all(s == 1 for s in std)

    def forward(self, pictures: Tensor) -> Tensor:
        if self.neutral:
            return pictures
        return (pictures - self.mean) / self.std


class Classifier(nn.Module):
    """Pictures in [0, 1], (B, C, H, W), to logits (B, K), or (B, 1) for a one-logit head.

    The parts are the attributes ``normalise``, ``backbone`` and ``head``; schedules, layer
    patterns and checkpoints know the layers by these paths (``backbone.block1.conv``).
    """

    def __init__(self, normalise: nn.Module, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.normalise = normalise
        self.backbone = backbone
        self.head = head

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.backbone(self.normalise(pictures)))


def build_model(spec: dict, *, channels: int, size: int, outputs: int) -> Classifier:
    """The network that the config group ``model`` describes.

    Args:
        spec: the plain dictionary of ``model/*.yaml``.
        channels: ``C`` of the pictures.
        size: height and width of the pictures in pixels.
        outputs: number of logits, ``K`` or 1.

    Raises:
        UserError: a value of the group that cannot be built, naming its key.
    """
    spec = dict(spec)
    name = spec.pop("name")
    if name not in BACKBONES:
        raise UserError(f"model.name={name}: no such backbone; {nearest(name, BACKBONES)}")
    normalisation = spec.pop("normalisation")
    if normalisation not in NORMALISATIONS:
        raise UserError(
            f"model.normalisation={normalisation}: {nearest(str(normalisation), NORMALISATIONS)}"
        )
    mean, std = NORMALISATIONS[normalisation]
    head_spec = spec.pop("head")
    initialisation = spec.pop("initialisation")
    activation = spec["activation"]
    backbone = BACKBONES[name](channels=channels, size=size, **spec)
    with torch.no_grad():
        shape = backbone.eval()(torch.zeros(1, channels, size, size)).shape[1:]
    backbone.train()
    classifier = Classifier(
        Normalise([mean] * channels, [std] * channels),
        backbone,
        head(tuple(shape), outputs, activation=activation, **head_spec),
    )
    initialise(classifier, initialisation)
    return classifier


BACKBONES = {"scratch": scratch}
