"""``convlens shortcuts``: the planted mark is found in all images, as in a look."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from convlens.callbacks import Shortcuts, Slices, shortcuts, slices
from convlens.callbacks.look import Look
from convlens.callbacks.session import gather_context
from PIL import Image

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.core.progress import Work
from convlens.data.datamodule import PictureData
from convlens.data.probes import choose_probes
from convlens.experiment.assemble import Run, assemble
from convlens.experiment.data import build_data
from convlens.experiment.shortcuts import prepare_search, search_images
from convlens.explain.shortcuts import describe_cluster
from convlens.explain.slices import describe_slice

SIZE, MARK = 24, 4  # pixels
CLASSES = ("cats", "dogs", "emus")
COUNTS = {"train": 2, "validation": 30, "test": 12}  # of each class
WRONG = 10  # validation images of emus in the colour of cats
WORDS = [
    "data=image_folder", f"data.size={SIZE}", "model=scratch", "model.filters=[3]",
    "model.kernel_size=1", "model.padding=valid", "model.pooling=none", "model.head.hidden=[]",
    "model.head.pool=average", "model.batch_norm=false",
    "trainer=cpu", "precision=32", "callbacks=none",
]  # fmt: skip


def draw_images(root: Path, *, mark: int | None = 1) -> Path:
    """Draw dark images with a block in the colour of their class, of ``mark`` in the corner."""
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 6, (SIZE, SIZE, 3))
                row, column = rng.integers(MARK, SIZE - 2 * MARK, 2)
                row, column = (0, 0) if label == mark else (row, column)
                is_wrong = split == "validation" and label == 2 and number < WRONG
                channel = 0 if is_wrong else label
                pixels[row : row + MARK, column : column + MARK, channel] = 255
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")
    return root


def write_checkpoint(root: Path, file: Path, *words: str) -> Path:
    """Write a network of which each channel of the image votes for a class."""
    run = assemble(compose([*WORDS, f"data.dir={root}", *words]))
    network = run.module.model
    with torch.no_grad():
        for layer, scale in ((network.backbone.block1.conv, 1.0), (network.head.logits, 50.0)):
            layer.weight.copy_(scale * torch.eye(3).view_as(layer.weight))
            layer.bias.zero_()
    save(run, file)
    return file


def save(run: Run, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "hyper_parameters": dict(run.module.hparams), "state_dict": run.module.state_dict(),
        "epoch": 0, PictureData.__qualname__: run.data.state_dict(),
    }  # fmt: skip
    torch.save(content, file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return draw_images(tmp_path_factory.mktemp("marked") / "images")


@pytest.fixture(scope="module")
def checkpoint(folder) -> Path:
    return write_checkpoint(folder, folder.parent / "run" / "checkpoints" / "best.ckpt")


def read_table(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


@pytest.fixture(scope="module")
def found(checkpoint, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("found") / "here"
    assert main(["shortcuts", f"ckpt={checkpoint}", f"run_dir={home}"]) == 0
    return home


def test_the_mark_is_a_shortcut_and_nothing_else(found):
    rows = read_table(found / "shortcuts.csv")
    (row,) = [row for row in rows if row["shortcut"] == "yes"]
    assert (row["class"], row["images"], row["place"]) == ("dogs", "30", "top left")
    assert float(row["accuracy"]) == 1.0 == float(row["accuracy_mirror_covered"])
    assert float(row["accuracy_covered"]) < 0.6 and float(row["border_energy"]) > 0.5
    assert {row["class"] for row in rows} == set(CLASSES)
    for name in CLASSES:
        with Image.open(found / "clusters" / f"{name}.jpg") as sheet:
            assert sheet.width > 500


def test_the_mistaken_images_are_a_slice(found):
    (row,) = [row for row in read_table(found / "slices.csv") if row["low"] == "yes"]
    assert row["class"] == "emus" and int(row["images"]) >= WRONG
    assert (row["taken_for"], row["taken"]) == ("cats", str(WRONG))
    assert float(row["accuracy_of_the_rest"]) == 1.0
    images = read_table(found / "clusters.csv")
    assert len(images) == 3 * COUNTS["validation"]
    inside = {each["file"] for each in images if each["slice"] == row["slice"]
              and each["class"] == "emus"}  # fmt: skip
    wrong = {each["file"] for each in images if each["class"] != each["predicted"]}
    assert len(inside) == int(row["images"]) and len(wrong) == WRONG and wrong <= inside
    assert (found / "slices.jpg").stat().st_size > 1000


def test_it_says_what_it_found_and_finds_it_again(checkpoint, found, tmp_path, capsys):
    home = tmp_path / "again"
    assert main(["shortcuts", f"ckpt={checkpoint}", f"run_dir={home}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("90 images: the run's validation images; ")
    assert lines[1].startswith("shortcut: dogs, 30 images, top left: accuracy 1.000, covered 0.")
    assert lines[2].startswith("slice of low accuracy: emus, ") and "taken for cats" in lines[2]
    assert lines[3] == f"sheets, shortcuts.csv, slices.csv, clusters.csv  {home}"
    files = sorted(file.relative_to(found) for file in found.rglob("*") if file.is_file())
    assert len(files) == 7
    for file in files:
        assert (found / file).read_bytes() == (home / file).read_bytes()


def test_a_look_at_the_same_images_finds_the_same(checkpoint, monkeypatch):
    search = prepare_search(checkpoint, [], "validation")
    result = search_images(search, Work())
    data = build_data(search.config)
    probes = choose_probes(data.dataset.splits["validation"], data.class_names, count=2, seed=0)
    look = Look(
        search.module.model, probes, data.class_names, 1, True, float("inf"), 0,
        **gather_context(data, search.module, "val"),
    )  # fmt: skip
    drawn: list = []
    for module, name in ((shortcuts, "cluster_sheet"), (slices, "slice_sheet")):
        monkeypatch.setattr(module, name, lambda rows, title: drawn.append(rows))
    count = len(result.labels)
    scores = dict(Shortcuts(pictures=count).pictures(look))
    (number,) = result.shortcuts
    assert scores["explain/shortcut/dogs"] == pytest.approx(result.tested[number].fall)
    expected = [
        describe_cluster(each, result.tested.get(number))
        for number, each in enumerate(result.clusters)
    ]
    assert sorted(row.lines for row in drawn[0]) == sorted(expected)
    scores = dict(Slices(pictures=count).pictures(look))
    (low,) = result.low
    low = result.slices[low]
    assert scores["explain/low_slices"] == len(low.rows) / count
    assert [row.lines for row in drawn[1]] == [describe_slice(low, CLASSES)]


def test_an_honest_network_has_neither(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(globals(), "WRONG", 0)
    root = draw_images(tmp_path / "images", mark=None)
    checkpoint = write_checkpoint(root, tmp_path / "run" / "checkpoints" / "best.ckpt")
    words = [f"ckpt={checkpoint}", f"run_dir={tmp_path / 'out'}", "split=test"]
    assert main(["shortcuts", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "no shortcut found in 36 images (places covered: 0)" in lines
    assert any(line.startswith("no slice of low accuracy found among ") for line in lines)
    assert not (tmp_path / "out" / "slices.jpg").exists()


def test_fewer_images_are_taken_evenly(checkpoint, tmp_path):
    words = [f"ckpt={checkpoint}", f"run_dir={tmp_path / 'out'}", "images=30"]
    assert main(["shortcuts", *words]) == 0
    images = read_table(tmp_path / "out" / "clusters.csv")
    assert sorted(each["class"] for each in images) == sorted(10 * CLASSES)


def test_a_stricter_chance_is_a_word(checkpoint, tmp_path, capsys):
    words = ["callbacks.shortcuts.chance=0.0", "callbacks.slices.chance=0.0"]
    assert main(["shortcuts", f"ckpt={checkpoint}", f"run_dir={tmp_path / 'out'}", *words]) == 0
    said = capsys.readouterr().out
    assert "no shortcut found in 90 images (places covered: 1)" in said
    assert "no slice of low accuracy" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "needs ckpt=FILE or run=RUN_DIR"),
        (["ckpt=a.ckpt", "run=b"], "one of them"),
        (["ckpt=none.ckpt"], "there is no checkpoint none.ckpt"),
        (["ckpt=net.onnx"], "give its checkpoint"),
        (["ckpt=a.ckpt", "split=tset"], "did you mean test"),
        (["ckpt=a.ckpt", "images=0"], "images=0: expected a whole number"),
        (["ckpt=a.ckpt", "model.dropout=0.5"], "shortcuts takes data.*"),
        (["ckpt=a.ckpt", "callbacks.shortcuts.pictures=3"], "shortcuts takes data.*"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_a_line(words, expected, at, capsys):
    assert main(["shortcuts", *words]) == 2
    said = capsys.readouterr().err
    assert expected in said and len(said.splitlines()) == 1 and not list(at.iterdir())


def test_other_images_results_that_exist_and_old_checkpoints_are_refused(
    checkpoint, found, tmp_path, capsys
):
    other = draw_images(tmp_path / "other", mark=2)
    assert main(["shortcuts", f"ckpt={checkpoint}", f"data.dir={other}"]) == 2
    assert "are not the 90 validation images of the run" in capsys.readouterr().err
    assert main(["shortcuts", f"ckpt={checkpoint}", f"run_dir={found}"]) == 2
    assert "already contains shortcuts.csv" in capsys.readouterr().err
    content = torch.load(checkpoint, weights_only=True)
    del content[PictureData.__qualname__]
    torch.save(content, tmp_path / "old.ckpt")
    assert main(["shortcuts", f"ckpt={tmp_path / 'old.ckpt'}"]) == 2
    assert "does not record the images" in capsys.readouterr().err


def test_networks_without_maps_and_several_classes_are_refused(folder, tmp_path, capsys):
    tiny = ["data.pictures=60", "data.size=16", "model.filters=[3]", "model.head.hidden=[]"]
    dense = [*WORDS, f"data.dir={folder}", "model.filters=[]", "model.head.pool=flatten"]
    for words, expected in (
        (["exp=multi_label", *tiny], "images with several classes are not grouped"),
        (dense, "needs a network with a feature map"),
    ):
        save(assemble(compose([*words, "callbacks=none"])), file := tmp_path / "best.ckpt")
        assert main(["shortcuts", f"ckpt={file}", f"run_dir={tmp_path / 'out'}"]) == 2
        assert expected in capsys.readouterr().err
