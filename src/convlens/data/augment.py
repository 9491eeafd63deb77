"""Augmentation of a whole batch at once, on whatever device the batch is.

Every image gets ``DRAWS`` numbers from [0, 1), made by the loader from (seed, epoch, batch);
everything below is a pure function of images and draws, so a batch looks the same after a
resume, in any process, and on any device.

Legend: ``B`` images, ``C`` channels, ``H W`` height and width in pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convlens.config.schema import AugmentConfig

FILLS = {"nearest": "border", "reflect": "reflection", "constant": "zeros"}

# which column of the draws decides what; appended to, never reordered, or old runs would change
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


class Augmentation:
    """Random changes; all ranges zero or off leave the images alone.

    Geometry is Keras's ``ImageDataGenerator``: one affine matrix rotation · shift · shear · zoom
    an image, which maps output to input coordinates, sampled bilinearly. A shear angle is in
    degrees (Keras up to 2.0.8 meant radians); a zoom of 0.8 magnifies. ``fill`` is what stands
    outside the image: ``nearest`` (the border goes on), ``reflect`` (mirrored at the edge),
    ``constant`` (black). A random resized crop (Szegedy et al. 2014) cuts out a share of the area,
    its width / height drawn evenly in its logarithm. Contrast turns about the image's mean grey,
    saturation about each pixel's grey.

    Args:
        ranges: the config group ``data.augment``.

    Attributes:
        active: whether anything random acts on the images.
    """

    def __init__(self, ranges: AugmentConfig):
        self.ranges = ranges
        on = {name for name, value in ranges.plain().items() if value} - {"fill", "crop_ratio"}
        self.active = bool(on)
        self._geometric = bool(on - {"brightness", "contrast", "saturation", "hue"})

    def __call__(self, pictures: Tensor, draws: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] and draws (B, DRAWS) in [0, 1) to images alike."""
        if self._geometric:
            grid = _grid(self.matrices(draws, *pictures.shape[-2:]).to(pictures), pictures.shape)
            pictures = F.grid_sample(
                pictures, grid, "bilinear", FILLS[self.ranges.fill], align_corners=False
            )
        return self._coloured(pictures, draws.to(pictures))

    def matrices(self, draws: Tensor, height: int, width: int) -> Tensor:
        """The affine matrices (B, 2, 3) in ``affine_grid``'s coordinates, float64.

        In pixels, with (row, column) measured from the image's centre, Keras's matrix is
        ``rotation @ shift @ shear @ zoom``; flips and crops act on the output coordinates
        afterwards. ``affine_grid`` wants (x, y) with the image's edges at -1 and 1.
        """
        draw = dict(zip(COLUMNS, draws.double().unbind(1), strict=True))
        eye = torch.eye(3, dtype=torch.float64, device=draws.device).repeat(len(draws), 1, 1)

        angle = torch.deg2rad(_within(draw["rotation"], self.ranges.rotation_degrees))
        rotation = eye.clone()
        rotation[:, 0, 0], rotation[:, 0, 1] = angle.cos(), -angle.sin()
        rotation[:, 1, 0], rotation[:, 1, 1] = angle.sin(), angle.cos()

        shift = eye.clone()
        shift[:, 0, 2] = _within(draw["height_shift"], self.ranges.height_shift) * height
        shift[:, 1, 2] = _within(draw["width_shift"], self.ranges.width_shift) * width

        angle = torch.deg2rad(_within(draw["shear"], self.ranges.shear_degrees))
        shear = eye.clone()
        shear[:, 0, 1], shear[:, 1, 1] = -angle.sin(), angle.cos()

        zoom = eye.clone()
        zoom[:, 0, 0] = 1 + _within(draw["zoom_height"], self.ranges.zoom)
        zoom[:, 1, 1] = 1 + _within(draw["zoom_width"], self.ranges.zoom)

        flip = eye.clone()
        if self.ranges.vertical_flip:
            flip[:, 0, 0] = torch.where(draw["vertical_flip"] < 0.5, -1.0, 1.0)
        if self.ranges.horizontal_flip:
            flip[:, 1, 1] = torch.where(draw["horizontal_flip"] < 0.5, -1.0, 1.0)

        pixels = rotation @ shift @ shear @ zoom @ self._crop(draw, eye, height, width) @ flip
        half = torch.tensor([height / 2, width / 2, 1.0], dtype=torch.float64, device=draws.device)
        normalised = pixels * half[None, None, :] / half[None, :, None]
        # (row, column) to (x, y): swap the first two rows and the first two columns
        order = torch.tensor([1, 0, 2], device=draws.device)
        return normalised[:, order][:, :, order][:, :2]

    def _crop(self, draw: dict[str, Tensor], eye: Tensor, height: int, width: int) -> Tensor:
        """The cut-out of a random resized crop as a matrix, (B, 3, 3), in centred pixels."""
        crop = eye.clone()
        if self.ranges.random_resized_crop is None:
            return crop
        low, high = self.ranges.random_resized_crop
        area = low + (high - low) * draw["crop_area"]
        bounds = torch.tensor(self.ranges.crop_ratio, dtype=torch.float64, device=eye.device).log()
        ratio = torch.exp(bounds[0] + (bounds[1] - bounds[0]) * draw["crop_ratio"])
        # width / height in pixels is `ratio`; what would stick out is cut at the image's edge
        tall = (area / ratio * width / height).sqrt().clamp(max=1)
        wide = (area * ratio * height / width).sqrt().clamp(max=1)
        crop[:, 0, 0], crop[:, 1, 1] = tall, wide
        crop[:, 0, 2] = (draw["crop_top"] - 0.5) * (1 - tall) * height
        crop[:, 1, 2] = (draw["crop_left"] - 0.5) * (1 - wide) * width
        return crop

    def _coloured(self, pictures: Tensor, draws: Tensor) -> Tensor:
        """Brightness, contrast, saturation, hue, in this order; each clipped to [0, 1]."""

        def factor(key: str) -> Tensor:
            column = draws[:, COLUMNS.index(key), None, None, None]
            return 1 + _within(column, getattr(self.ranges, key))

        if self.ranges.brightness:
            pictures = (pictures * factor("brightness")).clamp(0, 1)
        if self.ranges.contrast:
            mean = _grey(pictures).mean(dim=(2, 3), keepdim=True)
            pictures = (mean + (pictures - mean) * factor("contrast")).clamp(0, 1)
        if self.ranges.saturation:
            grey = _grey(pictures)
            pictures = (grey + (pictures - grey) * factor("saturation")).clamp(0, 1)
        if self.ranges.hue and pictures.shape[1] == 3:
            turns = _within(draws[:, COLUMNS.index("hue")], self.ranges.hue)
            pictures = _turn_hue(pictures, turns).clamp(0, 1)
        return pictures


def _grid(matrices: Tensor, shape: torch.Size) -> Tensor:
    """What ``F.affine_grid(align_corners=False)`` gives, in a third of its time.

    An affine map is a sum of a part of the column and a part of the row; adding the two by
    broadcasting replaces a product of every pixel with its image's matrix.
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


def _within(draws: Tensor, limit: float) -> Tensor:
    """[0, 1) to [-limit, limit)."""
    return (2 * draws - 1) * limit


def _grey(pictures: Tensor) -> Tensor:
    """(B, 1, H, W): luma of ITU-R 601, or the one channel there is."""
    if pictures.shape[1] != 3:
        return pictures.mean(dim=1, keepdim=True)
    weights = pictures.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (pictures * weights).sum(dim=1, keepdim=True)


def _turn_hue(pictures: Tensor, turns: Tensor) -> Tensor:
    """Turn the colours about the grey axis: one 3×3 rotation (Rodrigues) an image."""
    angle = (2 * torch.pi * turns).view(-1, 1, 1)
    axis = pictures.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    eye = torch.eye(3, device=pictures.device, dtype=pictures.dtype)
    along = torch.full_like(eye, 1 / 3)
    rotation = angle.cos() * eye + angle.sin() * axis + (1 - angle.cos()) * along
    return torch.einsum("bij,bjhw->bihw", rotation, pictures)
