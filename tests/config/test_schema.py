"""The schema: every key once, with its meaning; checked, fixed, and defaulted in configs/ only."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from convlens.config.checks import check_config, find_rule, replace_values, restore_config
from convlens.config.compose import compose
from convlens.config.migrate import FORMAT, dump_config
from convlens.config.schema import LOOKS, Config, Own, Slice
from convlens.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "convlens"
# what an entry of a list leaves out no file of configs/ can say
ENTRIES = {"PhaseConfig"}
# handed to torch's optimizers and Lightning's trainer under their own names
THEIRS = {"betas", "eps", "alpha", "momentum", "nesterov", "weight_decay", "devices", "strategy"}


def slices(kind: type = Slice) -> Iterator[type[Slice]]:
    for each in kind.__subclasses__():
        if each.__module__.startswith("convlens."):
            yield each
        yield from slices(each)


def fields() -> Iterator[tuple[type[Slice], str]]:
    for kind in set(slices()):
        if not issubclass(kind, Own):
            yield from ((kind, name) for name in kind.__annotations__ if name in kind.model_fields)


def sources() -> list[Path]:
    files = [*SOURCE.rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")]
    return sorted(file for file in files if (SOURCE / "config") not in file.parents)


def test_every_key_says_what_it_means():
    assert len(list(fields())) > 120
    for kind, name in fields():
        assert kind.model_fields[name].description, f"{kind.__name__}.{name}"


def test_no_key_has_a_default_in_the_schema():
    """Null stands for a key that a choice of its group has not; phases are a list's entries."""
    for kind, name in fields():
        field = kind.model_fields[name]
        if not field.is_required() and kind.__name__ not in ENTRIES:
            assert field.default is None, f"{kind.__name__}.{name}"
            assert type(None) in get_args(field.annotation), f"{kind.__name__}.{name}"


def test_the_schema_knows_no_hydra():
    for file in (SOURCE / "config" / "schema").glob("*.py"):
        assert "hydra" not in file.read_text().lower().replace("hydra's word", "").replace(
            "no hydra here", ""
        ), file


@pytest.mark.parametrize(
    "words",
    [
        ["callbacks=all", "data=image_folder", "trainer=ddp_cpu", "logger=csv"],
        ["exp=finetune_timm", "callbacks=none", "optimizer=rmsprop", "scheduler=step"],
        ["exp=finetune_inception_v3", "optimizer=sgd", "scheduler=exponential", "trainer=slurm"],
        ["exp=reproduce/cifar10_convnet", "model.padding=[1,same,1,1,1,1]"],
    ],
)
def test_what_is_composed_comes_back_as_it_was(words):
    config = compose(words)
    assert isinstance(config, BaseModel)
    assert check_config(config.plain()) == config
    assert restore_config(dump_config(config), "a file") == config
    assert restore_config(yaml.safe_load(yaml.safe_dump(dump_config(config))), "a file") == config
    assert dump_config(config)["format"] == FORMAT


def test_nothing_can_be_set():
    config = compose([])
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    with pytest.raises(ValueError, match="frozen"):
        config.data.size = 3


def test_values_set_anew_are_checked_and_the_old_config_stays():
    config = compose([])
    found = replace_values(config, {"training.epochs": 3, "data.split.test": 0.5})
    assert (found.training.epochs, found.data.split.test) == (3, 0.5)
    assert config.training.epochs == 12
    with pytest.raises(UserError, match=r"^training\.epochs=0: expected null or a whole number"):
        replace_values(config, {"training.epochs": 0})


def test_a_check_costs_milliseconds():
    plain = compose(["callbacks=all"]).plain()
    check_config(plain)
    began = time.perf_counter()
    for _ in range(10):
        check_config(plain)
    assert (time.perf_counter() - began) / 10 < 0.02


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data.sizes", 3, "data.sizes: no such key; did you mean size"),
        (
            "data.size",
            "3",
            "data.size=3: expected a whole number from 8 to 8192",
        ),
        ("data.augment.zoom", -1, "data.augment.zoom=-1: expected a number in [0, 0.99]"),
        ("data.augment", 3, "data.augment=3: expected a table {key: value}"),
        ("training", None, "training=None: expected a table {key: value}"),
        ("model.head", 3, "model.head=3: expected a table {key: value} or imagenet"),
        (
            "model.head.hidden",
            [0],
            "model.head.hidden=[0]: expected a list, each entry a whole number",
        ),
        (
            "finetune.phases",
            [{"epochs": 1}],
            "finetune.phases.0.train is missing: expected a list of groups",
        ),
        (
            "callbacks.grad_cam.batch",
            0,
            "callbacks.grad_cam.batch=0: expected a whole number of at least 1",
        ),
        ("callbacks.grad_cam.bath", 1, "callbacks.grad_cam.bath: no such key; did you mean batch"),
        ("logger.events", True, "logger.events: no such key; there are: mlflow, tensorboard"),
    ],
)
def test_what_pydantic_finds_is_said_in_our_words(key, value, said):
    plain = compose([]).plain()
    *parents, leaf = key.split(".")
    place = plain
    for part in parents:
        place = place[part]
    place[leaf] = value
    with pytest.raises(UserError) as caught:
        check_config(plain)
    assert str(caught.value).startswith(said)


def test_a_keys_rule_is_found_by_its_name():
    assert find_rule("data.size").expected.startswith("a whole number from 8")
    assert find_rule("callbacks.grad_cam.batch").expected == "a whole number of at least 1"
    assert (
        find_rule("finetune.phases.1.lr").has_several_kinds
        and find_rule("finetune.groups.base").has_several_kinds
    )
    assert find_rule("model.head").has_several_kinds
    assert find_rule("data.nothing") is None and find_rule("nothing") is None


def test_every_callback_has_its_keys():
    from convlens import callbacks

    nodes = yaml.safe_load((ROOT / "configs" / "callbacks" / "default.yaml").read_text())
    nodes |= yaml.safe_load((ROOT / "configs" / "callbacks" / "all.yaml").read_text())
    paths = {node["_target_"] for node in nodes.values() if isinstance(node, dict)}
    assert paths == {f"convlens.callbacks.{name}" for name in LOOKS}
    assert set(LOOKS) <= set(callbacks.__all__)


def test_every_key_is_read_somewhere():
    """By an attribute of its name: a key that nothing reads is dead."""
    read = set()
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
    dead = {f"{kind.__name__}.{name}" for kind, name in fields() if name not in read | THEIRS}
    assert not dead


def test_config_is_the_whole_of_every_group():
    assert {"data", "model", "training", "callbacks", "seed"} < set(Config.model_fields)
