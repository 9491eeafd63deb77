"""Slices in a look: a group of mistakes is shown with its images, others are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from convlens.callbacks import Slices, slices
from convlens.callbacks.look import Look
from torch import Tensor, nn

from convlens.core.photograph import Photograph
from convlens.data.probes import Probes
from support.looks import NAMES, PICTURE

COUNT, SIZE = 90, 8


class ReadsColour(nn.Module):
    """The class is the brightest channel."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dense = nn.Linear(3, 3)
        with torch.no_grad():
            self.dense.weight.copy_(torch.eye(3))
            self.dense.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.dense(self.pool(images).flatten(1))


def make_images(wrong: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return images in the colour of their class, those of ``wrong`` in that of the next class."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(COUNT) % 3
    shown = labels if wrong is None else torch.where(wrong, (labels + 1) % 3, labels)
    images = 0.2 * torch.rand(COUNT, 3, SIZE, SIZE, generator=rng)
    images[torch.arange(COUNT), shown] += 0.5 + 0.1 * torch.rand(COUNT, 1, 1, generator=rng)
    return images, labels


def look_at(images: Tensor, labels: Tensor, network: nn.Module | None = None) -> Look:
    names, picture = ["a", "b"], np.zeros((SIZE, SIZE, 3), np.uint8)
    return Look(
        network or ReadsColour(), Probes(images[:2], labels[:2], names, names), NAMES, 1, False,
        float("inf"), 0,
        fetch=lambda rows: (images[rows], rows),
        sample_images=lambda count: iter(images[:count].split(50)),
        sample_rows=lambda count: list(range(len(labels[:count]))),
        sample_labels=lambda count: labels[:count],
        photographs=lambda rows, images: [Photograph(picture) for _ in rows],
        sources=lambda rows: [f"image {row}" for row in rows],
    )  # fmt: skip


@pytest.fixture
def sheets(monkeypatch) -> list:
    """What the sheets are drawn from."""
    drawn: list = []

    def draw(rows, title):
        drawn.append(rows)
        return PICTURE

    monkeypatch.setattr(slices, "slice_sheet", draw)
    return drawn


def test_a_group_of_mistakes_is_a_slice(sheets):
    wrong = (torch.arange(COUNT) % 3 == 1) & (torch.arange(COUNT) < 36)  # 12 of 30
    found = dict(Slices().pictures(look_at(*make_images(wrong))))
    assert found.pop("predictions/slices") is PICTURE
    assert found == {"explain/low_slices": pytest.approx(12 / COUNT)}
    ((row,),) = sheets
    assert row.name == NAMES[1] and row.lines[0] == "12 images, accuracy 0.00"
    assert row.captions == [NAMES[2]] * 6 and row.lines[2] == f"12 taken for {NAMES[2]}"
    assert all(wrong[int(source.split()[1])] for source in row.sources)


def test_a_network_without_mistakes_has_none(sheets):
    callback = Slices()
    assert dict(callback.pictures(look_at(*make_images()))) == {"explain/low_slices": 0.0}
    assert not sheets and not callback.cut
    again = replace(look_at(*make_images()), final=True)
    assert not list(callback.pictures(again))  # nothing new at the end of the same epoch


def test_without_time_the_end_takes_what_it_can():
    late = replace(look_at(*make_images()), deadline=float("-inf"))
    assert not list(Slices().pictures(late))
    callback = Slices()
    assert not list(callback.pictures(replace(late, final=True)))
    assert "features of 0 of 90 images" in callback.cut


def test_several_classes_other_projects_and_untrained_networks_draw_nothing(said):
    look = look_at(*make_images())
    for other in (
        replace(look, thresholds=torch.full((3,), 0.5)),
        replace(look, sample_images=None),
        replace(look, clock=0),
    ):
        assert not list(Slices().pictures(other))
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert not list(Slices().pictures(replace(look, network=pooled)))
    reason = "no convolution or dense layer computes its outputs"
    assert said == [f"Slices draws nothing: {reason}"]
