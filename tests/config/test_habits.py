"""Keys of other projects get the right answer in one line."""

from __future__ import annotations

import pytest

from convlens.cli.main import main
from convlens.config.checks import get_value
from convlens.config.compose import apply_overrides, compose
from convlens.config.folder import list_groups
from convlens.config.habits import HABITS, Habit, advice
from convlens.core.errors import UserError

PLAIN = compose(["data=image_folder"]).plain()


def is_key(name: str) -> bool:
    try:
        get_value(PLAIN, name)
    except (LookupError, TypeError):
        return False
    return True


@pytest.mark.parametrize("habit", dict.fromkeys(HABITS.values()), ids=lambda habit: habit.key)
def test_every_advised_key_composes(habit: Habit):
    if not habit.key:
        assert habit.note and not habit.example
        return
    assert habit.example[0].startswith(f"{habit.key}=")
    words = list(habit.example)
    composed = compose(words)
    key, _, value = words[0].partition("=")
    if key not in ("exp", *list_groups()):
        assert str(get_value(composed.plain(), key)) == value


def test_no_key_of_ours_is_taken_for_a_habit():
    assert not [name for name in HABITS if is_key(name)]
    assert not [name for name in HABITS if name in list_groups()]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "data.num_workers=4",
            "data.num_workers: no such key; convlens loads images without workers",
        ),
        ("num_workers=4", "convlens loads images without workers; leave it out"),
        ("batch_size=32", "batch_size: no such key; write training.batch_size=32"),
        ("data.batch_size=32", "write training.batch_size=32"),
        ("lr=0.1", "write optimizer.lr=0.1"),
        ("learning_rate=1e-3", "write optimizer.lr=1e-3"),
        ("model.lr=0.1", "write optimizer.lr=0.1"),
        ("epochs=5", "write training.epochs=5"),
        ("max_epochs=5", "write training.epochs=5"),
        ("trainer.max_epochs=5", "write training.epochs=5"),
        ("img_size=96", "write data.size=96"),
        ("image_size=96", "write data.size=96"),
        ("data_dir=pics", "write data.dir=pics"),
        ("data.data_dir=pics", "write data.dir=pics"),
        ("ckpt_path=a.ckpt", "`convlens resume run=RUN_DIR`"),
        ("--epochs", "--epochs: write training.epochs=…"),
        ("--lr=0.1", "--lr=0.1: write optimizer.lr=0.1"),
        ("--batch-size=8", "write training.batch_size=8"),
        ("--data.size=96", "write data.size=96 without --"),
        ("trainer.precision=bf16-mixed", "write precision=… (auto, 32, bf16, 16 or 64)"),
        ("trainer.gpus=2", "write trainer.devices=2"),
        ("hydra.run.dir=mine", "write run_dir=mine"),
        ("pretrained=True", "write model.weights=… (auto, none or a file)"),
        ("+training.epochs=5", "write training.epochs=… without +"),
        ("~callbacks.grad_cam", "null removes a callback, such as callbacks.grad_cam=null"),
        ("epochs", "expected key=value; write training.epochs=…"),
    ],
)
def test_the_answer_names_what_to_type(word, said):
    with pytest.raises(UserError) as caught:
        compose([word])
    answer = str(caught.value)
    assert said in answer
    assert len(answer) <= 160


def test_the_answer_is_the_same_for_a_stored_config():
    config = compose([])
    with pytest.raises(UserError, match=r"epochs: no such key; write training\.epochs=9"):
        apply_overrides(config, ["epochs=9"])


def test_a_value_in_a_word_of_its_own(capsys):
    assert main(["train", "--epochs", "5"]) == 2
    assert capsys.readouterr().err == "convlens: --epochs: write training.epochs=…\n"


def test_the_answer_to_taking_away_a_callback_composes():
    assert compose(["callbacks.grad_cam=null"]).plain()["callbacks"]["grad_cam"] is None


def test_a_key_of_a_user_defined_class_is_no_habit():
    words = ["model._target_=mine.Network", "model.lr=0.1"]
    assert compose(words).model.arguments["lr"] == 0.1


def test_no_advice_leads_back_to_the_same_key():
    assert advice("optimizer.momentum=0.9") is None
    assert advice("finetune.phases.7.lr=1") is None and advice("nothing=1") is None
