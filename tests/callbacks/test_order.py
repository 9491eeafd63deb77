"""One list decides the order of looks; the order of Lightning's callbacks decides nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from convlens.callbacks import ExplanationCallback, GradCam, Ledger, Looks

from convlens.cli.main import main
from convlens.experiment import train as runs
from support.lively import checkpoint, differences
from support.looks import probes, train_small
from support.tiny import TINY

WORDS = [*TINY, "training.epochs=2", "callbacks.filter_visuals=null"]
WORDS += ["looking={seconds: 1000, first_seconds: 1000, last_seconds: 1000}"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("plain") / "run"
    assert main(["train", f"run_dir={home}", *WORDS]) == 0
    return home


@pytest.mark.parametrize("seed", [1, pytest.param(None, marks=pytest.mark.slow)])
def test_lightnings_order_changes_no_picture_and_no_number(plain, tmp_path, monkeypatch, seed):
    made = runs.build_trainer

    def build_trainer(*args):
        trainer, *rest = made(*args)
        if seed is None:
            trainer.callbacks.reverse()
        else:
            random.Random(seed).shuffle(trainer.callbacks)
        return trainer, *rest

    monkeypatch.setattr(runs, "build_trainer", build_trainer)
    assert main(["train", f"run_dir={tmp_path / 'run'}", *WORDS]) == 0
    assert not differences(plain, tmp_path / "run")


def test_checkpoints_keep_what_they_always_kept(plain):
    kept = checkpoint(plain)
    assert {"GradCam{'layers': 'auto', 'target': 'answer'}", "Scores", "EpochLog", "Alarms"} <= (
        kept["callbacks"].keys()
    )
    assert kept["convlens_ledger"]["looked"]["GradCam"] == 2


class Noting(ExplanationCallback):
    """Notes when it looks, and who has looked before at the same."""

    noted: list

    def __init__(self, letter: str):
        super().__init__()
        self.letter = letter

    @property
    def name(self) -> str:
        return self.letter

    def pictures(self, look):
        first = look.memo.setdefault("first", self.letter)
        self.noted.append((look.clock, self.letter, first))
        yield from ()


def noting(letters: str, given=None) -> list[Noting]:
    given, noted = given or probes(), []
    found = [Noting(letter) for letter in letters]
    for each in found:
        each.attach(given, ("a", "b"), None, seed=0)
        each.noted = noted
    return found


@pytest.mark.parametrize("place", range(4))
def test_the_list_decides_who_looks_first(place):
    a, b, c = noting("abc")
    callbacks = [a, b, c]
    callbacks.insert(place, Looks([c, a, b]))
    train_small(callbacks, epochs=1)
    assert a.noted == [(clock, each, "c") for clock in (0, 1) for each in "cab"]


def test_those_that_join_come_behind_the_list_and_once_each():
    a, b, c = noting("abc")
    module = train_small([a, b, Looks([c])], epochs=1)
    assert [letter for clock, letter, _ in a.noted if clock == 1] == ["c", "a", "b"]
    looks = [each for each in module.trainer.callbacks if isinstance(each, Looks)]
    assert len(looks) == 1 and looks[0].order == [c, a, b]
    assert c in module.trainer.callbacks, "for its state"


def test_a_callback_alone_brings_the_looks_and_nothing_hangs_on_the_trainer():
    (a,) = noting("a")
    trainer = train_small([a], epochs=1).trainer
    assert Looks.of(trainer).order == [a] and len(a.noted) == 2
    assert not [name for name in vars(trainer) if "convlens" in name]


def test_only_maps_of_the_same_pictures_asked_in_the_same_way_are_shared():
    a, b, c, d = noting("abcd")
    again = probes()
    b.attach(again, ("a", "b"), None, seed=0)
    c.attach(probes(2), ("a", "b"), None, seed=0)
    d.preprocess = torch.neg
    train_small([a, b, c, d], epochs=1)
    assert [first for clock, _, first in a.noted if clock == 1] == ["a", "a", "c", "d"]


def test_every_look_is_at_the_network_as_it_is_then():
    """What is found at one look is forgotten at the next."""
    (a,) = noting("a")
    seen = []
    a.pictures = lambda look: iter(seen.append(dict(look.memo)) or look.memo.update(x=1) or ())
    train_small([a], epochs=2)
    assert seen == [{}] * 3


def test_each_may_spend_all_that_those_before_it_have_left():
    a, b = noting("ab")
    left = {}
    for each in (a, b):
        each.pictures = lambda look, each=each: iter(
            left.setdefault((each, look.clock), look.seconds_left) and ()
        )
    train_small([a, b, Looks([b, a])], epochs=1)
    assert 0 < left[a, 1] < left[b, 1] <= Ledger().floor


def test_a_single_callback_still_works_without_any_of_it(tmp_path):
    cam = GradCam()
    cam.attach(probes(), ("a", "b"), tmp_path, seed=0)
    train_small([cam], epochs=1)
    assert len(list(tmp_path.rglob("*.jpg"))) == 6
