"""A climb: pictures that follow the gradient of a unit, step by step.

Shapes: ``C`` channels, ``H W`` height and width, ``U`` units that climb together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, radians, sin
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convlens.explain.taps import Taps

# How the three colours of natural pictures vary together: the square root of their covariance over
# ImageNet, scaled to norm one (Olah et al. 2017, https://distill.pub/2017/feature-visualization).
_COLOUR_ROOT = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


def draw_start(units: list[int], shape: tuple[int, ...], noise: float, seed: int) -> Tensor:
    """``(U, C, h, w)`` noise; each unit has a generator of its own, and the global one rests."""
    generator = torch.Generator()
    pictures = [
        torch.randn(shape, generator=generator.manual_seed((seed * 2**20 + unit) % 2**63))
        for unit in units
    ]
    return noise * torch.stack(pictures) if pictures else torch.zeros(0, *shape)


class Move(NamedTuple):
    """How the picture is moved in one step: rolled by pixels, scaled, turned by radians."""

    shift: tuple[int, int]
    scale: float
    angle: float

    def warped(self, images: Tensor) -> Tensor:
        """``images`` ``(U, C, h, w)`` scaled and turned about their middle; differentiable."""
        if self.scale == 1 and self.angle == 0:
            return images
        height, width = images.shape[-2:]
        cosine, sine = cos(self.angle) / self.scale, sin(self.angle) / self.scale
        # in units of half a side: the aspect keeps a turn a turn
        rows = [[cosine, sine * height / width, 0], [-sine * width / height, cosine, 0]]
        matrix = images.new_tensor(rows).expand(len(images), 2, 3)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def draw_moves(steps: int, jitter: int, zoom: float, rotation: float, seed: int) -> list[Move]:
    """One for each step, the same for all pictures, whatever the batches."""
    if not (jitter >= 0 and 0 <= zoom < 1 and rotation >= 0):
        raise ValueError(f"jitter {jitter}, zoom {zoom}, rotation {rotation}: 0 or more, zoom < 1")
    generator = torch.Generator().manual_seed(seed)
    shifts = torch.randint(-jitter, jitter + 1, (steps, 2), generator=generator).tolist()
    drawn = (2 * torch.rand(steps, 2, generator=generator) - 1).tolist()
    return [
        Move(tuple(shift), 1 + zoom * size, radians(rotation * turn))
        for shift, (size, turn) in zip(shifts, drawn, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Climb:
    """The ascent itself, for a batch of pictures that each climb one unit."""

    taps: Taps
    layer: str
    step_size: float
    moves: list[Move]
    precondition: Callable[[Tensor], Tensor]

    def __call__(
        self, images: Tensor, units: list[int], signs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures ``(U, C, h, w)``, their units' means ``(U,)``, and which were stuck ``(U,)``."""
        moved = torch.zeros(len(units), dtype=torch.bool, device=images.device)
        for move in self.moves:
            images = images.roll(move.shift, (-2, -1)).requires_grad_()
            climbed = self.means(move.warped(images), units) @ signs
            gradient = torch.autograd.grad(climbed, images)[0]
            step = self.precondition(gradient)
            size = step.square().mean((1, 2, 3), keepdim=True).sqrt()
            usable = (size > 0) & size.isfinite()
            step = torch.where(usable, step / torch.where(usable, size, 1), 0)
            moved |= usable.flatten()
            images = (images.detach() + self.step_size * step).clamp(0, 1)
            images = images.roll((-move.shift[0], -move.shift[1]), (-2, -1))
        with torch.no_grad():
            return images, self.means(images, units), ~moved

    def means(self, images: Tensor, units: list[int]) -> Tensor:
        """``(U,)``: the mean over space of channel ``units[i]`` on picture ``i``."""
        self.taps.run(images)
        own = self.taps.channels_first(self.layer)[range(len(units)), units]
        return own.flatten(1).mean(1) if own.dim() > 1 else own


def build_preconditioner(
    like: Tensor, smoothing: float, colours: bool
) -> Callable[[Tensor], Tensor]:
    """What turns a gradient ``(U, C, h, w)`` into a direction; ``like`` is one ``(C, h, w)``.

    Climbing in coordinates ``z`` with picture = A z is climbing in the picture along A Aᵀ times the
    gradient; here A scales the frequencies and mixes the colours.
    """
    height, width = like.shape[-2:]
    down, across = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    frequency = (down[:, None].square() + across.square()).sqrt().clamp_min(1 / max(height, width))
    weights = frequency.pow(-smoothing).to(like)
    # The symmetric root of the covariance: all of it would bleach the colours of early layers.
    axes, strengths, _ = torch.linalg.svd(torch.tensor(_COLOUR_ROOT))
    mix = (axes @ strengths.diag() @ axes.T).to(like)

    def direction(gradient: Tensor) -> Tensor:
        if smoothing:
            spectrum = torch.fft.rfft2(gradient) * weights
            gradient = torch.fft.irfft2(spectrum, s=(height, width))
        if colours and len(like) == 3:
            gradient = torch.einsum("cd,udhw->uchw", mix, gradient)
        return gradient

    return direction
