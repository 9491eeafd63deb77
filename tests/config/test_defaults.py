"""Defaults live in configs/: no room's signature repeats one, no callback contradicts its own."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from convlens import callbacks
from convlens.config import schema
from convlens.config.compose import compose

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {
    "data": (schema.DataConfig, schema.SplitConfig, schema.AugmentConfig),
    "models": (schema.ModelConfig, schema.HeadConfig),
    "training": (
        schema.TrainingConfig, schema.OptimizerConfig, schema.SchedulerConfig,
        schema.FinetuneConfig, schema.PhaseConfig, schema.PlateauConfig,
    ),
}  # fmt: skip
# it decodes for anybody, without a config: it may repeat a default, as it stands there
ALONE_TOO = ("pixels/decode.py",)
# of the same name, and something else
OTHERS = {"index/kinds.py: name", "index/labels.py: csv", "finetune/groups.py: factor",
          "index/labels.py: pattern", "index/labels.py: encoding",
          "finetune/schedule.py: batch_norm"}  # fmt: skip
# a callback works alone too, in anybody's project, and then these stand in no config
ALONE = {("Attribution", "options"): None, ("OcclusionMaps", "probes"): 2,
         ("Mistakes", "table"): 0}  # fmt: skip


def defaults(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Parameters, and fields of classes, that have a default which is no null."""
    for node in ast.walk(tree):
        found: list[tuple[str, ast.expr | None]] = []
        if isinstance(node, ast.FunctionDef):
            plain = [*node.args.posonlyargs, *node.args.args]
            behind = plain[len(plain) - len(node.args.defaults) :]
            found = [(a.arg, d) for a, d in zip(behind, node.args.defaults, strict=True)]
            named = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            found += [(a.arg, d) for a, d in named]
        elif isinstance(node, ast.ClassDef):
            found = [
                (each.target.id, each.value)
                for each in node.body
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
            ]
        for name, default in found:
            if default is not None and not (
                isinstance(default, ast.Constant) and default.value is None
            ):
                yield name, default


@pytest.mark.parametrize("room", ROOMS)
def test_no_signature_of_a_room_repeats_a_default(room):
    keys = {key for kind in ROOMS[room] for key in kind.model_fields}
    base = yaml.safe_load((ROOT / "configs" / "data" / "base.yaml").read_text())
    base |= yaml.safe_load((ROOT / "configs" / "data" / "shapes.yaml").read_text())
    base |= {"on_error": "raise", "decode": "exact"}  # of configs/data/image_folder.yaml
    found = set()
    for file in (ROOT / "src" / "convlens" / room).rglob("*.py"):
        where = f"{file.parent.name}/{file.name}"
        for name, default in defaults(ast.parse(file.read_text())):
            known = where in ALONE_TOO and ast.unparse(default) == repr(base.get(name))
            if name in keys and not known and f"{where}: {name}" not in OTHERS:
                found.add(f"{where}: {name}={ast.unparse(default)}")
    assert not found


def nodes() -> dict[str, dict]:
    """The callbacks of configs/callbacks by their class."""
    found = {}
    for name in ("default", "all"):
        content = yaml.safe_load((ROOT / "configs" / "callbacks" / f"{name}.yaml").read_text())
        found |= {node["_target_"]: node for node in content.values() if isinstance(node, dict)}
    return found


@pytest.mark.parametrize("name", schema.LOOKS)
def test_no_callback_contradicts_its_config(name):
    parameters = inspect.signature(getattr(callbacks, name)).parameters
    node = nodes()[f"convlens.callbacks.{name}"]
    for key, value in node.items():
        if key == "_target_":
            continue
        if str(value).startswith("${"):  # a reference to a key outside the callbacks
            value = OmegaConf.select(OmegaConf.create(compose([]).plain()), value[2:-1])
        assert key in parameters, f"{name} takes no {key}"
        if parameters[key].default is not inspect.Parameter.empty:
            assert parameters[key].default == ALONE.get((name, key), value), f"{name}.{key}"
