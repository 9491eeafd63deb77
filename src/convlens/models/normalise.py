"""The input normalisation, which belongs to the weights and travels with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError, check_name

# mean and standard deviation by channel that turn pixels in [0, 1] into what a network knows
NORMALISATIONS = {
    "unit": ((0.0,), (1.0,)),  # [0, 1], as the pictures come
    "symmetric": ((0.5,), (0.5,)),  # [-1, 1]
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class Normalise(nn.Module):
    """``(x - mean) / std`` per channel, with both as buffers so that they travel in checkpoints.

    Input and output are (B, C, H, W); the input is in [0, 1]. One-channel pictures become
    three-channel ones for a network that knows colour.

    Args:
        mean, std: one value a channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self._note_neutral()
        self.register_load_state_dict_post_hook(lambda module, _: module._note_neutral())

    def _note_neutral(self) -> None:
        """Whether nothing changes is settled once, not at every pass (a wait on a GPU)."""
        self.neutral = bool((self.mean == 0).all()) and bool((self.std == 1).all())

    def forward(self, pictures: Tensor) -> Tensor:
        if pictures.shape[1] == 1 and self.mean.shape[1] == 3:
            pictures = pictures.expand(-1, 3, -1, -1)
        return pictures if self.neutral else (pictures - self.mean) / self.std


def build_normalisation(asked, channels: int, of_weights: tuple | None, default: str) -> Normalise:
    """The layer for the config key ``model.normalisation``.

    Args:
        asked: ``auto`` (what belongs to the weights, ``default`` where there are none), a name, or
            ``[mean, std]``, each a list with one value a channel.
        channels: of what the backbone takes.
        of_weights: (mean, std) that belong to the weights, or None.
        default: a name.

    Raises:
        UserError: neither of these.
    """
    if asked == "auto":
        mean, std = of_weights or NORMALISATIONS[default]
    elif isinstance(asked, str):
        check_name("model.normalisation", asked, ["auto", *NORMALISATIONS])
        mean, std = NORMALISATIONS[asked]
    else:
        try:
            mean, std = ([float(value) for value in values] for values in asked)
        except (TypeError, ValueError):
            mean, std = [], []
    if len(mean) == 1:
        mean, std = list(mean) * channels, list(std) * channels
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise UserError(
            f"model.normalisation={asked}: auto, {', '.join(NORMALISATIONS)}, or [mean, std] with "
            f"{channels} numbers each"
        )
    return Normalise(mean, std)
