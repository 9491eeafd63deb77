"""When an alarm is said: not while the network learns, not before it held, and once."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from convlens.callbacks import Alarms, Ledger
from convlens.callbacks.predictions import PredictionBook, Predictions
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convlens.config.schema import AlarmsConfig
from convlens.training.calibration import Calibration

LIMITS = {
    "patience": 2, "evidence_lift": 1.0, "same_place": 0.7, "dead_share": 0.9,
    "mistaken_share": 0.5, "mistaken_pictures": 5, "overfitting_epochs": 2, "overfitting_rise": 0.1,
}  # fmt: skip


class Run:
    """A trainer and a module, as far as alarms ask them."""

    def __init__(self):
        self.is_global_zero, self.loggers, self.current_epoch = True, [], 0
        self.record: dict = {}
        self.ledger, self.book = Ledger(), PredictionBook()
        self.alarms = self.judge(LIMITS)

    def judge(self, limits: dict) -> Alarms:
        return Alarms(
            AlarmsConfig(**{"gap": 1.0, "gap_epochs": 1, **limits}),
            ("cat", "dog"),
            self.ledger,
            self.book,
        )

    def epoch(
        self, loss: float, *, all_wrong: bool, inside: float = 0.5, train: float | None = None
    ) -> list[str]:
        """An epoch's end; what holds then."""
        labels = np.zeros(10, int)
        ones = np.ones(10, np.float32)
        self.book.latest["val"] = Predictions(
            np.arange(10), labels, labels + all_wrong, ones, ones, {}
        )
        self.record[self.current_epoch] = {"val/loss": loss}
        if train is not None:
            self.record[self.current_epoch]["train/loss"] = train
        clock = self.current_epoch + 1
        self.ledger.note(clock, "explain/energy_inside", inside)
        self.ledger.note(clock, "explain/object_share", 0.2)
        self.alarms.end_epoch(self, SimpleNamespace(record=self.record))
        self.current_epoch += 1
        return list(self.alarms.current)


def said(monkeypatch) -> list[str]:
    from convlens.callbacks import alarms

    lines: list[str] = []
    monkeypatch.setattr(alarms.log, "log", lambda level, text, *parts: lines.append(text % parts))
    return lines


def test_mistakes_of_a_network_that_still_learns_are_no_alarm(monkeypatch):
    lines, run = said(monkeypatch), Run()
    for loss in (1.0, 0.8, 0.6):
        assert run.epoch(loss, all_wrong=True) == []
    assert not lines
    for loss in (0.7, 0.8):
        (line,) = run.epoch(loss, all_wrong=True)
        assert line.startswith("cat is taken for dog in 10 of 10")
    assert len(lines) == 1 and lines[0].startswith("alarm after epoch 5: cat is taken for dog")
    run.epoch(0.9, all_wrong=True)
    assert len(lines) == 1  # once
    assert run.epoch(0.9, all_wrong=False) == []


def test_mistakes_at_the_end_are_told_though_the_loss_still_falls(monkeypatch):
    lines, run = said(monkeypatch), Run()
    run.epoch(1.0, all_wrong=True)
    run.alarms.end_training(run, SimpleNamespace(record=run.record))
    assert len(run.alarms.current) == len(lines) == 1


def test_evidence_outside_is_said_once_it_held_even_while_the_loss_falls(monkeypatch):
    lines, run = said(monkeypatch), Run()
    run.epoch(1.0, all_wrong=False, inside=0.1)
    assert not lines
    run.epoch(0.5, all_wrong=False, inside=0.1)
    assert len(lines) == 1 and "evidence mostly outside the object" in lines[0]
    again = run.judge(LIMITS)
    again.load_state_dict(run.alarms.state_dict())
    run.alarms = again  # resumed
    run.epoch(0.4, all_wrong=False, inside=0.1)
    assert len(lines) == 1 and len(again.current) == 1


def test_overfitting_is_said_once_while_it_happens(monkeypatch, tmp_path):
    lines, run = said(monkeypatch), Run()
    logger = TensorBoardLogger(tmp_path, name="", version="")
    run.loggers = [logger]
    losses = [(1.0, 1.0), (0.8, 0.9), (0.6, 1.1), (0.4, 1.2), (0.2, 1.3)]
    for epoch, (train, val) in enumerate(losses, 1):
        run.epoch(val, all_wrong=False, train=train, inside=0.1)
        assert any("overfitting: validation loss" in line for line in lines) == (epoch >= 4)
    assert sum("overfitting" in line for line in lines) == 1
    logger.experiment.flush()
    events = EventAccumulator(str(tmp_path)).Reload()
    texts = {tag.removesuffix("/text_summary") for tag in events.Tags()["tensors"]}
    # each alarm under a tag of its own: TensorBoard shows one text a tag and step
    assert texts == {"alarms/overfitting", "alarms/evidence mostly outside the object"}


def apart(run: Run, train: float, val: float) -> None:
    run.record[run.current_epoch] = {"train/accuracy": train, "val/accuracy": val}
    run.alarms.end_epoch(run, SimpleNamespace(record=run.record))
    run.current_epoch += 1


def test_a_gap_is_said_once_and_stands_in_the_summary_without_any_look(monkeypatch):
    lines, run = said(monkeypatch), Run()
    run.alarms = run.judge({**LIMITS, "gap": 0.15, "gap_epochs": 2})
    run.datamodule = SimpleNamespace(dataset=SimpleNamespace(splits={"validation": range(200)}))
    for _ in range(3):
        apart(run, 0.98, 0.725)
    assert len(lines) == 1 and lines[0].startswith("alarm after epoch 2: training accuracy")
    for _ in range(2):  # a resumed run ends twice
        run.alarms.end_training(run, SimpleNamespace(record=run.record))
    assert len(run.alarms.current) == 1 and "0.980" in run.alarms.current[0]


def test_overconfidence_is_said_once_it_lasts_and_stands_in_the_summary(monkeypatch):
    lines, run = said(monkeypatch), Run()
    run.alarms = run.judge({**LIMITS, "overconfidence": 0.1})
    sure = np.full(200, 0.95)
    for epoch, right in enumerate((190, 120, 190, 120, 120, 120), 1):
        found = Calibration(1.0, sure, sure, np.arange(200) < right)
        module = SimpleNamespace(record={}, calibrator=SimpleNamespace(validation=found))
        run.alarms.end_epoch(run, module)
        assert len(lines) == (epoch >= 5)  # two epochs in a row
        again = run.judge({**LIMITS, "overconfidence": 0.1})
        again.load_state_dict(run.alarms.state_dict())
        run.alarms = again  # resumed
        run.current_epoch += 1
    assert lines[0].startswith("alarm after epoch 5: surer than right: confidence 0.950")
    run.alarms.end_training(run, module)
    assert len(run.alarms.current) == 1 and "accuracy 0.600" in run.alarms.current[0]


def test_runs_of_old_have_no_threshold_for_a_gap(monkeypatch):
    lines, run = said(monkeypatch), Run()
    run.datamodule = SimpleNamespace(dataset=SimpleNamespace(splits={"validation": range(200)}))
    for _ in range(9):
        apart(run, 0.98, 0.725)
    assert not lines


def test_odd_norms_are_said_once_they_last_and_not_in_runs_without_a_threshold(monkeypatch):
    lines, run = said(monkeypatch), Run()
    run.alarms = run.judge({**LIMITS, "outlier_share": 0.01})
    for clock, share in enumerate((0.0, 0.02, 0.02), start=1):
        run.ledger.note(clock, "explain/norm_outliers", share)
        assert len(run.epoch(1.0, all_wrong=False)) == (share > 0)
    (line,) = lines
    assert line.startswith("alarm after epoch 3: 2.0% of the patches of the background have tokens")
    run.alarms = run.judge(LIMITS)
    run.ledger.note(4, "explain/norm_outliers", 0.5)
    assert not run.epoch(1.0, all_wrong=False)
