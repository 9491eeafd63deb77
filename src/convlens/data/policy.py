"""RandAugment, TrivialAugment and random erasing, image by image.

The operations, their strengths and their arithmetic are those of ``torchvision.transforms.v2``; the
random numbers are not: they come from (seed, epoch, batch), like all others of a run. They stay on
the host, because they decide which kernels are launched.

Every image is changed alone, so its bits do not depend on the others in its batch, and so not on
the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from convlens.config.schema import AugmentConfig

LEVELS = 31  # strengths of an operation, from none to the greatest
ATTEMPTS = 10  # rectangles drawn before an image is left whole

# the greatest strength of each operation; None: it has no strength
RAND = {
    "identity": None, "shear_x": 0.3, "shear_y": 0.3, "translate_x": 150 / 331,
    "translate_y": 150 / 331, "rotate": 30.0, "brightness": 0.9, "saturation": 0.9,
    "contrast": 0.9, "sharpness": 0.9, "posterize": 4, "solarize": 1.0, "autocontrast": None,
    "equalize": None,
}  # fmt: skip
TRIVIAL = {
    **RAND, "shear_x": 0.99, "shear_y": 0.99, "translate_x": 32, "translate_y": 32,
    "rotate": 135.0, "brightness": 0.99, "saturation": 0.99, "contrast": 0.99, "sharpness": 0.99,
    "posterize": 6,
}  # fmt: skip
POLICIES = {"rand_augment": RAND, "trivial_augment": TRIVIAL}
UNSIGNED = ("posterize", "solarize")


class Policy:
    """Changes images by random operations, then erases a rectangle in some of them.

    - ``rand_augment`` (Cubuk et al. 2020, arXiv:1909.13719): ``policy_operations`` operations of
      14, all of strength ``policy_magnitude`` of 30.
    - ``trivial_augment`` (Müller and Hutter 2021, arXiv:2103.10158): one operation of 14, of random
      strength, in the wide ranges.
    - ``erasing`` (Zhong et al. 2017, arXiv:1708.04896): the fraction of images in which a rectangle
      becomes grey; its area and height / width ratio are drawn.

    Geometric operations sample bilinearly; the area outside the image is black.

    Args:
        ranges: the config group ``data.augment``.

    Attributes:
        numbers: random numbers that an image needs; 0 if nothing is on.
    """

    def __init__(self, ranges: AugmentConfig):
        self.ranges = ranges
        self._slots = 0
        if ranges.policy:
            wide = ranges.policy == "trivial_augment"
            self._slots = 1 if wide else int(ranges.policy_operations or 0)
        self.numbers = 3 * self._slots + (3 + 2 * ATTEMPTS if ranges.erasing else 0)

    def __call__(self, images: Tensor, numbers: np.ndarray) -> Tensor:
        """Return the changed images.

        Args:
            images: (B, C, H, W) in [0, 1].
            numbers: (B, ``numbers``) float64 in [0, 1).

        Returns:
            (B, C, H, W) in [0, 1], in the memory format of ``images``.
        """
        changed = images.clone()
        for place, row in enumerate(numbers):
            image = images[place : place + 1]
            for slot in range(self._slots):
                image = apply(image, *self.choose(row[3 * slot : 3 * slot + 3], *image.shape[2:]))
            changed[place : place + 1] = image
            if self.ranges.erasing:
                self._erase(changed[place], row[3 * self._slots :])
        return changed

    def choose(self, numbers: Sequence[float], height: int, width: int) -> tuple[str, float]:
        """Return an operation and its strength, with a sign.

        Args:
            numbers: three in [0, 1), for the operation, its level and its sign.
            height: image height in pixels.
            width: image width in pixels.
        """
        kind = self.ranges.policy or ""
        operations = list(POLICIES[kind].items())
        name, most = operations[int(numbers[0] * len(operations))]
        if most is None:
            return name, 0.0
        level = int(numbers[1] * LEVELS)
        if kind == "rand_augment":
            level = int(self.ranges.policy_magnitude or 0)
            most *= {"translate_x": width, "translate_y": height}.get(name, 1)
        strength = _list_strengths(name, most)[level]
        return name, -strength if name not in UNSIGNED and numbers[2] < 0.5 else strength

    def _erase(self, image: Tensor, numbers: Sequence[float]) -> None:
        """Make a rectangle of an image (C, H, W) grey, in place."""
        height, width = image.shape[1:]
        if numbers[0] >= (self.ranges.erasing or 0.0):
            return
        if found := self._find_rectangle(numbers[3:], height, width):
            tall, wide = found
            top = int(numbers[1] * (height - tall + 1))
            left = int(numbers[2] * (width - wide + 1))
            image[:, top : top + tall, left : left + wide] = self.ranges.erasing_grey

    def _find_rectangle(
        self, numbers: Sequence[float], height: int, width: int
    ) -> tuple[int, int] | None:
        """Return height and width of the first drawn rectangle that fits; None if none does."""
        low, high = self.ranges.erasing_area
        flat, tall = (math.log(bound) for bound in self.ranges.erasing_ratio)
        for first, second in zip(numbers[::2], numbers[1::2], strict=True):
            area = height * width * (low + (high - low) * first)
            ratio = math.exp(flat + (tall - flat) * second)
            size = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if size[0] < height and size[1] < width:
                return size
        return None


@lru_cache(maxsize=256)
def _list_strengths(name: str, most: float) -> list[float]:
    """Return the strengths of an operation's levels, with torchvision's rounding."""
    if name == "posterize":  # bits that are kept
        return (8 - torch.arange(LEVELS) / ((LEVELS - 1) / most)).round().int().tolist()
    ends = (most, 0.0) if name == "solarize" else (0.0, most)
    return torch.linspace(*ends, LEVELS, dtype=torch.float32).tolist()


def apply(image: Tensor, name: str, strength: float) -> Tensor:
    """Apply one operation to images (B, C, H, W) in [0, 1].

    Args:
        image: the images.
        name: a key of ``RAND``.
        strength: shear: tangent of the angle; translation: pixels; rotation: degrees; colours and
            sharpness: the factor is 1 + strength; posterize: bits; solarize: the threshold.
    """
    match name:
        case "shear_x":
            return _transform(image, shear=(math.degrees(math.atan(strength)), 0.0), corner=True)
        case "shear_y":
            return _transform(image, shear=(0.0, math.degrees(math.atan(strength))), corner=True)
        case "translate_x":
            return _transform(image, translate=(int(strength), 0))
        case "translate_y":
            return _transform(image, translate=(0, int(strength)))
        case "rotate":
            return v2.rotate(image, strength, interpolation=InterpolationMode.BILINEAR)
        case "brightness":
            return v2.adjust_brightness(image, 1 + strength)
        case "saturation":
            return v2.adjust_saturation(image, 1 + strength)
        case "contrast":
            return v2.adjust_contrast(image, 1 + strength)
        case "sharpness":
            return v2.adjust_sharpness(image, 1 + strength)
        case "posterize":
            return v2.posterize(image, int(strength))
        case "solarize":
            return v2.solarize(image, strength)
        case "autocontrast":
            return v2.autocontrast(image)
        case "equalize":
            return v2.equalize(image)
    return image


def _transform(
    image: Tensor, *, shear: tuple[float, float] = (0.0, 0.0), translate: tuple[int, int] = (0, 0),
    corner: bool = False,
) -> Tensor:  # fmt: skip
    """Shear (degrees) or translate (pixels) an image; ``corner``: about the upper left corner."""
    return v2.affine(
        image, angle=0.0, translate=list(translate), scale=1.0, shear=list(shear),
        interpolation=InterpolationMode.BILINEAR, center=[0.0, 0.0] if corner else None,
    )  # fmt: skip
