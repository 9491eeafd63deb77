"""Test whether a network decides by one place in the image: cover it, and places like it.

Covering anything makes an image unusual, so accuracy may fall whatever is covered. What counts is
how much further it falls than when the mirror images of the place are covered.

Legend: N images (C, H, W); (h, w) cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor, nn

from convlens.explain.grad_cam import probabilities
from convlens.explain.occlusion import compute_logits

_OVERLAP = 0.25  # fraction of the place that a mirror image may share with it
MIRRORS = ((2,), (1,), (1, 2))  # left-right, top-bottom, both


@dataclass(frozen=True)
class Covering:
    """What covering a place does to the accuracy on some images.

    Attributes:
        whole: accuracy on the images as they are, in [0, 1].
        covered: accuracy with the place covered.
        elsewhere: the same with the mirror image of the place covered that costs most.
        chance: probability of a difference as large as that between the last two, or larger, if it
            did not matter which of the two is covered (sign test, one-sided).
    """

    whole: float
    covered: float
    elsewhere: float
    chance: float

    @property
    def fall(self) -> float:
        """How much further accuracy falls with the place covered than elsewhere; may be < 0."""
        return self.elsewhere - self.covered


def list_mirrors(place: Tensor) -> list[Tensor]:
    """Return the mirror images of a place that hardly overlap it, each (h, w) bool.

    Args:
        place: (h, w) bool.
    """
    found: list[Tensor] = []
    for axes in MIRRORS:
        mirror = place[None].flip(axes)[0]
        if float((mirror & place).sum()) <= _OVERLAP * float(place.sum()):
            found += [mirror] if not any(torch.equal(mirror, each) for each in found) else []
    return found


def cover(images: Tensor, place: Tensor, colour: Tensor) -> Tensor:
    """Return the images with a place in one colour.

    Args:
        images: (N, C, H, W).
        place: (h, w) bool, cells of the whole image.
        colour: (C,).
    """
    mask = torch.nn.functional.interpolate(
        place[None, None].to(images), images.shape[-2:], mode="nearest-exact"
    )
    return torch.where(mask > 0, colour.to(images)[:, None, None], images)


def judge_place(
    model: nn.Module, images: Tensor, labels: Tensor, place: Tensor, colour: Tensor, *,
    batch: int | None = None,
) -> Covering | None:  # fmt: skip
    """Compare accuracy with a place covered to that with a mirror image of it covered.

    Args:
        model: the network; it may have one logit for two classes.
        images: (N, C, H, W), ready for the network.
        labels: (N,) true classes.
        place: (h, w) bool.
        colour: (C,), of what covers the place. The mean over images of all classes tells nothing of
            the class; that of an image, or of a class, may.
        batch: images per forward pass; None for all at once.

    Returns:
        None if every mirror image of the place overlaps it, as of a place in the middle.
    """
    return judge_parts(model, [(images, labels)], place, colour, batch=batch)


def judge_parts(
    model: nn.Module, parts: Iterable[tuple[Tensor, Tensor]], place: Tensor, colour: Tensor, *,
    batch: int | None = None,
) -> Covering | None:  # fmt: skip
    """Do what ``judge_place`` does for images and labels that come part by part."""
    mirrors = list_mirrors(place)
    if not mirrors:
        return None
    found = []
    for images, labels in parts:
        shown = [images, *(cover(images, each, colour) for each in (place, *mirrors))]
        logits = (compute_logits(model, each, batch=batch) for each in shown)
        right = [probabilities(each).argmax(1).cpu() == labels.cpu() for each in logits]
        found.append(torch.stack(right))
    whole, covered, *others = torch.cat(found, dim=1)
    elsewhere = min(others, key=lambda right: int(right.sum()))
    only, reverse = int((elsewhere & ~covered).sum()), int((~elsewhere & covered).sum())
    return Covering(
        float(whole.float().mean()), float(covered.float().mean()),
        float(elsewhere.float().mean()), _sign_test(only, reverse),
    )  # fmt: skip


def _sign_test(wins: int, losses: int) -> float:
    """Return the probability of at least ``wins`` heads among ``wins + losses`` fair coins."""
    total = wins + losses
    return sum(comb(total, k) for k in range(wins, total + 1)) / 2**total
