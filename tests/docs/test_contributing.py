"""The recipes of CONTRIBUTING work when followed in a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.tiny import TINY

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
MOST_LINES = 12
RECIPES = ("Add a backbone", "Add a look", "Add a data source", "Add a command")

pytestmark = pytest.mark.slow


def recipe(title: str) -> str:
    return TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]


def code(title: str) -> dict[str, str]:
    """Return the files of a recipe: each block begins with its name in a comment."""
    blocks = re.findall(r"```\w+\n# (\S+)\n(.*?)```", recipe(title), re.S)
    return dict(blocks)


@pytest.fixture
def package(tmp_path) -> Path:
    """Copy the package, with callbacks/ and configs/ as they are installed."""
    home = tmp_path / "convlens"
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "convlens", home, ignore=skip)
    for part in ("callbacks", "configs"):
        shutil.copytree(ROOT / part, home / part, ignore=skip)
    return home


def convlens(package: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    command = [sys.executable, "-m", "convlens", *words]
    done = subprocess.run(
        command, cwd=package.parent, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, f"{file.name} has changed: mend the recipe"
    file.write_text(text.replace(old, new, 1))


def train(package: Path, *words: str) -> None:
    shared = [word for word in TINY if not word.startswith("callbacks")]
    convlens(package, "train", *shared, "training.epochs=1", "run_dir=run", *words)


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_takes_no_more_lines_than_promised(title):
    for name, text in code(title).items():
        lines = [line for line in text.splitlines() if line.strip()]
        assert len(lines) <= MOST_LINES, name


def test_a_backbone(package):
    for name, text in code("Add a backbone").items():
        file = package.parent / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    train(package, "config_dir=mine", "model=tiny", "callbacks=none")
    assert "tiny.Tiny" in (package.parent / "run" / "config.yaml").read_text()


def test_a_look(package):
    for name, text in code("Add a look").items():
        (package / name).write_text(text)
    init = package / "callbacks" / "__init__.py"
    init.write_text(
        init.read_text() + "\nfrom convlens.callbacks.brightness import Brightness  # noqa\n"
    )
    looks = package / "config" / "schema" / "looks.py"
    edit(
        looks, "LOOKS", 'class BrightnessConfig(EachEpochConfig):\n    """Brightness."""\n\n\nLOOKS'
    )
    edit(looks, "AttributionConfig,\n", "AttributionConfig, BrightnessConfig,\n")
    node = re.search(r"`(brightness: \{.*?\})`", recipe("Add a look"))[1]
    with (package / "configs" / "callbacks" / "all.yaml").open("a") as file:
        file.write(f"\n{node}\n")
    train(package, "callbacks=all")
    assert "explain/brightness" in (package.parent / "run" / "metrics.csv").read_text()


READ = '''
import numpy as np


def dots(directory, download=True):
    """Bright dots, left or right."""
    labels = np.arange(40) % 2
    images = np.zeros((40, 32, 32, 3), np.uint8)
    for number, label in enumerate(labels):
        images[number, number % 32, 4 + 20 * label] = 255
    return {"train": (images, labels), "test": (images[:, :, ::-1][:8], 1 - labels[:8])}
'''


def test_a_data_source(package):
    sources = package / "data" / "sources"
    (sources / "dots.py").write_text(READ)
    edit(
        sources / "packed.py",
        "SETS = {",
        'SETS = {\n    "dots": (dots.dots, ("left", "right"), 0),',
    )
    edit(
        sources / "packed.py", "from convlens.data.sources import torchvision_sets",
        "from convlens.data.sources import dots, torchvision_sets",
    )  # fmt: skip
    edit(sources / "registry.py", "STORES = {", 'STORES = {\n    "dots": packed.index_packed,')
    config = package / "configs" / "data" / "dots.yaml"
    config.write_text("defaults: [base, _self_]\nname: dots\nsize: 32\n")
    words = [word for word in TINY if not word.startswith(("callbacks", "data."))]
    convlens(package, "train", "data=dots", *words, "training.epochs=1", "run_dir=run",
             "callbacks=none")  # fmt: skip
    assert "right" in convlens(package, "plan", "data=dots")


def test_a_command(package):
    file = package / "cli" / "count.py"
    file.write_text("def run(words):\n    print(len(words), 'words')\n    return 0\n")
    edit(package / "cli" / "main.py", "COMMANDS = {", 'COMMANDS = {\n    "count": "counts words",')
    assert convlens(package, "count", "a=1", "b=2").strip() == "2 words"
