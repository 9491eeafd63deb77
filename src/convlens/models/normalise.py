"""The input normalisation, which belongs to the weights and is stored with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError, check_name

# mean and standard deviation by channel, for pixels in [0, 1]
NORMALISATIONS = {
    "unit": ((0.0,), (1.0,)),  # [0, 1], unchanged
    "symmetric": ((0.5,), (0.5,)),  # [-1, 1]
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class Normalise(nn.Module):
    """Computes ``(x - mean) / std`` per channel; both are buffers, so checkpoints contain them.

    Input and output are (B, C, H, W); the input is in [0, 1]. One-channel images are expanded to
    three channels for a network that takes colour images.

    Args:
        mean: one value per channel.
        std: one value per channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self._check_neutral()
        self.register_load_state_dict_post_hook(lambda module, _: module._check_neutral())

    def _check_neutral(self) -> None:
        """Check once whether nothing changes; checking in every pass would make a GPU wait."""
        self.is_neutral = bool((self.mean == 0).all()) and bool((self.std == 1).all())

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] == 1 and self.mean.shape[1] == 3:
            images = images.expand(-1, 3, -1, -1)
        return images if self.is_neutral else (images - self.mean) / self.std


def build_normalisation(value, channels: int, of_weights: tuple | None, default: str) -> Normalise:
    """Build the layer that the config key ``model.normalisation`` describes.

    Args:
        value: ``auto`` (that of the weights, or ``default`` without weights), a name, or
            ``[mean, std]``, each a list with one value per channel.
        channels: input channels of the backbone.
        of_weights: (mean, std) that belong to the weights, or None.
        default: a name.

    Raises:
        UserError: ``value`` is none of these.
    """
    if value == "auto":
        mean, std = of_weights or NORMALISATIONS[default]
    elif isinstance(value, str):
        check_name("model.normalisation", value, ["auto", *NORMALISATIONS])
        mean, std = NORMALISATIONS[value]
    else:
        try:
            mean, std = ([float(number) for number in numbers] for numbers in value)
        except (TypeError, ValueError):
            mean, std = [], []
    if len(mean) == 1:
        mean, std = list(mean) * channels, list(std) * channels
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise UserError(
            f"model.normalisation={value}: choose auto, {', '.join(NORMALISATIONS)}, or "
            f"[mean, std] with {channels} numbers each"
        )
    return Normalise(mean, std)
