"""Augment a whole batch at once, on the device that holds it.

The loader gives each image ``DRAWS`` numbers from [0, 1), made from (seed, epoch, batch), and more
on the host if operations are drawn (``convlens.data.policy``). Everything below is a pure function
of images and numbers, so a batch looks the same after a resume, in any process and on any device.

Legend: ``B`` images, ``C`` channels, ``H W`` height and width in pixels.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convlens.config.schema import AUGMENT_DETAILS, AugmentConfig
from convlens.data.policy import Policy

FILLS = {"nearest": "border", "reflect": "reflection", "constant": "zeros"}

# Which column of the draws decides what. More columns, or another order, would change earlier runs.
COLUMNS = [
    "rotation",
    "height_shift",
    "width_shift",
    "shear",
    "zoom_height",
    "zoom_width",
    "horizontal_flip",
    "vertical_flip",
    "crop_area",
    "crop_ratio",
    "crop_top",
    "crop_left",
    "brightness",
    "contrast",
    "saturation",
    "hue",
]
DRAWS = len(COLUMNS)
COLOURS = {"brightness", "contrast", "saturation", "hue"}
MIXING = {"mixup", "cutmix"}


class Augmentation:
    """Change a batch of images at random, within the configured ranges.

    Geometry follows Keras's ``ImageDataGenerator``: one affine matrix per image, rotation · shift ·
    shear · zoom, maps output to input coordinates and is sampled bilinearly. Shear angles are in
    degrees (Keras up to 2.0.8 used radians); a zoom of 0.8 magnifies. ``fill`` decides what appears
    outside the image: ``nearest`` (the border continues), ``reflect`` (mirrored at the edge) or
    ``constant`` (black). A random resized crop (Szegedy et al. 2014) cuts out a fraction of the
    area; its width / height ratio is drawn uniformly in log space. Contrast scales around the
    image's mean grey, saturation around each pixel's grey. Random operations and erasing come last;
    see ``convlens.data.policy.Policy``.

    Args:
        ranges: the config group ``data.augment``; with every range zero or off, images stay as
            they are.

    Attributes:
        active: whether training images differ from those that are evaluated.
        changes_images: whether anything random is applied to single images; if only this is False,
            images are mixed (``convlens.data.mixing``).
        policy: random operations and erasing.
    """

    def __init__(self, ranges: AugmentConfig):
        self.ranges = ranges
        on = {name for name, value in ranges.plain().items() if value} - AUGMENT_DETAILS
        self.active, self.changes_images = bool(on), bool(on - MIXING)
        self._geometric = bool(on - MIXING - COLOURS - {"policy", "erasing"})
        self.policy = Policy(ranges)

    def __call__(self, images: Tensor, draws: Tensor, choices: np.ndarray | None = None) -> Tensor:
        """Return the augmented images.

        Args:
            images: (B, C, H, W) in [0, 1].
            draws: (B, DRAWS) in [0, 1).
            choices: (B, ``policy.numbers``) in [0, 1), on the host; needed if there are any.

        Returns:
            (B, C, H, W) in [0, 1].
        """
        if self._geometric:
            grid = _build_grid(self.matrices(draws, *images.shape[-2:]).to(images), images.shape)
            images = F.grid_sample(
                images, grid, "bilinear", FILLS[self.ranges.fill], align_corners=False
            )
        images = self._jitter_colours(images, draws.to(images))
        return self.policy(images, choices) if self.policy.numbers else images

    def matrices(self, draws: Tensor, height: int, width: int) -> Tensor:
        """Return the affine matrices (B, 2, 3) in ``affine_grid``'s coordinates, float64.

        In pixels, with (row, column) measured from the image's centre, Keras's matrix is
        ``rotation @ shift @ shear @ zoom``; flips and crops then act on the output coordinates.
        ``affine_grid`` expects (x, y) with the image's edges at -1 and 1.

        Args:
            draws: (B, DRAWS) in [0, 1).
            height: image height in pixels.
            width: image width in pixels.
        """
        draw = dict(zip(COLUMNS, draws.double().unbind(1), strict=True))
        eye = torch.eye(3, dtype=torch.float64, device=draws.device).repeat(len(draws), 1, 1)

        angle = torch.deg2rad(_scale(draw["rotation"], self.ranges.rotation_degrees))
        rotation = eye.clone()
        rotation[:, 0, 0], rotation[:, 0, 1] = angle.cos(), -angle.sin()
        rotation[:, 1, 0], rotation[:, 1, 1] = angle.sin(), angle.cos()

        shift = eye.clone()
        shift[:, 0, 2] = _scale(draw["height_shift"], self.ranges.height_shift) * height
        shift[:, 1, 2] = _scale(draw["width_shift"], self.ranges.width_shift) * width

        angle = torch.deg2rad(_scale(draw["shear"], self.ranges.shear_degrees))
        shear = eye.clone()
        shear[:, 0, 1], shear[:, 1, 1] = -angle.sin(), angle.cos()

        zoom = eye.clone()
        zoom[:, 0, 0] = 1 + _scale(draw["zoom_height"], self.ranges.zoom)
        zoom[:, 1, 1] = 1 + _scale(draw["zoom_width"], self.ranges.zoom)

        flip = eye.clone()
        if self.ranges.vertical_flip:
            flip[:, 0, 0] = torch.where(draw["vertical_flip"] < 0.5, -1.0, 1.0)
        if self.ranges.horizontal_flip:
            flip[:, 1, 1] = torch.where(draw["horizontal_flip"] < 0.5, -1.0, 1.0)

        pixels = rotation @ shift @ shear @ zoom @ self._build_crop(draw, eye, height, width) @ flip
        half = _constant((height / 2, width / 2, 1.0), torch.float64, draws.device)
        normalised = pixels * half[None, None, :] / half[None, :, None]
        # (row, column) to (x, y): swap the first two rows and the first two columns
        order = _constant((1, 0, 2), torch.int64, draws.device)
        return normalised[:, order][:, :, order][:, :2]

    def _build_crop(self, draw: dict[str, Tensor], eye: Tensor, height: int, width: int) -> Tensor:
        """Return the matrix of a random resized crop, (B, 3, 3), in centred pixels."""
        crop = eye.clone()
        if self.ranges.random_resized_crop is None:
            return crop
        low, high = self.ranges.random_resized_crop
        area = low + (high - low) * draw["crop_area"]
        bounds = _constant(tuple(self.ranges.crop_ratio), torch.float64, eye.device).log()
        ratio = torch.exp(bounds[0] + (bounds[1] - bounds[0]) * draw["crop_ratio"])
        # `ratio` is width / height in pixels; a crop larger than the image is clipped to it
        tall = (area / ratio * width / height).sqrt().clamp(max=1)
        wide = (area * ratio * height / width).sqrt().clamp(max=1)
        crop[:, 0, 0], crop[:, 1, 1] = tall, wide
        crop[:, 0, 2] = (draw["crop_top"] - 0.5) * (1 - tall) * height
        crop[:, 1, 2] = (draw["crop_left"] - 0.5) * (1 - wide) * width
        return crop

    def _jitter_colours(self, images: Tensor, draws: Tensor) -> Tensor:
        """Apply brightness, contrast, saturation and hue, in this order; clip each to [0, 1]."""

        def factor(key: str) -> Tensor:
            column = draws[:, COLUMNS.index(key), None, None, None]
            return 1 + _scale(column, getattr(self.ranges, key))

        if self.ranges.brightness:
            images = (images * factor("brightness")).clamp(0, 1)
        if self.ranges.contrast:
            mean = _to_grey(images).mean(dim=(2, 3), keepdim=True)
            images = (mean + (images - mean) * factor("contrast")).clamp(0, 1)
        if self.ranges.saturation:
            grey = _to_grey(images)
            images = (grey + (images - grey) * factor("saturation")).clamp(0, 1)
        if self.ranges.hue and images.shape[1] == 3:
            turns = _scale(draws[:, COLUMNS.index("hue")], self.ranges.hue)
            images = _rotate_hue(images, turns).clamp(0, 1)
        return images


def _build_grid(matrices: Tensor, shape: torch.Size) -> Tensor:
    """Return what ``F.affine_grid(align_corners=False)`` returns, in a third of the time.

    An affine map is the sum of a column part and a row part. Adding the two by broadcasting
    replaces a product of every pixel with its image's matrix.
    """
    batch, _, height, width = shape
    options = {"dtype": matrices.dtype, "device": matrices.device}
    x = (2 * torch.arange(width, **options) + 1) / width - 1
    y = (2 * torch.arange(height, **options) + 1) / height - 1
    grid = torch.empty(batch, height, width, 2, **options)
    for axis in (0, 1):
        a, b, c = matrices[:, axis].unbind(1)
        row, column = a[:, None] * x + c[:, None], b[:, None] * y
        torch.add(row[:, None, :], column[:, :, None], out=grid[..., axis])
    return grid


@lru_cache(maxsize=64)
def _constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a tensor that is made once per device: making one there waits for the device."""
    with torch.inference_mode(False):  # else it could not be used in training afterwards
        return torch.tensor(values, dtype=dtype, device=device)


def _scale(draws: Tensor, limit: float) -> Tensor:
    """Map [0, 1) to [-limit, limit)."""
    return (2 * draws - 1) * limit


def _to_grey(images: Tensor) -> Tensor:
    """Return (B, 1, H, W): the luma of ITU-R 601, or the only channel."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    weights = _constant((0.299, 0.587, 0.114), images.dtype, images.device).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def _rotate_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Rotate the colours around the grey axis: one 3×3 rotation (Rodrigues) per image."""
    angle = (2 * torch.pi * turns).view(-1, 1, 1)
    skew = (0, -1, 1), (1, 0, -1), (-1, 1, 0)
    axis = _constant(skew, images.dtype, images.device) / 3**0.5
    eye = torch.eye(3, device=images.device, dtype=images.dtype)
    along = torch.full_like(eye, 1 / 3)
    rotation = angle.cos() * eye + angle.sin() * axis + (1 - angle.cos()) * along
    return torch.einsum("bij,bjhw->bihw", rotation, images)
