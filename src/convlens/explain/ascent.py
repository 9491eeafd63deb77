"""Gradient ascent: move images along the gradient of a unit, step by step.

Shapes: ``C`` channels, ``H W`` height and width, ``U`` units (and their images) in one batch.
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

# How the three colours of natural images vary together: the square root of their covariance over
# ImageNet, scaled to norm one (Olah et al. 2017, https://distill.pub/2017/feature-visualization).
_COLOUR_ROOT = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


def draw_noise(units: list[int], shape: tuple[int, ...], noise: float, seed: int) -> Tensor:
    """Return ``(U, C, h, w)`` noise, seeded for each unit; the global generator is not used."""
    generator = torch.Generator()
    images = [
        torch.randn(shape, generator=generator.manual_seed((seed * 2**20 + unit) % 2**63))
        for unit in units
    ]
    return noise * torch.stack(images) if images else torch.zeros(0, *shape)


class Move(NamedTuple):
    """How the image is moved in one step.

    Attributes:
        shift: pixels to roll it by, down and across.
        scale: the zoom factor.
        angle: the rotation, in radians.
    """

    shift: tuple[int, int]
    scale: float
    angle: float

    def warp(self, images: Tensor, matrix: Tensor | None = None) -> Tensor:
        """Scale and rotate ``images`` ``(U, C, h, w)`` about their centre; differentiable.

        Args:
            images: what to warp.
            matrix: that of ``make_matrices``, on the device of the images; None to make it here.
        """
        if self.scale == 1 and self.angle == 0:
            return images
        if matrix is None:
            matrix = make_matrices([self], images)[0]
        matrix = matrix.expand(len(images), 2, 3)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def make_matrices(moves: list[Move], images: Tensor) -> Tensor:
    """Return the affine matrices of moves, ``(steps, 2, 3)``, for ``images`` ``(U, C, h, w)``.

    One copy takes all of them to the device of the images: a step that made its own would wait for
    the device.
    """
    height, width = images.shape[-2:]
    matrices = []
    for move in moves:
        cosine, sine = cos(move.angle) / move.scale, sin(move.angle) / move.scale
        # grid coordinates are in half sides, so without the aspect ratio the rotation would shear
        matrices.append([[cosine, sine * height / width, 0], [-sine * width / height, cosine, 0]])
    return images.new_tensor(matrices)


def draw_moves(steps: int, jitter: int, zoom: float, rotation: float, seed: int) -> list[Move]:
    """Draw one move for each step; moves depend on the seed alone, not on the batches.

    Raises:
        ValueError: if an amount is negative, or ``zoom`` is not below 1.
    """
    if not (jitter >= 0 and 0 <= zoom < 1 and rotation >= 0):
        raise ValueError(
            f"jitter {jitter}, zoom {zoom} and rotation {rotation} must be 0 or more, zoom below 1"
        )
    generator = torch.Generator().manual_seed(seed)
    shifts = torch.randint(-jitter, jitter + 1, (steps, 2), generator=generator).tolist()
    amounts = (2 * torch.rand(steps, 2, generator=generator) - 1).tolist()
    return [
        Move(tuple(shift), 1 + zoom * size, radians(rotation * turn))
        for shift, (size, turn) in zip(shifts, amounts, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Ascent:
    """Gradient ascent on a batch of images, one for each unit.

    Attributes:
        taps: the tapped network; its passes end at the layer.
        layer: module path of the layer.
        step_size: root mean square of the change in one step.
        moves: one for each step.
        precondition: turns gradients into directions, see ``build_preconditioner``.
        proceed: asked for leave to take more steps: how many may begin before it is asked again; 0
            ends the ascent.
    """

    taps: Taps
    layer: str
    step_size: float
    moves: list[Move]
    precondition: Callable[[Tensor], Tensor]
    proceed: Callable[[], int]

    def __call__(
        self, images: Tensor, units: Tensor, signs: Tensor, allowed: int = 1
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run all steps, or as many as ``proceed`` allows. No step waits for the device.

        Args:
            images: ``(U, C, h, w)`` to start from.
            units: ``(U,)``, the channel that each image excites.
            signs: ``(U,)``: 1 to raise the unit's output, -1 to lower it.
            allowed: steps that may begin before ``proceed`` is asked; at least 1.

        Returns:
            The images, the mean output ``(U,)`` of their units, ``(U,)`` bool: True where no
            step had a usable gradient, and ``(U,)`` int64: the number of steps.
        """
        moved = torch.zeros(len(units), dtype=torch.bool, device=images.device)
        matrices, steps = make_matrices(self.moves, images), 0
        for move, matrix in zip(self.moves, matrices, strict=True):
            if steps == allowed:
                allowed += self.proceed()
                if steps == allowed:
                    break
            steps += 1
            images = images.roll(move.shift, (-2, -1)).requires_grad_()
            objective = self.mean_outputs(move.warp(images, matrix), units) @ signs
            gradient = torch.autograd.grad(objective, images)[0]
            step = self.precondition(gradient)
            size = step.square().mean((1, 2, 3), keepdim=True).sqrt()
            usable = (size > 0) & size.isfinite()
            step = torch.where(usable, step / torch.where(usable, size, 1), 0)
            moved |= usable.flatten()
            images = (images.detach() + self.step_size * step).clamp(0, 1)
            images = images.roll((-move.shift[0], -move.shift[1]), (-2, -1))
        with torch.no_grad():
            outputs = self.mean_outputs(images, units)
        return images, outputs, ~moved, torch.full((len(units),), steps)

    def mean_outputs(self, images: Tensor, units: Tensor) -> Tensor:
        """Return the spatial mean of channel ``units[i]`` on image ``i``, ``(U,)``."""
        self.taps.run(images)
        rows = torch.arange(len(units), device=units.device)
        outputs = self.taps.channels_first(self.layer)[rows, units]
        return outputs.flatten(1).mean(1) if outputs.dim() > 1 else outputs


def build_preconditioner(
    like: Tensor, smoothing: float, colours: bool
) -> Callable[[Tensor], Tensor]:
    """Return a function that turns gradients ``(U, C, h, w)`` into directions.

    Gradient ascent over coordinates ``z`` with image = A z moves the image along A Aᵀ times its
    gradient. Here A scales the frequencies and mixes the colours.

    Args:
        like: ``(C, h, w)``, of the shape, precision and device of one image.
        smoothing: exponent that weakens high frequencies; 0 leaves them as they are.
        colours: whether to weight colours by how they vary in natural images; three channels only.
    """
    height, width = like.shape[-2:]
    down, across = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    frequency = (down[:, None].square() + across.square()).sqrt().clamp_min(1 / max(height, width))
    weights = frequency.pow(-smoothing).to(like)
    # the symmetric root of the covariance: the full covariance bleaches the colours of early layers
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
