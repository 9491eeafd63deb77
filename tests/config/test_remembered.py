"""What the tests compose with remembered files is what Hydra composes."""

from __future__ import annotations

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from omegaconf import OmegaConf

from support.remembered import remember
from support.tiny import ALL, TINY, TWO_UNFREEZES


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["experiment=scratch", *TINY],
        ["experiment=scratch", "data=shapes", *TWO_UNFREEZES],
        ["experiment=multi_label", *ALL, "logger=[tensorboard,csv]"],
        ["model=timm", "+model.args={a: [1, null]}", "model.name=resnet18", "seed=${data.size}"],
        ["data.size=1", "data.size=2", "optimizer=sgd", "callbacks.grad_cam=null"],
    ],
)
def test_remembered_files_and_values_give_hydras_config(words):
    remembered = remember(hydra_compose)
    with initialize_config_module("convlens.configs", version_base="1.3"):
        wanted = hydra_compose("train", overrides=words)
        for _ in range(2):  # the second is not spoiled by the first
            assert remembered("train", [*words, "seed=7"]).seed == 7
            found = remembered("train", words)
            # with the order of the keys
            assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(wanted)
            assert OmegaConf.is_struct(found) == OmegaConf.is_struct(wanted)


@pytest.mark.parametrize(
    "words", [["data.nothing=1"], ["optimizer.lr=["], ["seed=1,2"], ["data=nothing"]]
)
def test_hydras_own_errors_are_raised(words):
    errors = []
    with initialize_config_module("convlens.configs", version_base="1.3"):
        for compose in (hydra_compose, remember(hydra_compose)):
            with pytest.raises(Exception) as caught:
                compose("train", overrides=words)
            errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]
