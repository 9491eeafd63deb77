"""Suspects of validation and test: those of the network that is tested, by its own answers."""

from __future__ import annotations

import csv
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from convlens.cli.main import main
from convlens.config.checks import restore_config
from convlens.experiment.data import build_data
from convlens.experiment.networks import restore_module
from convlens.training.diary import held_out_keeper
from convlens.training.diary.held_out import HeldOutSuspects, OpenPass
from convlens.training.survival.checkpoint import read_checkpoint
from support.tiny import TINY, draw_folder

QUIET = ["callbacks=none", "logger.tensorboard=false", "scheduler=constant", "optimizer.lr=0.02"]
FILES = [*(word for word in TINY if not word.startswith("data.pictures")), "data=image_folder"]
FILES += ["data.split.validation=100", "data.split.test=60", "probes.count=2"]
CASES = {
    "classes": [*FILES, "training.epochs=2"],
    "one_logit": [*FILES, "training.epochs=2", "training.loss=binary"],
    "several": [*TINY, "exp=multi_label", "training.epochs=1"],
}


def draw_wrongly_labelled(folder: Path, classes: int) -> Path:
    """Classes that differ in brightness, a tenth of the files in another class's folder."""
    names = ["cats", "dogs", "owls"][:classes]
    draw_folder(folder, dict.fromkeys(names, 240 // classes))
    for number, name in enumerate(names):
        for file in sorted((folder / name).iterdir())[::10]:
            file.rename(folder / names[number - 1] / f"{name}{file.name}")
    return folder


def read(home: Path) -> list[dict]:
    with open(home / "suspects.csv", encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def draw(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a network that is mostly right, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes))
    logits[
        np.arange(count), np.where(rng.random(count) < 0.85, labels, (labels + 1) % classes)
    ] += 4
    return torch.from_numpy(logits), torch.from_numpy(labels)


def expect(logits: np.ndarray, labels: np.ndarray, temperature: float) -> list[tuple]:
    """By plain loops: (row, label, other, margin, probabilities of both), the lowest first."""
    margins, others = [], []
    for z, label in zip(logits / temperature, labels, strict=True):
        rest = [(value, k) for k, value in enumerate(z) if k != label]
        largest, other = max(rest)
        margins.append(z[label] - largest)
        others.append(other)
    assert np.median(margins) > 0
    cut = np.quantile(np.abs(margins), 0.75)
    found = []
    for row in sorted(range(len(labels)), key=lambda row: margins[row]):
        if margins[row] <= -cut:
            shares = np.exp(logits[row] / temperature)
            shares /= shares.sum()
            pair = shares[labels[row]], shares[others[row]]
            found.append((row, int(labels[row]), others[row], margins[row], *pair))
    return found


def listed(found: HeldOutSuspects) -> list[tuple]:
    columns = (found.rows, found.classes, found.others, found.margins, found.given, found.named)
    return list(zip(*(each.tolist() for each in columns), strict=True))


@pytest.mark.parametrize("classes", [2, 5])
def test_suspects_are_those_of_plain_loops_in_any_order_of_batches(classes):
    logits, labels = draw(300, classes)
    wanted = expect(logits.numpy(), labels.numpy(), 1.7)
    assert 5 < len(wanted) < 75
    order = torch.from_numpy(np.random.default_rng(1).permutation(300))
    collecting = OpenPass()
    for rows in order.split(7):
        collecting.take(logits[rows], {"row": rows, "label": labels[rows]})
    found = collecting.close(1.7)
    assert (found.count, found.total) == (len(wanted), 300)
    for mine, theirs in zip(listed(found), wanted, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9)
    by_chance = [1 / (1 + np.exp(abs(m))) for m in firm_margins(logits.numpy(), labels, 1.7)]
    assert found.by_chance == pytest.approx(sum(by_chance))
    again = HeldOutSuspects.from_state(found.to_state())
    assert listed(again) == listed(found) and again.by_chance == found.by_chance


def firm_margins(logits: np.ndarray, labels: torch.Tensor, temperature: float) -> list[float]:
    margins = []
    for z, label in zip(logits / temperature, labels.tolist(), strict=True):
        margins.append(z[label] - np.delete(z, label).max())
    return [m for m in margins if abs(m) >= np.quantile(np.abs(margins), 0.75)]


def test_one_logit_is_the_second_of_two():
    logits, labels = draw(200, 2)
    one = logits[:, 1:] - logits[:, :1]
    rows = torch.arange(200)
    found = []
    for each in (logits, one):
        collecting = OpenPass()
        collecting.take(each, {"row": rows, "label": labels})
        found.append(listed(collecting.close(0.8)))
    for mine, theirs in zip(*found, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6)


def test_only_as_many_are_listed_as_logits_are_kept_for(monkeypatch):
    """However the batches come, and whenever they are measured."""
    monkeypatch.setattr("convlens.training.diary.held_out.HELD", 60)
    logits, labels = draw(300, 5)
    wanted = expect(logits.numpy(), labels.numpy(), 1.0)
    collecting = OpenPass(numbers=5 * 4)
    for rows in torch.arange(300).split(16):
        collecting.take(logits[rows], {"row": rows, "label": labels[rows]})
    found = collecting.close(1.0)
    assert found.count == len(wanted) > 4 and len(found.rows) == 4
    for mine, theirs in zip(listed(found), wanted[:4], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("numbers", [5 * 4, 1 << 20])
def test_several_processes_find_what_one_does(numbers, monkeypatch):
    """Each has every third image; the last one has none. Runs of two: ``test_runs.py``."""
    logits, labels = draw(300, 5)
    passes = [OpenPass(numbers) for _ in range(4)]
    whole = OpenPass(numbers)
    for number, each in enumerate([*passes[:3], whole]):
        for rows in torch.arange(number % 3, 300, 1 if each is whole else 3).split(16):
            each.take(logits[rows], {"row": rows, "label": labels[rows]})
    wanted = whole.close(1.3)
    barrier, mine = threading.Barrier(4), {}

    def gather(part):
        mine[threading.current_thread()] = part
        barrier.wait()
        parts = [mine[thread] for thread in threads]
        barrier.wait()
        return parts

    monkeypatch.setattr("convlens.training.diary.held_out.gather_parts", gather)
    found: list = [None] * 4

    def close(number: int) -> None:
        found[number] = passes[number].close(1.3)

    threads = [threading.Thread(target=close, args=(number,)) for number in range(4)]
    for act in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            act(thread)
    for each in found:
        assert (each.count, each.total) == (wanted.count, 300)
        assert listed(each) == listed(wanted)


def test_an_empty_pass_has_none():
    assert OpenPass().close(1.0) is None


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory) -> tuple[str, Path]:
    place, words = tmp_path_factory.mktemp(request.param), CASES[request.param]
    if request.param != "several":
        folder = draw_wrongly_labelled(place / "pictures", 3 if request.param == "classes" else 2)
        words = [*words, f"data.dir={folder}"]
    assert main(["train", f"run_dir={place / 'run'}", *words, *QUIET]) == 0
    return request.param, place / "run"


def test_the_table_is_that_of_the_best_checkpoint(case):
    """By a pass of its own over the images, in both splits."""
    name, home = case
    content = read_checkpoint(home / "checkpoints" / "best.ckpt")
    module = restore_module(content, "the checkpoint").eval()
    temperature = module.calibrator.temperature
    data = build_data(restore_config(content["hyper_parameters"]["config"], "it"))
    rows, names = read(home), data.class_names
    for split in ("validation", "test"):
        images = data.dataset.splits[split]
        batches = [data.finish(batch) for batch in data.evaluation_loader(split)]
        with torch.no_grad():
            logits = torch.cat([module(batch["image"]) for batch in batches]).double().numpy()
        mine = [row for row in rows if row["split"] == split]
        if name == "several":
            margins = np.where(images.present, logits, -logits)
            flags = np.zeros(margins.shape, bool)
            for has in (True, False):
                values = margins[images.present == has]
                if np.median(values) > 0:
                    cut = np.quantile(np.abs(values), 0.75)
                    flags |= (images.present == has) & (margins <= -cut)
            wanted = {(images.names[n], names[k]): margins[n, k] for n, k in np.argwhere(flags)}
            found = {(row["file"], row["class"]): float(row["margin"]) for row in mine}
            assert found == pytest.approx(wanted, rel=1e-3)
            continue
        full = np.hstack([0 * logits, logits]) if logits.shape[1] == 1 else logits
        wanted = expect(full, images.labels, temperature)
        assert len(wanted) == len(mine)
        for row, (n, label, other, *numbers) in zip(mine, wanted, strict=True):
            assert (row["file"], row["class"]) == (images.names[n], names[label])
            assert row["other"] == names[other]
            columns = ("margin", "probability", "confidence")
            assert [float(row[c]) for c in columns] == pytest.approx(numbers, rel=1e-3, abs=1e-5)
    if name == "classes":
        assert {row["split"] for row in rows} == {"validation", "test"} and temperature != 1


def test_a_run_that_only_tests_again_writes_the_same_table(case, tmp_path):
    """Killed after its training: the suspects of validation come from the checkpoint."""
    home = case[1]
    again = Path(shutil.copytree(home, tmp_path / "run"))
    for file in ("summary.json", "suspects.csv", "report.html"):
        (again / file).unlink()
    assert main(["resume", f"run={again}"]) == 0
    assert (again / "suspects.csv").read_bytes() == (home / "suspects.csv").read_bytes()


def test_a_table_that_cannot_be_written_is_a_failure_of_the_run(case, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    again = Path(shutil.copytree(case[1], tmp_path / "run"))
    (again / "summary.json").unlink()
    monkeypatch.setattr(held_out_keeper, "write_table", fail)
    assert main(["resume", f"run={again}"]) == 0
    (line,) = json.loads((again / "summary.json").read_text())["failures"]
    assert line.endswith("suspects.csv was not written (No space left on device)")


@pytest.mark.parametrize("kept", [None, {}, {"rows": 1}])
def test_a_checkpoint_without_suspects_says_so(kept, tmp_path, caplog):
    keeper = held_out_keeper.HeldOutKeeper(tmp_path)
    keeper.load({} if kept is None else {held_out_keeper.KEY: kept})
    assert keeper.found == {"validation": None}
    assert "suspects.csv has no validation images" in caplog.text


def test_nothing_is_kept_without_a_diary(tmp_path):
    words = [*TINY, *QUIET, "training.epochs=1", "diary=null"]
    assert main(["train", f"run_dir={tmp_path / 'run'}", *words]) == 0
    assert not (tmp_path / "run" / "suspects.csv").exists()
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert held_out_keeper.KEY not in checkpoint
    assert main(["resume", f"run={tmp_path / 'run'}", "training.epochs=2"]) == 0
