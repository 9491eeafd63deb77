"""Several runs by one command."""

from __future__ import annotations

import json

import pytest
from conftest import TINY

from convlens.cli.main import main
from convlens.cli.multirun import asked_for, values_of


def test_values_are_taken_apart_as_hydra_does():
    assert values_of("optimizer.lr=1e-3,1e-4") == ["optimizer.lr=0.001", "optimizer.lr=0.0001"]
    assert values_of("seed=range(3)") == ["seed=0", "seed=1", "seed=2"]
    assert values_of("model.filters=[4,6]") == ["model.filters=[4,6]"]
    assert values_of("data.dir=/a,b") == ["data.dir=/a,b"]


def test_the_words_that_ask_for_it():
    assert asked_for(["seed=0,1", "multirun=true"]) == (True, ["seed=0,1"])
    assert asked_for(["-m", "seed=0,1"]) == (True, ["seed=0,1"])
    assert asked_for(["seed=0"]) == (False, ["seed=0"])
    assert asked_for(["seed=0", "multirun=false"]) == (False, ["seed=0"])


def test_several_values_without_it_are_refused(at, capsys):
    assert main(["train", *TINY, "seed=0,1"]) == 2
    assert "multirun=true" in capsys.readouterr().err


def test_a_mistake_in_one_combination_is_told_before_any_run(at, capsys):
    assert main(["train", *TINY, "multirun=true", "scheduler=constant,cosin"]) == 2
    assert "did you mean cosine" in capsys.readouterr().err
    assert not (at / "outputs").exists()


@pytest.mark.slow
def test_each_combination_is_a_run_of_its_own(at, capsys):
    words = [*TINY, "training.epochs=1", "callbacks=none", "logger=csv"]
    assert main(["train", *words, "multirun=true", "seed=0,1", "run_dir=sweep"]) == 0
    seeds = [json.loads((at / "sweep" / n / "summary.json").read_text())["seed"] for n in "01"]
    assert seeds == [0, 1]
    printed = capsys.readouterr().out
    assert "seed=1" in printed and "sweep/1" in printed
