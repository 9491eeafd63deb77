"""Sources and datamodule: what reaches a batch is what lies on disk."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.data.datamodule import PictureData
from convlens.data.index.generators import make_generator
from convlens.data.probes import choose_probes
from support.tiny import draw_folder


def data(*words: str, seed: int = 0, batch_size: int = 4) -> PictureData:
    spec = compose(list(words)).data
    return PictureData(spec, seed=seed, batch_size=batch_size, eval_batch_size=5)


def folder_words(folder, *more: str) -> list[str]:
    return ["data=image_folder", f"data.dir={folder}", "data.size=24", *more]


def test_pixels_labels_and_names_of_a_batch_are_those_of_the_files(folder_of_two):
    module = data(*folder_words(folder_of_two))
    pictures = module.dataset.splits["test"]
    for batch in module.test_dataloader():
        finished = module.finish(batch)
        for image, label, row in zip(
            finished["image"], finished["label"], finished["row"], strict=True
        ):
            file = pictures.names[int(row)]
            assert module.class_names[int(label)] in file
            truth = np.asarray(Image.open(file), dtype=np.float32) / 255
            assert torch.equal(image, torch.from_numpy(truth).permute(2, 0, 1))


def test_only_training_batches_are_augmented(folder_of_two):
    module = data(*folder_words(folder_of_two, "data.augment.rotation_degrees=90"))
    (batch, *_) = module.train_dataloader()
    plain = batch["image"].float() / 255
    assert not torch.equal(module.finish(batch)["image"], plain)
    (batch, *_) = module.val_dataloader()
    assert torch.equal(module.finish(batch)["image"], batch["image"].float() / 255)


def test_class_folders_without_splits_are_split_and_seeded(tmp_path):
    folder = draw_folder(tmp_path / "pics", {"a": 20, "b": 40})
    words = folder_words(folder, "data.split.validation=0.2", "data.split.test=6")
    counts = data(*words).index.counts
    assert {split: found.tolist() for split, found in counts.items()} == {
        "train": [14, 28],
        "validation": [4, 8],
        "test": [2, 4],
    }
    names = [list(data(*words, seed=s).dataset.splits["test"].names) for s in (0, 0, 1)]
    assert names[0] == names[1] != names[2]


def test_flat_folder_by_pattern_and_by_table(tmp_path):
    folder = draw_folder(tmp_path / "pics", {".": 12})
    for i in range(12):
        (folder / f"{i}.png").rename(folder / f"{'cat' if i % 2 else 'dog'}.{i}.png")
    with pytest.raises(UserError, match="pattern"):
        data(*folder_words(folder))
    module = data(*folder_words(folder, "data.pattern={class}.*"))
    assert module.class_names == ("cat", "dog")
    lines = [f"{p.name},{'x' if 'cat' in p.name else 'y'}" for p in sorted(folder.glob("*.png"))]
    (tmp_path / "labels.csv").write_text("file,label\n" + "\n".join(lines) + "\n")
    module = data(*folder_words(folder, f"data.csv={tmp_path / 'labels.csv'}"))
    assert module.class_names == ("x", "y")


def test_identical_files_across_the_split_are_reported(folder_of_two):
    shutil.copy(folder_of_two / "train/cats/0.png", folder_of_two / "test/cats/twin.png")
    (note,) = data(*folder_words(folder_of_two)).index.notes
    assert "train/cats/0.png" in note and "test/cats/twin.png" in note


def test_skipped_pictures_leave_labels_and_pixels_together(folder_of_two):
    (folder_of_two / "test/cats/1.png").write_bytes(b"no image")
    module = data(*folder_words(folder_of_two, "data.on_error=skip"))
    pictures = module.dataset.splits["test"]
    assert len(pictures) == 7
    assert not [name for name in pictures.names if name.endswith("cats/1.png")]
    for row, name in enumerate(pictures.names):
        truth = np.asarray(Image.open(name))
        assert np.array_equal(pictures.pixels(np.array([row]))[0], truth)
    assert "1 broken image skipped" in module.dataset.notes[-1]


def test_shortcut_marks_training_and_validation_never_test():
    words = ["data=shapes", "data.pictures=80", "data.size=32"]
    plain, marked = data(*words).dataset, data(*words, "data.shortcut=1.0").dataset
    for split, changed in (("train", True), ("validation", True), ("test", False)):
        differs = plain.splits[split].images != marked.splits[split].images
        assert differs.any(axis=(1, 2, 3)).all() == changed
        assert differs.any() == changed
        # the mark is small and stands in a corner
        assert differs.mean() < 0.05


def test_shapes_have_masks_and_draw_other_pictures_for_each_split():
    splits = data("data=shapes", "data.pictures=80", "data.size=32").dataset.splits
    assert all(p.masks.shape == p.images.shape[:3] for p in splits.values())
    firsts = [p.images[0].tobytes() for p in splits.values()]
    assert len(set(firsts)) == 3


def test_probes_are_balanced_seeded_and_fixed():
    pictures = data("data=shapes", "data.pictures=200", "data.size=32").dataset.splits["validation"]
    names = ("a", "b", "c", "d", "e")
    one, again = (choose_probes(pictures, names, count=10, seed=3) for _ in range(2))
    assert torch.equal(one.images, again.images) and one.names == again.names
    assert one.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert choose_probes(pictures, names, count=10, seed=4).sources != one.sources
    assert len(choose_probes(pictures, names, count=3, seed=0)) == 3


def test_probes_are_those_that_looking_through_every_class_finds():
    pictures = data("data=shapes", "data.pictures=200", "data.size=32").dataset.splits["validation"]
    names = ("a", "b", "c", "d", "e", "of this one there is none")
    for seed, count in ((0, 7), (5, 12), (9, 1000)):
        shuffled = make_generator(seed, 2).permutation(len(pictures))
        by_class = [[r for r in shuffled if pictures.labels[r] == k] for k in range(len(names))]
        wanted = [rows[d] for d in range(len(pictures)) for rows in by_class if d < len(rows)]
        wanted = sorted(wanted[:count], key=lambda row: (pictures.labels[row], row))
        chosen = choose_probes(pictures, names, count=count, seed=seed)
        assert chosen.sources == [pictures.names[row] for row in wanted]


def test_mnist_is_used_where_it_lies(shared_data):
    module = data("data=mnist", f"data.dir={shared_data / 'mnist'}", "data.split.validation=0.1")
    assert {split: int(c.sum()) for split, c in module.index.counts.items()} == {
        "train": 54_000,
        "validation": 6_000,
        "test": 10_000,
    }
    assert module.dataset.splits["test"].images.shape == (10_000, 28, 28, 1)


def test_arrays_are_resized_and_coloured(shared_data):
    words = ["data=mnist", f"data.dir={shared_data / 'mnist'}", "data.size=20", "data.channels=3"]
    assert data(*words).dataset.splits["test"].images.shape == (10_000, 20, 20, 3)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["data.size=4"], "data.size=4"),
        (["data.size=12"], "data.size=12: shapes are drawn with 16 to 256 pixels"),
        (["data.channels=2"], "data.channels=2"),
        (["data.resize=stretch"], "data.resize=stretch"),
        (["data.cache=disc"], "did you mean disk"),
        (["data.classes=99"], "data.classes=99: shapes has 2 to 12 classes"),
        (["data.classes=1"], "data.classes=1: shapes has 2 to 12 classes"),
        (["data.pictures=5"], "data.pictures=5"),
        (["data.shortcut=2.0"], "data.shortcut=2.0"),
        (["data.shortcut=1", "data.shortcut_kind=frame"], "data.shortcut_kind=frame"),
        (
            ["data.shortcut=1", "data.shortcut_kind=watermark", "data.size=24"],
            "data.shortcut_kind=watermark needs data.size=32 or more",
        ),
        (["data.split.validation=0"], "data.split.validation"),
    ],
)
def test_bad_values_are_named(words, named):
    with pytest.raises(UserError, match=named):
        data("data=shapes", *words)
