"""What is measured on some of the images is measured on all classes: data lies sorted by class."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from convlens.callbacks import ActivationGrids, AugmentationPreview, Mistakes
from convlens.callbacks import mistakes as mistakes_module
from convlens.callbacks.look import Look
from convlens.callbacks.predictions import PredictionBook
from convlens.callbacks.session import gather_context

import convlens.experiment.train
from convlens.config.compose import compose
from convlens.data.datamodule import PictureData
from convlens.data.pixels.dataset import Images
from convlens.data.probes import Probes, choose_probes
from convlens.training import ClassifierModule
from support.looks import look_at, untrained
from support.tiny import TINY, draw_folder


def data_of(*words: str) -> PictureData:
    return PictureData(compose(list(words)).data, seed=0, batch_size=4, eval_batch_size=5)


def looked_at(data: PictureData) -> dict:
    return gather_context(data, SimpleNamespace(device=torch.device("cpu")), "val")


def test_the_training_point_before_training_is_of_all_classes(tmp_path, monkeypatch):
    counts = {f"train/{name}": count for name, count in (("cat", 24), ("dog", 12))}
    counts |= {f"{split}/{name}": 6 for split in ("validation", "test") for name in ("cat", "dog")}
    folder = draw_folder(tmp_path / "pets", counts, size=16)
    measured, evaluate = [], ClassifierModule.evaluate

    def noted(self, loader, finish):
        measured.append(np.concatenate([batch["label"] for batch in loader]))
        return evaluate(self, loader, finish)

    monkeypatch.setattr(ClassifierModule, "evaluate", noted)
    words = ["data=image_folder", f"data.dir={folder}", "callbacks=none", "training.epochs=1"]
    convlens.experiment.train.train(compose([*TINY[1:], *words, f"run_dir={tmp_path / 'run'}"]))
    validation, training = measured
    assert np.bincount(validation).tolist() == [6, 6]
    assert np.bincount(training).tolist() == [8, 4], "as many pictures, in the data's proportions"


def test_several_processes_share_one_sample(tmp_path, monkeypatch):
    folder = draw_folder(tmp_path / "pets", {"cat": 30, "dog": 30})
    data = data_of("data=image_folder", f"data.dir={folder}", "data.size=8")
    alone = data.evaluation_loader("train", 9).rows
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(PictureData, "_get_rank", lambda self, rank=rank: (rank, 2))
        parts.append(data.evaluation_loader("train", 9).rows)
    assert sorted(np.concatenate(parts)) == alone.tolist() and len(alone) == 9


def test_looks_see_every_class_where_labels_repeat_at_the_distance_of_the_sample():
    data = data_of("data=shapes", "data.pictures=300", "data.size=16", "data.split.validation=201")
    labels = looked_at(data)["sample_labels"](41)
    assert (torch.bincount(labels, minlength=5) - 41 / 5).abs().max() < 1


def test_work_that_is_cut_short_has_seen_all_classes(tmp_path):
    folder = draw_folder(tmp_path / "pets", dict.fromkeys(("cat", "dog", "emu"), 40))
    data = data_of("data=image_folder", f"data.dir={folder}", "data.size=8")
    found = looked_at(data)
    labels = found["sample_labels"](18)
    assert torch.bincount(labels[:6]).tolist() == [2, 2, 2]
    pictures = data.dataset.splits["validation"]
    (images,) = found["sample_images"](18)
    for image, label in zip(images, labels, strict=True):  # they belong together
        same = (pictures.pixels(np.arange(len(pictures))) == (image.permute(1, 2, 0) * 255)
                .round().byte().numpy()).all(axis=(1, 2, 3))  # fmt: skip
        assert pictures.labels[same].tolist() == [int(label)]


def test_fewer_probes_than_classes_are_not_those_of_the_first_classes():
    labels = np.repeat(np.arange(20), 2)
    images = np.zeros((40, 8, 8, 3), np.uint8)
    pictures = Images(images, labels, [str(row) for row in range(40)])
    names = tuple("abcdefghijklmnopqrst")
    shown = [choose_probes(pictures, names, count=4, seed=s).labels.tolist() for s in range(30)]
    assert all(len(set(each)) == 4 and each == sorted(each) for each in shown)
    assert {label for each in shown for label in each} == set(range(20))


def test_callbacks_that_show_few_probes_show_several_classes():
    probes = Probes(
        torch.rand(4, 3, 16, 16), torch.tensor([0, 0, 1, 1]), ["c0", "c1", "d0", "d1"], ["-"] * 4
    )
    look = Look(untrained(names=("cat", "dog")), probes, ("cat", "dog"), 0, False, float("inf"), 0,
                augment=lambda images, seed: images)  # fmt: skip
    shown = {tag.rpartition("/")[2] for tag, _ in ActivationGrids(probes=2).pictures(look)}
    assert shown == {"c0", "d0"}
    shown = {tag.rpartition("/")[2] for tag, _ in AugmentationPreview(probes=2).pictures(look)}
    assert shown == {"c0", "d0"}


def test_random_pictures_of_another_project_are_random(monkeypatch):
    """Its data set cannot be asked again; what is held must not be the first class and mistakes."""
    book = PredictionBook()
    book.begin(hold=True)
    labels = torch.arange(400) // 200  # sorted by class
    said = labels.clone()
    said[:40] = 1  # 10 % mistakes, all of the first class
    for number in range(0, 400, 20):
        rows = slice(number, number + 20)
        logits = 5.0 * torch.eye(2)[said[rows]]
        book.take({"logits": logits}, (torch.zeros(20, 3, 4, 4), labels[rows]))
    book.end("val")
    answers = book.latest["val"]
    shown = []
    monkeypatch.setattr(
        mistakes_module, "picture_sheet",
        lambda entries, *, title, **_: shown.append((title, entries)) or np.zeros((1, 1, 3)),
    )  # fmt: skip
    given = look_at(untrained(names=("cat", "dog")), names=("cat", "dog"))
    kept = [int(row) for row in answers.images]

    def fetch(rows):
        there = [row for row in rows if row in kept]
        return torch.zeros(len(there), 3, 4, 4), there

    fields = {**vars(given), "predictions": answers, "fetch": fetch}
    list(Mistakes(mistakes=0, random=24).pictures(Look(**fields)))
    entries = next(entries for title, entries in shown if title.startswith("random"))
    assert len(entries) == 24
    wrong = sum(entry.correct is False for entry in entries)
    dogs = sum(entry.captions[0].startswith("predicted dog") and entry.correct for entry in entries)
    assert wrong <= 8 and 6 <= dogs <= 18
