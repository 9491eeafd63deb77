"""``make plan``: what it says of a run is what the run would do."""

from __future__ import annotations

import json
import re

import pytest

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.models import build_model
from support.tiny import TINY, TWO_UNFREEZES


@pytest.fixture
def timed(monkeypatch):
    """Steps of known length: as many seconds as the phase's number."""

    def steps(config, module, precisions=("32", "bf16")):
        return dict.fromkeys(precisions, 1.0 + module.phase.number)

    monkeypatch.setattr("convlens.experiment.devices.time_steps", steps)


def rows(printed: str) -> dict[str, list[str]]:
    """Every table's rows: first cell -> the others."""
    lines = [line for line in printed.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_the_total_is_the_networks(timed, at, capsys):
    """In its batch normalisation the activation stands inside."""
    words = ["exp=finetune_timm", "data=shapes", "data.pictures=60", "data.size=64"]
    words += ["model.name=test_byobnet", "model.weights=none", "callbacks=none", "trainer=cpu"]
    assert main(["plan", *words]) == 0
    config = compose(words)
    model = build_model(config.model, channels=3, size=64, outputs=5)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert rows(capsys.readouterr().out)["all"][2] == f"{total:,}"


def test_without_the_data_all_else_is_printed(timed, at, capsys):
    words = ["exp=finetune_vgg16", "model.weights=none", "data.dir=nowhere", "data.size=32"]
    words += ["training.class_weights=balanced", "trainer=cpu"]
    assert main(["plan", *words]) == 0
    printed = capsys.readouterr().out
    assert "would first download data=pets" in printed and not (at / "nowhere").exists()
    table = rows(printed)
    assert table["1"][:2] == ["1–12", "head"] and table["1"][-1] == "after block5"
    assert table["2"][:2] == ["13–15", "head"] and table["2"][-1] == "no"
    assert table["estimated cost, phase 1"] == ["12 epochs on stored features"]
    assert table["estimated cost, phase 2"] == ["2000 ms per step"]
    assert "grad_cam/<probe>" in table


def test_epochs_within_the_first_phase(timed, at, capsys):
    assert main(["plan", *TINY, *TWO_UNFREEZES, "training.epochs=1", "cache_features=never"]) == 0
    printed = capsys.readouterr().out
    table = rows(printed)
    assert [table[number][0] for number in "123"] == ["1–1", "none", "none"]
    assert table["estimated cost, phase 1"][0].endswith("0.2 minutes for 1 epoch")
    assert "estimated cost, phase 2" not in table and " -" not in printed
    assert said_of_the_schedule(printed)


def said_of_the_schedule(printed: str) -> str:
    """The line that phases are cut short."""
    (line,) = [line for line in printed.splitlines() if "training.epochs=" in line]
    assert "phase 1 of 3 (head) gets 1 of its 2 epochs" in line
    assert "phase 2 of 3 (head, last) will not be trained" in line
    assert "phase 3 of 3 (head, last, base) will not be trained" in line
    return line


def test_train_says_that_a_phase_will_not_come(at, capsys):
    words = [*TINY, *TWO_UNFREEZES, "training.epochs=1", "callbacks=none", "run_dir=run"]
    assert main(["train", *words]) == 0
    printed = capsys.readouterr().out
    assert "phase 1    epoch 1 (2 planned): head (" in printed
    lines = [line for line in printed.splitlines() if "not reached" in line]
    assert [line[:7] for line in lines] == ["phase 2", "phase 3"]
    assert lines[1].endswith("; training.epochs=null trains all 6 epochs")
    assert all(line in (at / "run" / "train.log").read_text() for line in lines)
    assert json.loads((at / "run" / "summary.json").read_text())["epochs"] == 1
    page = (at / "run" / "report.html").read_text()
    assert re.findall(r"<td>(\d+–\d+(?: \(not reached\))?)</td>", page) == [
        "1–1", "3–4 (not reached)", "5–6 (not reached)"
    ]  # fmt: skip


def test_every_phase_costs_what_its_own_step_takes(timed, at, capsys):
    words = [*TINY, *TWO_UNFREEZES, "cache_features=never", "training.steps_per_epoch=30"]
    assert main(["plan", *words, "training.accumulate=2"]) == 0
    table = rows(capsys.readouterr().out)
    assert table["epochs"] == ["6, each 30 steps of 8 images, 2 steps per update"]
    for number in (1, 2, 3):
        cost = f"{1000 * number} ms per step, {30 * number} s per epoch"
        minutes = f"{number:.1f} minutes for 2 epochs"
        assert table[f"estimated cost, phase {number}"] == [f"{cost}, {minutes}"]


def test_epochs_on_stored_features_are_no_steps_end_to_end(timed, at, capsys):
    assert main(["plan", *TINY, *TWO_UNFREEZES, "cache_features=auto"]) == 0
    table = rows(capsys.readouterr().out)
    first, second = (table[f"estimated cost, phase {number}"][0] for number in "12")
    assert re.fullmatch(
        r"2 epochs on stored features; computing them takes \d+\.\d minutes.*", first
    )
    assert second.startswith("2000 ms per step")  # its images are augmented


@pytest.mark.parametrize(
    ("words", "whole", "each"),
    [
        ([], 8, 8),
        (["trainer=ddp_cpu"], 8, 8),
        (["trainer=ddp_cpu", "training.batch_size_is=per_device"], 16, 16),  # one processor's work
        (["trainer.num_nodes=3", "trainer.strategy=ddp"], 8, 3),
        (["trainer.num_nodes=3", "trainer.strategy=ddp", "training.batch_size_is=per_device"],
         24, 8),
    ],
)  # fmt: skip
def test_the_batch_of_several_processes(words, whole, each):
    from convlens.experiment.devices import count_batch_images

    assert count_batch_images(compose([*TINY, *words])) == (whole, each)
