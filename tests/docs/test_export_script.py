"""The script of docs/export.md, which needs only onnxruntime and Pillow, answers as `predict`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import convlens
from convlens.data.pixels.decode import Recipe
from convlens.export import onnx_file
from convlens.export.answers import LOGITS, PROBABILITIES, Answers, copy_plain
from convlens.export.facts import make_facts
from support.pictures_made import ORIENTATION, photo
from support.places import ROOT

pytest.importorskip("onnxruntime", reason="comes with the extra `export`")
pytest.importorskip("onnxscript", reason="comes with the extra `export`")

(SCRIPT,) = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.S)
MOST_LINES = 25
RECIPES = [
    Recipe(40, 56, channels, resize, interpolation)
    for (resize, interpolation), channels in product(
        [("squash", "bilinear"), ("crop", "bicubic"), ("pad", "bilinear"), ("squash", "nearest")],
        [3, 1],
    )
]
CLASSES = ("cat", "dog", "emu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    photo(90, 60).save(folder / "wide.jpg", quality=95)
    photo(61, 97, 6).save(folder / "tall.png")
    photo(1500, 1100, 1).save(folder / "large.jpg", quality=90)
    for turn in range(2, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = turn
        photo(50, 81, turn).save(folder / f"turned_{turn}.jpg", exif=exif)
    photo(40, 41, 3).convert("L").save(folder / "grey.png")
    photo(30, 50, 4).convert("P").save(folder / "palette.png")
    photo(45, 33, 7).convert("CMYK").save(folder / "cmyk.jpg")
    photo(45, 33, 8).convert("1").save(folder / "black_or_white.png")
    for mode in ("RGBA", "LA"):
        alpha = photo(60, 44, 5).convert(mode)
        alpha.putalpha(Image.linear_gradient("L").resize((60, 44)))
        alpha.save(folder / f"transparent_{mode}.png")
    return sorted(folder.iterdir())


def build_network(recipe: Recipe) -> nn.Module:
    """Build a network whose answer depends on every pixel."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(recipe.channels, 4, 5), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(),
            nn.Linear(4 * 9 * 13, len(CLASSES)),
        )  # fmt: skip
        network[-1].weight.data *= 10  # different classes for different images
    return network.eval()


def test_the_script_is_short_and_needs_only_two_packages():
    assert sum(bool(line.strip()) for line in SCRIPT.splitlines()) <= MOST_LINES
    assert all(len(line) <= 100 for line in SCRIPT.splitlines())
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name)
        for node in ast.walk(ast.parse(SCRIPT))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported == {"json", "sys", "numpy", "onnxruntime", "PIL"}


@pytest.mark.parametrize(
    "recipe", RECIPES, ids=lambda each: f"{each.resize}-{each.interpolation}-{each.channels}"
)
def test_the_script_answers_as_predict(recipe, pictures, tmp_path):
    network = build_network(recipe)
    example = torch.rand(2, *(recipe.channels, recipe.height, recipe.width))
    content = onnx_file.convert(Answers(copy_plain(network)), example, [PROBABILITIES, LOGITS])
    facts = replace(make_facts(CLASSES, recipe), card="# a card")
    (tmp_path / "network.onnx").write_bytes(onnx_file.add_metadata(content, facts.to_metadata()))
    (tmp_path / "classify.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-I", "classify.py", "network.onnx", *pictures],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    explainers = (
        convlens.Explainer(network, CLASSES, recipe, outputs="logits"),
        convlens.load(tmp_path / "network.onnx"),
    )
    for explainer in explainers:
        found = torch.cat([explainer.probabilities(explainer.read(p)[None]) for p in pictures])
        best = found.argmax(1).tolist()
        assert [row[:2] for row in rows] == [
            [str(picture), CLASSES[number]] for picture, number in zip(pictures, best, strict=True)
        ]
        printed = torch.tensor([float(row[2]) for row in rows])
        torch.testing.assert_close(printed, found.amax(1), atol=2e-6, rtol=0)
    assert len({row[1] for row in rows}) > 1  # the images are told apart
