"""MixUp and CutMix: mix every image of a batch with another one, and their labels alike.

The partner of an image is the one before it in the *global* batch, whose order is random already.
A process therefore needs one image that it does not train on: the partner of its first one. Which
batch is mixed, and how, is drawn from (seed, epoch, batch). So every number of processes mixes the
same images in the same way.

Legend: ``B`` images, ``C`` channels, ``H W`` height and width in pixels, ``K`` classes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from convlens.config.schema import AugmentConfig
from convlens.data.feed import Batch


class Mix(NamedTuple):
    """How a global batch is mixed.

    Attributes:
        share: fraction of each image, and of its label, that stays its own, in [0, 1].
        box: top, bottom, left and right of the area taken from the partner, in pixels; empty if all
            pixels are averaged.
    """

    share: float
    box: tuple[int, ...] = ()


def draw_mix(ranges: AugmentConfig, rng: np.random.Generator, height: int, width: int) -> Mix:
    """Draw how a batch is mixed; arithmetic of ``torchvision.transforms.v2``.

    - MixUp (Zhang et al. 2018, arXiv:1710.09412): the average of two images, with weights from a
      Beta distribution.
    - CutMix (Yun et al. 2019, arXiv:1905.04899): a rectangle is taken from the other image; the
      labels have the weights of the areas.

    Args:
        ranges: the config group ``data.augment``; if both are on, each takes half of the batches.
        rng: a generator that depends on seed, epoch and batch only.
        height: image height in pixels.
        width: image width in pixels.
    """
    mixed, cut, row, column = rng.random(4)
    if mixed >= (1.0 if ranges.mix_fraction is None else ranges.mix_fraction):
        return Mix(1.0)
    if not ranges.cutmix or (ranges.mixup and cut < 0.5):
        return Mix(rng.beta(ranges.mixup, ranges.mixup))
    half = 0.5 * math.sqrt(1.0 - rng.beta(ranges.cutmix, ranges.cutmix))
    row, column = int(row * height), int(column * width)
    tall, wide = int(half * height), int(half * width)
    top, bottom = max(row - tall, 0), min(row + tall, height)
    left, right = max(column - wide, 0), min(column + wide, width)
    return Mix(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))


def find_partners(mine: np.ndarray, count: int) -> np.ndarray:
    """Return the places, in a global batch of ``count`` images, that a process has to read.

    Args:
        mine: (B,) consecutive places that it trains on, at least one.
        count: images of the global batch.

    Returns:
        (B + 1,): ``mine``, and the partner of the first of them.
    """
    return np.append(mine, (mine[0] - 1) % count)


def apply_mix(batch: Batch, mix: Mix, classes: int) -> Batch:
    """Mix a batch, and drop its last image, which is only the partner of the first.

    Args:
        batch: ``image`` float (B + 1, C, H, W), ``label`` (B + 1,) or bool (B + 1, K), ``row``
            (B + 1,), and more.
        mix: how.
        classes: K.

    Returns:
        The batch of B images; ``target`` float32 (B, K) are the shares of the classes: those of an
        image that has several classes are 1 for each of them. ``label`` and ``row`` are those of
        the image itself.
    """
    images = batch["image"]
    own, partners = images[:-1], torch.cat([images[-1:], images[:-2]])
    if mix.box:
        top, bottom, left, right = mix.box
        mixed = own.clone()
        mixed[..., top:bottom, left:right] = partners[..., top:bottom, left:right]
    elif mix.share == 1.0:
        mixed = own
    else:
        mixed = partners.mul_(1 - mix.share).add_(own * mix.share)
    shares = _to_shares(batch["label"], classes)
    target = torch.cat([shares[-1:], shares[:-2]]).mul_(1 - mix.share).add_(shares[:-1] * mix.share)
    label, row = batch["label"][:-1], batch["row"][:-1]
    return {**batch, "image": mixed, "label": label, "row": row, "target": target}


def _to_shares(labels: Tensor, classes: int) -> Tensor:
    """Return (B, K) float32, one in the column of each class; ``one_hot`` would read the labels."""
    if labels.dim() == 2:
        return labels.float()
    return (labels[:, None] == torch.arange(classes, device=labels.device)).float()
