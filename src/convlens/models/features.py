"""How the features of a backbone lie in memory, and how tokens become one vector.

Legend: ``B`` images, ``C`` channels, ``h w`` height and width of a map, ``L`` tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FeatureLayout:
    """How the features lie: maps (B, C, h, w), maps (B, h, w, C) or tokens (B, L, C).

    Attributes:
        channels: axis of the channels: 1 or -1.
        prefix: number of leading tokens without a place in the image, such as the class token and
            registers; None for maps.
        has_class_token: whether the first token is a class token.
        grid: rows and columns of the patches, which follow the prefix in row-major order; None
            for maps, and if the network has no patches in its output.
    """

    channels: int = 1
    prefix: int | None = None
    has_class_token: bool = False
    grid: tuple[int, int] | None = None

    @property
    def has_tokens(self) -> bool:
        """Whether the features are tokens."""
        return self.prefix is not None


MAPS = FeatureLayout()


class TokenPool(nn.Module):
    """Reduces tokens (B, L, C): to the class token, to the mean of the patches, or to both.

    The result is (B, C), or (B, 2, C) for both.

    Args:
        how: ``class``, ``mean`` or ``both``.
        prefix: number of leading tokens that are no patches.
    """

    def __init__(self, how: str, prefix: int):
        super().__init__()
        self.how, self.prefix = how, prefix

    def extra_repr(self) -> str:
        return f"{self.how}, prefix={self.prefix}"

    def forward(self, tokens: Tensor) -> Tensor:
        if self.how == "class":
            return tokens[:, 0]
        mean = tokens[:, self.prefix :].mean(dim=1)
        return mean if self.how == "mean" else torch.stack((tokens[:, 0], mean), dim=1)


class ChannelsFirst(nn.Module):
    """Reorders maps (B, h, w, C) to (B, C, h, w)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 3, 1, 2)


class ChannelsLast(nn.Module):
    """Reorders maps (B, C, h, w) to (B, h, w, C)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 3, 1)
