"""Cross-validation: the folds against scikit-learn's rules, and as images of a run."""

from __future__ import annotations

import numpy as np
import pytest

from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.data.index.splits import assign_fold
from convlens.data.sources.registry import build_index
from support.tiny import draw_folder


def labels_of(*sizes: int) -> np.ndarray:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return labels[np.random.default_rng(0).permutation(len(labels))]


@pytest.mark.parametrize("folds", [2, 3, 5, 7])
@pytest.mark.parametrize("sizes", [(31, 12, 8), (7, 7, 7, 7), (100, 9)])
def test_every_image_is_tested_in_one_fold_and_classes_are_in_proportion(folds, sizes):
    """As scikit-learn's StratifiedKFold: counts of a class differ by one image at most."""
    labels = labels_of(*sizes)
    assigned = [
        assign_fold(labels, fold=fold, folds=folds, validation=0.15, seed=4)
        for fold in range(folds)
    ]
    tested = np.stack([each == "test" for each in assigned])
    assert (tested.sum(0) == 1).all()
    totals = tested.sum(1)
    assert totals.max() - totals.min() <= 1
    for label in range(len(sizes)):
        of_class = tested[:, labels == label].sum(1)
        assert of_class.max() - of_class.min() <= 1
    for each in assigned:
        assert (each == "validation").sum() == int(0.15 * len(labels) + 0.5)
        for split in ("train", "validation"):
            assert set(labels[each == split]) == set(range(len(sizes)))


def test_folds_depend_on_labels_seed_and_their_number_only():
    labels = labels_of(30, 20)
    options = dict(fold=1, folds=5, seed=3)
    first = assign_fold(labels, validation=0.2, **options)
    np.random.seed(99)
    assert (assign_fold(labels, validation=0.2, **options) == first).all()
    more = assign_fold(labels, validation=0.3, **options)
    assert ((more == "test") == (first == "test")).all()
    assert (more[first == "validation"] == "validation").all()
    other = assign_fold(labels, validation=0.2, fold=1, folds=5, seed=4)
    assert (other != first).any()


def test_validation_images_differ_between_folds():
    labels = labels_of(40, 40)
    chosen = [
        frozenset(np.flatnonzero(
            assign_fold(labels, fold=fold, folds=4, validation=0.2, seed=0) == "validation"
        ))
        for fold in range(4)
    ]  # fmt: skip
    assert len(set(chosen)) == 4


@pytest.mark.parametrize(
    ("sizes", "options", "said"),
    [
        ((10, 4), dict(folds=5), "class 1 has 4 images, too few for data.split.folds=5: it needs"),
        ((10, 3), dict(folds=2), "it needs 4"),
        ((10, 10), dict(folds=3, fold=3), "data.split.fold=3: choose 0 to 2"),
        ((10, 10), dict(folds=2, validation=0.6), "data.split.validation=0.6: 12 of the 10 images"),
        ((10, 10), dict(folds=2, validation=0), "validation and training need one of each class"),
        ((10, 10), dict(folds=2, validation=1.5), "validation=1.5: expected a fraction below 1"),
    ],
)
def test_impossible_folds_are_refused(sizes, options, said):
    options = {"fold": 0, "validation": 0.15, **options}
    with pytest.raises(UserError) as caught:
        assign_fold(labels_of(*sizes), seed=0, **options)
    assert said in str(caught.value)


def words(folder, *more: str) -> list[str]:
    return ["data=image_folder", f"data.dir={folder}", "data.size=16", *more]


def test_a_run_tests_the_images_of_its_fold(tmp_path):
    folder = draw_folder(tmp_path / "pictures", {"cats": 12, "dogs": 9})
    tested = []
    for fold in range(3):
        spec = compose(words(folder, "data.split.folds=3", f"data.split.fold={fold}")).data
        index = build_index(spec, seed=0)
        listing = index.listing
        names = np.array(list(listing.files.names()))
        tested += names[listing.splits == "test"].tolist()
        assert index.counts["test"].tolist() == [4, 3]
    assert len(tested) == len(set(tested)) == 21


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["data.split.folds=3"], "data.split.fold and data.split.folds belong together"),
        (["data.split.fold=0"], "data.split.fold and data.split.folds belong together"),
        (["data.split.folds=3", "data.split.fold=0", "data.split.test=0.2"], "the fold is the"),
    ],
)
def test_contradicting_keys_are_refused(tmp_path, more, said):
    folder = draw_folder(tmp_path / "pictures", {"cats": 12, "dogs": 9})
    with pytest.raises(UserError, match=said):
        build_index(compose(words(folder, *more)).data, seed=0)


def test_a_split_of_the_layout_is_not_divided(folder_of_two):
    more = ["data.split.folds=3", "data.split.fold=0"]
    with pytest.raises(UserError, match="has a split of its own: train, validation, test"):
        build_index(compose(words(folder_of_two, *more)).data, seed=0)


def test_drawn_images_are_refused():
    with pytest.raises(UserError, match="data=shapes cannot be divided into folds"):
        build_index(compose(["data.split.folds=3", "data.split.fold=0"]).data, seed=0)
