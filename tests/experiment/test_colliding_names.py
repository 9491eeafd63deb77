"""Classes may be called as a column, a score or a file is: nothing collides, nothing is lost."""

from __future__ import annotations

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from convlens.callbacks import Alarms, Ledger
from convlens.callbacks.predictions import PredictionBook, Predictions
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import convlens
from convlens.cli.main import main
from convlens.cli.results import print_results
from convlens.config.compose import compose
from convlens.core.errors import UserError
from support.tiny import TINY, draw_folder

NAMES = sorted(["true", "false", "file", "predicted", "confidence", "error", "loss", "a b", "a_b",
                "probability/true", "f1/loss", "epoch", "index.html"])  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run on classes with such names, and its folder of pictures."""
    home = tmp_path_factory.mktemp("names")
    folder = draw_folder(home / "d", {"all": 8 * len(NAMES)}, size=16)
    lines = [f'all/{i}.png,"{NAMES[i % len(NAMES)]}"' for i in range(8 * len(NAMES))]
    (folder / "labels.csv").write_text("file,label\n" + "\n".join(lines) + "\n")
    words = ["data=image_folder", f"data.dir={folder}", "data.csv=labels.csv", "callbacks=none",
             "training.epochs=1", f"run_dir={home / 'run'}"]  # fmt: skip
    assert main(["train", *TINY[1:], *words]) == 0
    return home / "run", folder


def header(file) -> list[str]:
    with open(file, newline="", encoding="utf-8") as text:
        found = next(csv.reader(text))
    assert len(set(found)) == len(found), found
    return found


def test_no_column_of_predictions_is_there_twice(made):
    run, folder = made
    assert main(["eval", f"run={run}"]) == 0
    file = run / "evaluation" / "best" / "predictions.csv"
    columns = [f"probability/{name}" for name in NAMES]
    assert header(file) == ["file", "predicted", "confidence", *columns, "true"]
    with open(file, newline="") as text:
        for row in csv.DictReader(text):
            shares = {name: float(row[f"probability/{name}"]) for name in NAMES}
            assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
            assert shares[row["predicted"]] == float(row["confidence"]) == max(shares.values())
            number = int(row["file"].rpartition("/")[2].removesuffix(".png"))
            assert row["true"] == NAMES[number % len(NAMES)]
    words = [f"ckpt={run}/checkpoints/best.ckpt", f"images={folder / 'all'}"]
    assert main(["predict", *words, f"run_dir={run}/said"]) == 0
    assert header(run / "said" / "predictions.csv")[-1] == "error"


def test_every_class_has_its_own_score_in_the_table_the_summary_and_tensorboard(made):
    run, _ = made
    wanted = {f"f1/{name}" for name in NAMES}
    assert {f"val/{name}" for name in wanted} <= set(header(run / "metrics.csv"))
    test = json.loads((run / "summary.json").read_text())["test"]
    assert set(test) == wanted | {"loss", "accuracy", "balanced_accuracy"}
    tags = EventAccumulator(str(run / "tensorboard"), {"scalars": 0}).Reload()
    for name in wanted:
        assert [event.step for event in tags.Scalars(f"test/{name}")] == [1]


def test_scores_are_headed_by_the_class_as_it_is_called(capsys):
    print_results("t", {"test": {"accuracy": 1.0, "f1/a b": 0.1, "f1/a_b": 0.2, "f1/xf1/": 0.3}})
    printed = capsys.readouterr().out
    for heading in ("F1 a b", "F1 a_b", "F1 xf1/"):
        assert printed.count(heading) == 1, printed


def test_two_classes_that_begin_alike_have_an_alarm_each():
    names = ("cat in a box", "cat in a hat", "cat: a dog", "dog")
    limits = compose([]).alarms.replace(patience=0, mistaken_pictures=5)
    ledger, book = Ledger(0.05, 2.0), PredictionBook()
    alarms = Alarms(limits, names, ledger, book)
    labels = np.repeat(np.arange(4), 10)
    answers = np.where(labels < 3, labels + 1, labels)
    trainer = SimpleNamespace(is_global_zero=True, loggers=[], current_epoch=0)
    sure = np.ones(40, np.float32)
    book.latest["val"] = Predictions(np.arange(40), labels, answers, sure, sure, {})
    ledger.note(1, "explain/drift", 1.0)
    alarms.end_training(trainer, SimpleNamespace(record={}))
    assert [line.partition(" is taken")[0] for line in alarms.current] == list(names[:3])


def test_a_picture_called_as_the_page_is_does_not_take_its_place(made, tmp_path):
    run, folder = made
    (tmp_path / "pics").mkdir()
    shutil.copy(folder / "all/0.png", tmp_path / "pics" / "index.html.png")
    words = [f"ckpt={run}/checkpoints/best.ckpt", f"image={tmp_path / 'pics'}", "only=grad_cam"]
    assert main(["explain", *words, f"run_dir={tmp_path / 'why'}"]) == 0
    assert (tmp_path / "why" / "index.html").is_file()
    assert [file.parent.name for file in (tmp_path / "why").rglob("*.jpg")] == ["index.html_2"]


def test_one_name_for_two_classes_is_refused():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.AdaptiveAvgPool2d(1),
                                  torch.nn.Flatten())  # fmt: skip
    with pytest.raises(UserError, match="'crane' is given several times"):
        convlens.wrap(network, ["crane", "tench", "crane"], 8)
