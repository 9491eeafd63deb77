"""What is printed while a progress bar runs is above the bar, and the bar counts from 1."""

from __future__ import annotations

import io
import logging
import sys
from types import SimpleNamespace

from convlens.callbacks import ProgressBar

from convlens.rundir import log as logs


def test_lines_go_to_the_stream_that_a_bar_puts_in_place_of_stdout(monkeypatch):
    logs.log_to_screen()
    bar = io.StringIO()
    monkeypatch.setattr(sys, "stdout", bar)
    logging.getLogger("convlens").info("epoch 1/3")
    logging.getLogger("convlens").debug("a detail")
    logging.getLogger("lightning_fabric.utilities.distributed").info("Initializing distributed")
    assert bar.getvalue() == "epoch 1/3\n"


def test_the_bar_counts_epochs_as_the_lines_do():
    bar = ProgressBar(shows_metrics=False)
    bar._trainer = SimpleNamespace(max_epochs=3)
    assert bar._get_train_description(0).split() == ["epoch", "1/3"]
    assert bar.get_metrics(bar._trainer, None) == {}
    bar._trainer.max_epochs = -1  # without an end
    assert bar._get_train_description(4).split() == ["epoch", "5"]
