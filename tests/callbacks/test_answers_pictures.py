"""Confusion matrix, augmentation preview and learning curves: what they draw, and when."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from convlens.callbacks import AugmentationPreview, ConfusionMatrix, LearningCurves, Reliability
from convlens.callbacks import confusion_matrix as matrix_module
from convlens.callbacks import learning_curves as curves_module
from convlens.callbacks import reliability as reliability_module
from convlens.callbacks.look import Look
from convlens.callbacks.predictions import Predictions

from convlens.core.errors import UserError
from convlens.data.probes import Probes
from convlens.draw.palette import GREEN, RED
from convlens.draw.picture import to_uint8
from convlens.training.calibration import Calibration

NAMES = ("cat", "dog", "emu")


def look(**fields) -> Look:
    """A look at three probes of 224 × 224 pixels, with what ``fields`` say."""
    images = torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    names = ["p0", "p1", "p2"]
    given = {
        "network": torch.nn.Identity(), "probes": Probes(images, torch.arange(3), names, names),
        "class_names": NAMES, "clock": 0, "final": False, "deadline": float("inf"), "seed": 5,
    }  # fmt: skip
    return Look(**(given | fields))


def answers(labels, said) -> Predictions:
    sure = np.ones(len(labels), np.float32)
    labels, said = np.array(labels, np.int64), np.array(said, np.int64)
    return Predictions(np.arange(len(labels)), labels, said, sure, sure, {})


def holds(panel: np.ndarray, image: np.ndarray) -> bool:
    """Whether ``image`` stands somewhere in ``panel``, pixel by pixel."""
    height, width = image.shape[:2]
    inside = panel[: panel.shape[0] - height + 1, : panel.shape[1] - width + 1]
    starts = np.argwhere((inside == image[0, 0]).all(-1))
    return any((panel[y : y + height, x : x + width] == image).all() for y, x in starts)


# --- the confusion matrix


def test_the_matrix_counts_true_against_predicted(monkeypatch):
    given = {}

    def panel(counts, class_names, *, title):
        given.update(counts=counts.tolist(), names=class_names, title=title)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(matrix_module, "confusion_matrix", panel)
    found = look(predictions=answers([0, 0, 1, 2], [0, 1, 1, 1]), clock=4)
    assert [tag for tag, _ in ConfusionMatrix().pictures(found)] == ["predictions/confusion_matrix"]
    assert given["counts"] == [[1, 1, 0], [0, 1, 0], [0, 1, 0]] and given["names"] == NAMES
    assert "validation" in given["title"] and "epoch 4" in given["title"]


def test_the_test_has_a_matrix_of_its_own():
    found = look(predictions=answers([0, 1, 2], [0, 1, 1]), clock=4, stage="test")
    ((tag, picture),) = ConfusionMatrix().pictures(found)
    assert tag == "predictions/confusion_matrix/test"
    # two of three classes are all right: two full green bars of 70 pixels
    green = (picture == np.array(GREEN)).all(-1).sum(axis=1)
    assert set(green[green > 0]) == {70}


def test_without_answers_there_is_no_matrix():
    for found in (look(), look(predictions=answers([], []))):
        assert list(ConfusionMatrix().pictures(found)) == []


# --- the reliability chart


def chart_of(monkeypatch, found: Look) -> tuple[list[str], dict]:
    """Return the tags that are yielded, and the curves that are drawn, by the name's beginning."""
    given = {}

    def chart(curves, *, title):
        given.update({curve.name.partition(":")[0]: curve for curve in curves})
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(reliability_module, "reliability_chart", chart)
    return [tag for tag, _ in Reliability().pictures(found)], given


def test_the_chart_compares_confidences_without_and_with_the_temperature(monkeypatch):
    raw, own = np.array([0.99, 0.99, 0.99]), np.array([0.7, 0.7, 0.5])
    found = Calibration(2.0, raw, own, np.array([True, False, True]))
    tags, drawn = chart_of(monkeypatch, look(calibration=found, clock=4, stage="test"))
    assert tags == ["predictions/reliability/test"]
    one, other = drawn["as the network says"], drawn["with temperature 2"]
    assert one.counts.tolist() == [0] * 14 + [3] and one.accuracies[14] == pytest.approx(2 / 3)
    assert other.counts[[7, 10]].tolist() == [1, 2] and other.confidences[10] == pytest.approx(0.7)
    assert one.name.endswith("error 0.323")  # |2/3 - 0.99|


def test_outside_convlens_runs_the_chart_is_that_of_the_predictions(monkeypatch):
    tags, drawn = chart_of(monkeypatch, look(predictions=answers([0, 1, -1], [0, 0, 1]), clock=1))
    assert tags == ["predictions/reliability"] and list(drawn) == ["as the network says"]
    assert drawn["as the network says"].counts[-1] == 2  # one label is unknown
    for none in (look(), look(predictions=answers([-1], [0])), look(predictions=answers([], []))):
        assert chart_of(monkeypatch, none) == ([], {})


# --- the augmentation


def shifted(images: torch.Tensor, seed: int) -> torch.Tensor:
    """An augmentation: each picture of the batch rolled by a number of its own."""
    steps = np.random.default_rng(seed).permutation(100)[: len(images)] + 1
    return torch.stack([i.roll(int(s), 2) for i, s in zip(images, steps, strict=True)])


def test_each_draw_of_the_runs_augmentation_is_shown():
    found = look(augment=shifted)
    drawn = list(AugmentationPreview(draws=4, probes=2).pictures(found))
    assert [tag for tag, _ in drawn] == ["training/augmentation/p0", "training/augmentation/p1"]
    images = found.probes.images
    versions = shifted(images[:2].repeat_interleave(4, dim=0), seed=5)
    for number, (_, sheet) in enumerate(drawn):
        assert holds(sheet, to_uint8(images[number]))
        assert not holds(sheet, to_uint8(images[1 - number]))
        for version in versions[4 * number : 4 * number + 4]:
            assert holds(sheet, to_uint8(version))


def test_the_draws_depend_on_the_seed_alone():
    preview = AugmentationPreview(draws=2)
    ((_, one),) = preview.pictures(look(augment=shifted))
    torch.rand(7)
    ((_, again),) = preview.pictures(look(augment=shifted))
    ((_, other),) = preview.pictures(look(augment=shifted, seed=6))
    assert (one == again).all() and (one != other).any()


def test_the_preview_is_drawn_before_training_only_and_where_there_is_augmentation():
    preview = AugmentationPreview()
    assert list(preview.pictures(look(augment=shifted, clock=1))) == []
    assert list(preview.pictures(look(augment=None))) == []
    shown = [tag for tag, _ in AugmentationPreview(draws=1, probes=9).pictures(
        look(augment=shifted))]  # fmt: skip
    assert shown == [
        "training/augmentation/p0",
        "training/augmentation/p1",
        "training/augmentation/p2",
    ]


@pytest.mark.parametrize("key", ["draws", "probes"])
def test_no_draws_are_a_mistake(key):
    with pytest.raises(UserError, match=f"augmentation_preview.{key}=0: expected 1 or more"):
        AugmentationPreview(**{key: 0}).select_layers(None, None)


# --- the learning curves

HISTORY = [
    {"epoch": 0, "val/loss": 1.2, "val/accuracy": 0.4, "lr/head": 0.0},
    {"epoch": 1, "train/loss": 0.9, "val/loss": 0.8, "val/accuracy": 0.7, "explain/seconds": 2.0},
    {"epoch": 2, "train/loss": 0.5, "val/loss": 0.9, "val/accuracy": 0.6, "lr/head": 0.1},
]


def test_curves_are_of_training_and_validation_with_gaps_and_marks(monkeypatch):
    given = {}

    def chart(history, epochs, *, title, marks):
        given.update(history=history, epochs=epochs, marks=marks)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(curves_module, "learning_curves", chart)
    found = look(history=HISTORY, marks={"block5": 1}, clock=2, final=True)
    assert [tag for tag, _ in LearningCurves().pictures(found)] == ["learning_curves"]
    assert given["epochs"] == [0, 1, 2] and given["marks"] == {"block5": 1}
    assert set(given["history"]) == {"val/loss", "val/accuracy", "train/loss"}
    np.testing.assert_equal(given["history"]["train/loss"], [float("nan"), 0.9, 0.5])


def test_curves_come_at_the_end():
    early, late = look(history=HISTORY, marks={}), look(history=HISTORY, final=True)
    assert list(LearningCurves().pictures(early)) == []
    ((_, picture),) = LearningCurves().pictures(late)
    assert picture.shape[1] > 900  # a chart for loss, one for accuracy
    assert (picture == np.array(RED)).all(-1).any()  # the best epoch's ring
    # an epoch's numbers are written behind its look: the last ones are there at the end only
    assert LearningCurves().has_final_look


def test_without_history_there_are_no_curves():
    for found in (
        look(final=True),
        look(final=True, history=[]),
        look(final=True, history=[{"epoch": 0, "lr/head": 0.1}]),
    ):
        assert list(LearningCurves().pictures(found)) == []


def test_plan_tells_the_tags():
    assert ConfusionMatrix().plan([], 3) == {"predictions/confusion_matrix": 1}
    assert Reliability().plan([], 3) == {"predictions/reliability": 1}
    assert AugmentationPreview(probes=2).plan([], 1) == {"training/augmentation/<probe>": 1}
    assert LearningCurves().plan([], 3) == {"learning_curves": 1}
