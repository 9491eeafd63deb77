"""Covering a place: networks that need it, that need another one, and that need none."""

from math import comb

import pytest
import torch
from torch import Tensor, nn

from convlens.explain.covering import cover, judge_place, list_mirrors

GREY = torch.full((3,), 0.3)
CELLS = torch.zeros(4, 4, dtype=torch.bool)
CORNER = CELLS.clone()
CORNER[0, 0] = True
MIDDLE = CELLS.clone()
MIDDLE[1:3, 1:3] = True
LEFT = CELLS.clone()
LEFT[:, 0] = True


class ReadsPlace(nn.Module):
    """Says class 1 if a place is bright; bright means above 0.6."""

    def __init__(self, place: Tensor, logits: int = 2):
        super().__init__()
        mask = place.repeat_interleave(2, 0).repeat_interleave(2, 1)
        self.register_buffer("mask", mask.float() / mask.sum())
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        bright = 10 * ((images.mean(1) * self.mask).sum((1, 2)) - 0.6)
        return bright[:, None] if self.logits == 1 else torch.stack([-bright, bright], 1)


def make_images(place: Tensor) -> tuple[Tensor, Tensor]:
    """Return 20 images of 8×8 pixels, half of them bright at a place, and their classes."""
    images = 0.5 * torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 2
    mask = place.repeat_interleave(2, 0).repeat_interleave(2, 1)
    images[labels == 1] = torch.where(mask, 0.95, images[labels == 1])
    return images, labels


@pytest.mark.parametrize("logits", [1, 2])
@pytest.mark.parametrize("place", [CORNER, LEFT])
def test_a_network_that_reads_a_place_fails_only_without_it(place, logits):
    images, labels = make_images(place)
    bright = labels == 1
    found = judge_place(
        ReadsPlace(place, logits), images[bright], labels[bright], place, GREY, batch=3
    )
    assert (found.whole, found.covered, found.elsewhere, found.fall) == (1.0, 0.0, 1.0, 1.0)
    assert found.chance == pytest.approx(0.5**10)
    # the mirror image of the place that it reads: covering that costs nothing, or as much
    other = judge_place(
        ReadsPlace(place, logits), images[bright], labels[bright], place.flip(1), GREY, batch=3
    )
    assert other.covered == 1.0 and other.fall <= 0 and other.chance == 1.0


def test_a_network_that_reads_the_middle_does_not_need_the_corner():
    images, labels = make_images(MIDDLE)
    found = judge_place(ReadsPlace(MIDDLE), images, labels, CORNER, GREY)
    assert (found.whole, found.covered, found.fall, found.chance) == (1.0, 1.0, 0.0, 1.0)
    assert judge_place(ReadsPlace(MIDDLE), images, labels, MIDDLE, GREY) is None


def test_mirror_images_hardly_overlap_the_place():
    corners = {tuple(mirror.nonzero()[0].tolist()) for mirror in list_mirrors(CORNER)}
    assert corners == {(0, 3), (3, 0), (3, 3)}
    (right,) = list_mirrors(LEFT)
    assert torch.equal(right, LEFT.flip(1))
    assert list_mirrors(MIDDLE) == []


def test_covered_pixels_have_the_colour_and_no_other_changes():
    images, colour = torch.rand(2, 3, 10, 7), torch.tensor([2.0, 3.0, 4.0])
    covered = cover(images, LEFT, colour)
    changed = (covered != images).any(1)
    assert changed[:, :, :1].all() and not changed[:, :, 2:].any()
    assert (covered[:, :, :, 0] == colour[:, None]).all()


def test_chance_is_that_of_a_coin():
    """Of ten images eight are lost without the corner, one is won."""
    images, labels = make_images(CORNER)
    images, labels = images[labels == 1], labels[labels == 1].clone()
    labels[0] = 0  # wrong as it is, right once the corner is covered
    images[1, :, :, -2:] = 1.0
    images[1, :, :2, :2] = 0.5  # dark: wrong with and without
    found = judge_place(ReadsPlace(CORNER), images, labels, CORNER, GREY)
    expected = sum(comb(9, k) for k in (8, 9)) / 2**9
    assert found.chance == pytest.approx(expected)
    assert found.elsewhere == pytest.approx(0.8) and found.covered == pytest.approx(0.1)
