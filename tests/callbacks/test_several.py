"""What looks show of images with several classes: errors, co-occurrence, maps of each class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from convlens.callbacks.evidence import _split_classes, list_present
from convlens.callbacks.predictions import PredictionBook

from convlens.draw.breakdown import error_bars
from convlens.draw.confusion_matrix import confusion_matrix, count_together


@pytest.fixture
def book() -> PredictionBook:
    random = torch.Generator().manual_seed(0)
    book = PredictionBook(several=True)
    book.begin(hold=False)
    for rows in torch.arange(20).split(7):
        labels = torch.rand(len(rows), 4, generator=random) < 0.5
        logits = torch.randn(len(rows), 4, generator=random)
        book.take({"logits": logits}, {"label": labels, "row": rows})
    assert book.end("val")
    return book


def test_predictions_keep_all_classes(book):
    kept = book.latest["val"]
    assert kept.present.shape == kept.probabilities.shape == (20, 4)
    assert kept.present.dtype == bool and (kept.labels == -1).all()
    assert (kept.predicted == kept.probabilities.argmax(axis=1)).all()
    assert not np.allclose(kept.probabilities.sum(axis=1), 1)  # they are independent


def test_the_worst_errors_come_first(book):
    kept, thresholds = book.latest["val"], np.float32([0.3, 0.5, 0.6, 0.8])
    wanted = []
    for index in range(20):
        for kind in range(4):
            share, threshold = float(kept.probabilities[index, kind]), float(thresholds[kind])
            if kept.present[index, kind] and share < threshold:  # a miss
                wanted.append(((threshold - share) / threshold, index, kind))
            if not kept.present[index, kind] and share >= threshold:  # a false alarm
                wanted.append(((share - threshold) / (1 - threshold), index, kind))
    wanted = [(index, kind) for _, index, kind in sorted(wanted, reverse=True)]
    assert kept.errors(thresholds, 5) == wanted[:5]
    assert kept.errors(thresholds, 1000) == wanted


def test_co_occurrence_is_counted_image_by_image(book):
    kept = book.latest["val"]
    above = kept.probabilities >= 0.5
    wanted = np.zeros((4, 4), int)
    for true, predicted in zip(kept.present, above, strict=True):
        for a in np.flatnonzero(true):
            for b in np.flatnonzero(predicted):
                wanted[a, b] += 1
    assert count_together(kept.present, above).tolist() == wanted.tolist()


def test_pictures_of_several_classes_can_be_drawn(book):
    kept, names = book.latest["val"], ["disc", "ring", "star", "a very long name indeed"]
    above = kept.probabilities >= 0.5
    counts = count_together(kept.present, above)
    plain = confusion_matrix(counts, names, title="t")
    drawn = confusion_matrix(counts, names, title="t", images=kept.present.sum(axis=0))
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    assert drawn.shape != plain.shape or (drawn != plain).any()
    bars = error_bars(kept.present, above, names, title="t", most=3)
    right = error_bars(kept.present, kept.present, names, title="t")
    assert bars.shape[0] > right.shape[0]


def test_classes_are_listed_and_padded():
    present = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1]], dtype=torch.bool)
    assert list_present(present).tolist() == [[0, 2, -1], [1, -1, -1], [0, 1, 2]]


def test_each_class_has_its_own_map_and_object():
    maps = torch.arange(2 * 2 * 3 * 3.0).reshape(2, 2, 3, 3)
    objects = np.array([[[1, 3, 0]] * 3, [[2, 0, 0]] * 3])

    def own(image: int, label: int) -> np.ndarray:
        return objects[image] == label + 1

    found = _split_classes("layer", maps, torch.tensor([[0, 2], [1, -1]]), None, own)
    assert found.labels.tolist() == [0, 2, 1] == found.predictions.tolist()
    assert torch.equal(found.true, maps[[0, 0, 1], [0, 1, 0]])
    columns = [mask[0].nonzero()[:, 0].tolist() for mask in found.masks]
    assert columns == [[0], [1], [0]]


def test_without_objects_of_known_class_all_share_the_mask():
    masks = torch.tensor([[[True, False]], [[False, True]]])
    found = _split_classes(
        "layer", torch.zeros(2, 2, 1, 2), torch.tensor([[0, 2], [1, -1]]), masks, None
    )
    assert found.masks.tolist() == [masks[0].tolist(), masks[0].tolist(), masks[1].tolist()]
