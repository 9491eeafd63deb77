"""Shortcuts: a place that a network needs is named, with numbers; honest networks have none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from convlens.callbacks import Shortcuts, shortcuts
from convlens.callbacks.look import Look
from torch import Tensor, nn

from convlens.core.photograph import Photograph
from convlens.data.probes import Probes
from support.looks import NAMES, PICTURE

COUNT, SIZE = 60, 24  # images in all, pixels
MARK = 4  # pixels


class ReadsBrightness(nn.Module):
    """Each channel of the image votes for a class, in a window or everywhere."""

    def __init__(self, window: int | None):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())
        with torch.no_grad():
            self.features[0].weight.copy_(torch.eye(3)[..., None, None])
        self.window = window

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)[..., : self.window, : self.window]
        return 50 * maps.mean((2, 3))


def make_images(*, marked: bool, classes: tuple[int, ...] = (0, 1, 2)) -> tuple[Tensor, Tensor]:
    """Return dark images with a block in their class's channel: at random, and in the corner."""
    rng = torch.Generator().manual_seed(0)
    images = 0.02 * torch.rand(COUNT, 3, SIZE, SIZE, generator=rng)
    labels = torch.arange(COUNT) % 3
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = torch.randint(MARK, SIZE - 2 * MARK, (2,), generator=rng).tolist()
        if marked and label in classes:
            row = column = 0
        image[label, row : row + MARK, column : column + MARK] = 1.0
    return images, labels


def look_at(network: nn.Module, images: Tensor, labels: Tensor) -> Look:
    names = [f"p{k}" for k in range(2)]
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    return Look(
        network, Probes(images[:2], labels[:2], names, names), NAMES, 1, False, float("inf"), 0,
        sample_images=lambda count: iter(images[:count].split(50)),
        sample_rows=lambda count: list(range(100, 100 + len(labels[:count]))),
        sample_labels=lambda count: labels[:count], sample_masks=lambda count: None,
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

    monkeypatch.setattr(shortcuts, "cluster_sheet", draw)
    return drawn


def test_a_place_that_the_network_needs_is_a_shortcut(sheets):
    found = dict(Shortcuts().pictures(look_at(ReadsBrightness(MARK), *make_images(marked=True))))
    assert found.pop("grad_cam_clusters") is PICTURE
    # without the mark two of three classes are mistaken, whichever wins a draw
    assert found.keys() <= {f"explain/shortcut/{name}" for name in NAMES} and len(found) >= 2
    assert all(value >= 0.9 for value in found.values())
    (rows,) = sheets
    marked = [row for row in rows if row.is_shortcut]
    assert {row.name for row in marked} == {tag.split("/")[-1] for tag in found}
    for row in marked:
        assert row.lines[0] == "20 images, accuracy 1.00"
        assert row.mean[0, 0] == row.mean.max() and len(row.images) == len(row.maps) == 4
        number = int(row.sources[0].split()[1]) - 100
        assert NAMES[number % 3] == row.name
    assert rows[: len(marked)] == marked  # first


def test_only_the_marked_class_has_one(sheets):
    images, labels = make_images(marked=True, classes=(1,))
    found = dict(Shortcuts().pictures(look_at(ReadsBrightness(None), images, labels)))
    assert "explain/shortcut/cat" not in found and "explain/shortcut/emu" not in found
    assert found["explain/shortcut/dog"] > 0.5


@pytest.mark.parametrize("window", [None, MARK])
def test_objects_anywhere_are_no_shortcut(sheets, window):
    look = look_at(ReadsBrightness(window), *make_images(marked=False))
    assert dict(Shortcuts().pictures(look)).keys() == {"grad_cam_clusters"}
    assert not any(row.is_shortcut for row in sheets[0])


def test_a_mark_that_the_network_does_not_need_is_none(sheets):
    """The evidence is in the corner, and covering it changes no prediction."""
    images, labels = make_images(marked=True)
    images[torch.arange(COUNT), labels, 12:20, 12:20] = 0.3
    look = look_at(ReadsBrightness(None), images, labels)
    assert dict(Shortcuts(area=1.0).pictures(look)).keys() == {"grad_cam_clusters"}


def test_too_few_images_are_no_proof(sheets):
    look = look_at(ReadsBrightness(MARK), *make_images(marked=True))
    found = dict(Shortcuts(pictures=12).pictures(look))  # four of each class
    assert found.keys() <= {"grad_cam_clusters"}


def test_several_classes_and_other_projects_draw_nothing():
    look = look_at(ReadsBrightness(MARK), *make_images(marked=True))
    for other in (
        replace(look, thresholds=torch.full((3,), 0.5)),
        replace(look, sample_images=None),
    ):
        assert not list(Shortcuts().pictures(other))
