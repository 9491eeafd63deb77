"""A run from each layout of labels; with boxes, its pointing score is that of the boxes."""

from __future__ import annotations

import csv
import io
import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import convlens
from convlens.cli.main import main
from support.annotated_made import NAMES, make_coco, make_yolo, scenes
from support.tiny import TINY

SIZE = 32
SMALL = [word for word in TINY if not word.startswith(("data.pictures", "data.size"))]
SMALL += [f"data.size={SIZE}", "training.epochs=2", "logger.tensorboard=false",
          "looking.seconds=600", "looking.first_seconds=600"]  # fmt: skip
SCORES = [f"callbacks.{name}=null" for name in (
    "filter_visuals", "occlusion_maps", "activation_grids", "class_means", "mistakes"
)]  # fmt: skip
TRAIN, VALIDATION, TEST = scenes(24, 1), scenes(12, 2), scenes(6, 3)


def train(home: Path, *words: str) -> dict:
    assert main(["train", f"run_dir={home}", *SMALL, *words]) == 0
    summary = json.loads((home / "summary.json").read_text())
    facts = json.loads((home / "data.json").read_text())
    assert facts["classes"] == sorted(NAMES)
    assert {split: sum(counts) for split, counts in facts["images"].items()} == {
        "train": 24, "validation": 12, "test": 6,
    }  # fmt: skip
    return summary


def last_row(home: Path) -> dict[str, str]:
    with open(home / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))[-1]


def is_object(file: Path) -> np.ndarray:
    """Return (SIZE, SIZE) bool: where the image is coloured, as the network gets it."""
    image = Image.open(file).resize((SIZE, SIZE), Image.Resampling.NEAREST)
    return np.ptp(np.asarray(image).astype(int), axis=2) > 100


@pytest.mark.parametrize(
    ("layout", "parts"),
    [
        ("coco", ("train2017", "val2017", "test2017")),
        pytest.param("yolo", ("train", "val", "test"), marks=pytest.mark.slow),
    ],
)
def test_the_pointing_score_of_a_run_is_that_of_the_boxes(tmp_path, layout, parts):
    make = {"coco": make_coco, "yolo": make_yolo}[layout]
    root = make(tmp_path / "data", dict(zip(parts, (TRAIN, VALIDATION, TEST), strict=True)))
    home = tmp_path / "run"
    train(home, f"data={layout}", f"data.dir={root}", "data.interpolation=nearest", *SCORES)
    row = last_row(home)
    network = convlens.load(home / "checkpoints" / "last.ckpt")
    folder = root / (parts[1] if layout == "coco" else "images/val")
    hits, shares = [], []
    for file in sorted(folder.iterdir()):
        mask = is_object(file)
        explained = network.explain(str(file), only="grad_cam")
        (maps,) = explained.grad_cam.values()
        cam = torch.nn.functional.interpolate(maps[None, :1], (SIZE, SIZE), mode="bilinear")[0, 0]
        shares.append(mask.mean())
        if cam.max() > cam.min():
            hits.append(mask[tuple(np.unravel_index(int(cam.argmax()), cam.shape))])
    assert float(row["explain/object_share"]) == pytest.approx(np.mean(shares), abs=1e-6)
    assert float(row["explain/pointing_game"]) == pytest.approx(np.mean(hits), abs=1e-6)
    assert 0 < float(row["explain/energy_inside"]) < 1


def read_images(root: Path) -> dict[str, list[tuple[str, bytes]]]:
    """Return class and bytes of the images that the COCO data set has, by split."""
    parts = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    make_coco(root, parts)
    return {
        split: [(objects[0][0], (root / split / file).read_bytes())
                for file, (_, objects) in images.items()]
        for split, images in parts.items()
    }  # fmt: skip


@pytest.mark.slow
def test_a_run_from_hugging_face_resumes(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the extra huggingface is not installed")
    parts = read_images(tmp_path / "pics")
    label = datasets.ClassLabel(names=["dog", "cow", "cat"])
    features = datasets.Features({"image": datasets.Image(), "label": label})
    datasets.DatasetDict({
        split: datasets.Dataset.from_dict({
            "image": [{"bytes": content, "path": None} for _, content in images],
            "label": [label.str2int(name) for name, _ in images],
        }, features=features)
        for split, images in parts.items()
    }).save_to_disk(tmp_path / "saved")  # fmt: skip
    words = ["data=huggingface", f"data.dir={tmp_path / 'saved'}", "callbacks=none"]
    words += ["scheduler=constant"]  # which allows more epochs later
    summary = train(tmp_path / "run", *words)
    assert math.isfinite(summary["test"]["loss"])
    # unpacked again in another place, the images are still those of the run
    monkeypatch.setenv("CONVLENS_CACHE", str(tmp_path / "cache"))
    assert main(["resume", f"run={tmp_path / 'run'}", "training.epochs=3"]) == 0
    assert main(["eval", f"run={tmp_path / 'run'}"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (evaluation,) = summary["evaluations"].values()
    assert evaluation["test"] == summary["test"]


def test_a_run_from_tar_shards(tmp_path):
    for split, images in read_images(tmp_path / "pics").items():
        (tmp_path / "shards").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "shards" / f"{split}-000000.tar", "w") as archive:
            for number, (name, content) in enumerate(images):
                for suffix, data in (("png", content), ("cls", name.encode())):
                    info = tarfile.TarInfo(f"{number:04d}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    words = ["data=webdataset", f"data.dir={tmp_path / 'shards'}", "callbacks=none"]
    summary = train(tmp_path / "run", *words)
    assert math.isfinite(summary["test"]["loss"])


def test_layouts_of_the_same_images_give_the_same_weights(tmp_path):
    """The order of the images, and so of the batches, is that of split, class and name."""
    ends = []
    for layout, parts in (("coco", ("train", "val", "test")), ("yolo", ("train", "val", "test"))):
        make = {"coco": make_coco, "yolo": make_yolo}[layout]
        root = make(tmp_path / layout, dict(zip(parts, (TRAIN, VALIDATION, TEST), strict=True)))
        home = tmp_path / f"run_{layout}"
        train(home, f"data={layout}", f"data.dir={root}", "callbacks=none")
        ends.append(torch.load(home / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
