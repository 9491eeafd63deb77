"""Rooms receive typed slices of the config: none takes the whole, or a table, or reads by text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from convlens.config.checks import GROUPS

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "convlens"
# what a config or a part of it is called
NAMES = {"config", "spec", "options", "thresholds", "theirs", *GROUPS}
# these hold what they say, and nothing of a config
OTHERS = {
    # a tracker shows the whole config, and reads none of it
    "callbacks/logging/to_mlflow.py: config",
    "callbacks/logging/to_trackio.py: config",
    "callbacks/logging/to_wandb.py: config",
    "callbacks/logging/tracker.py: config",
    "callbacks/attribution.py: options",  # a method's own, whose names are Captum's
    "src/convlens/explain/attribution.py: options",
    "src/convlens/explain/captum_methods.py: options",
    "src/convlens/models/timm_networks.py: options",  # a constructor's own, whose names are timm's
    "src/convlens/models/earlier_run.py: spec",  # out of a checkpoint
    "src/convlens/training/survival/checkpoint.py: config",  # out of a checkpoint, unread
}

# puts a run together: it has the whole
WHOLE = SOURCE / "experiment"


def sources() -> list[Path]:
    files = [*SOURCE.rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")]
    return sorted(file for file in files if (SOURCE / "config") not in file.parents)


def tables(tree: ast.AST) -> Iterator[str]:
    """Parameters and fields of a config's names that are tables."""
    for node in ast.walk(tree):
        found = []
        if isinstance(node, ast.FunctionDef):
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            found = [(each.arg, each.annotation) for each in arguments]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found = [(node.target.id, node.annotation)]
        for name, annotation in found:
            kinds = {each.id for each in ast.walk(annotation or ast.Constant(0))
                     if isinstance(each, ast.Name)}  # fmt: skip
            if name in NAMES and kinds & {"dict", "Mapping", "Dict", "DictConfig"}:
                yield name


def wholes(tree: ast.AST) -> Iterator[str]:
    """Parameters, fields and results that are the whole config."""
    for node in ast.walk(tree):
        annotation = getattr(node, "annotation", None) or getattr(node, "returns", None)
        for each in ast.walk(annotation or ast.Constant(0)):
            if "Config" in (getattr(each, "id", None), getattr(each, "attr", None)):
                yield getattr(node, "arg", None) or getattr(node, "name", None) or "a field"


def test_no_room_takes_the_whole_config():
    found = set()
    for file in sources():
        where = file.relative_to(ROOT).as_posix()
        if WHOLE not in file.parents:
            found |= {f"{where}: {each}" for each in wholes(ast.parse(file.read_text()))}
    assert not found


def reads(tree: ast.AST) -> Iterator[str]:
    """What is read by a text, of what bears a config's name."""
    for node in ast.walk(tree):
        key = None
        if isinstance(node, ast.Subscript):
            key, owner = node.slice, node.value
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "get" and node.args:
            key, owner = node.args[0], node.func.value
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            name = getattr(owner, "attr", None) or getattr(owner, "id", None)
            if name in NAMES:
                yield f'{name}["{key.value}"]'


@pytest.mark.parametrize("told", [tables, reads])
def test_no_room_takes_or_reads_a_table_of_the_config(told):
    found = set()
    for file in sources():
        where = file.relative_to(ROOT).as_posix()
        found |= {f"{where}: {each}" for each in told(ast.parse(file.read_text()))}
    assert not {each for each in found if each.partition("[")[0] not in OTHERS}


def test_a_whole_a_table_and_a_read_would_be_found():
    code = "class A:\n x: schema.Config | None\n def f(self, a, *, b: Config, c: DataConfig): ..."
    assert list(wholes(ast.parse(code))) == ["a field", "b"]
    code = "def f(config: dict, spec: Mapping[str, int]): return config['a'], self.spec.get('b')"
    assert list(tables(ast.parse(code))) == ["config", "spec"]
    assert list(reads(ast.parse(code))) == ['config["a"]', 'spec["b"]']
