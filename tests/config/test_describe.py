"""What help says of a config: every key, with the default that composing it again gives."""

from __future__ import annotations

import pytest

from convlens.config.compose import _flat_keys, compose
from convlens.config.describe import describe_groups
from convlens.config.folder import list_groups
from convlens.config.schema import TARGET

WORDS = [
    [],
    ["data=image_folder"],
    ["exp=finetune_vgg16"],
    ["exp=finetune_inception_v3", "callbacks=all"],
    ["exp=features_vgg16", "callbacks=none", "optimizer=sgd", "scheduler=step"],
    ["finetune=by_stage", "model=timm"],
]
every_config = pytest.mark.parametrize("words", WORDS, ids=lambda words: " ".join(words) or "none")


@every_config
def test_every_key_is_described_once(words):
    config = compose(words)
    keys = [key for group in describe_groups(config) for key in group.keys]
    names = [key.name for key in keys]
    assert len(set(names)) == len(names)
    leaves = [
        name for name in _flat_keys(config.plain())
        if not any(other.startswith(f"{name}.") for other in _flat_keys(config.plain()))
        and name.rpartition(".")[2] != TARGET and name != "experiment"
    ]  # fmt: skip
    for leaf in leaves:  # a table such as {head: 0.001} is described as a whole
        assert any(leaf == name or leaf.startswith(f"{name}.") for name in names), leaf
    assert all(key.meaning for key in keys)


@every_config
def test_the_defaults_can_be_typed_and_change_nothing(words):
    config = compose(words)
    typed = [
        f"{key.name}={key.default}"
        for group in describe_groups(config) for key in group.keys
        if key.default is not None and not (key.default == "null" and key.meaning == "removed")
    ]  # fmt: skip
    assert compose([*words, *typed]) == config


def test_choices_are_those_of_the_files():
    described = {group.name: list(group.choices) for group in describe_groups(compose([]))}
    for name, choices in list_groups().items():
        assert described[name] == choices
