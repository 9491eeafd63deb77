"""A checkpoint on the test set: the same numbers again, every answer, the worst mistakes."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from convlens.callbacks import ConfusionMatrix, Mistakes, Predictions
from convlens.core.errors import UserError
from convlens.core.stopwatch import current, spent_on
from convlens.data.datamodule import PictureData
from convlens.data.index.labels import csv_line
from convlens.data.probes import choose_probes
from convlens.data.sources.sources import cache_dir
from convlens.experiment.assemble import Run
from convlens.experiment.devices import trainer_here
from convlens.experiment.predict import write_table
from convlens.experiment.restore import restored
from convlens.experiment.summary import of_stage
from convlens.experiment.train import tested
from convlens.experiment.unseen import Tested
from convlens.training.finetune.phases import Phases

log = logging.getLogger("convlens")


def evaluate(
    config: dict, checkpoint: dict, tested_on: Tested, home: Path | None = None
) -> dict[str, float]:
    """Test results of a checkpoint; on its run's own test split the numbers of the run's end.

    Into ``home`` go ``predictions.csv`` (every test picture's probabilities, see
    :mod:`convlens.experiment.predict`) and, below ``epoch_NNN``, the confusion matrix and the most
    confident mistakes with their Grad-CAM; ``left_out.csv`` where images were left out, with how
    the run has used each.

    Returns:
        ``loss``, ``accuracy``, ``balanced_accuracy`` and ``f1/<class>``, or ``macro_f1`` of very
        many classes.

    Args:
        config: resolved; decides device and precision.
        checkpoint: as :func:`convlens.training.survival.checkpoint.read_checkpoint` gives it.
        tested_on: the images, as :func:`convlens.experiment.unseen.images_to_test` chooses them.
        home: None writes nothing.

    Raises:
        UserError: the checkpoint describes no network, or one that its weights do not fit.
    """
    if config["trainer"]["fast_dev_run"]:
        raise UserError("trainer.fast_dev_run: eval tests every image; leave it out")
    data = tested_on.data
    with spent_on("decoding"):
        pictures = data.dataset.splits["test"]
    module = restored(checkpoint, "the checkpoint")
    answered = Predictions()
    callbacks = [] if home is None else [answered, Mistakes(), ConfusionMatrix()]
    trainer, line = trainer_here(
        config,
        callbacks=callbacks,
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    if line:
        log.warning(line)
    trainer.convlens_tested = checkpoint["epoch"] + 1
    if home is not None:
        probes = choose_probes(pictures, data.class_names, count=1, seed=config["seed"])
        for callback in callbacks[1:]:
            callback.attach(probes, data.class_names, home, config["seed"])
    phases = Phases("never", cache_dir())
    with spent_on("test"):
        results = tested(trainer, Run(config, data, module, [], phases), None)
    current().turn_to("closing")
    if home is not None and trainer.is_global_zero:
        _write_predictions(home / "predictions.csv", answered, data)
        _write_left_out(home / "left_out.csv", tested_on)
    return of_stage(results, "test")


def _write_predictions(file: Path, answered: Predictions, data: PictureData) -> None:
    names = data.dataset.splits["test"].names
    rows = (
        (names[row], shares, data.class_names[label])
        for row, label, shares in zip(
            answered.rows.tolist(), answered.labels.tolist(), answered.shares, strict=True
        )
    )
    write_table(file, data.class_names, rows, last="true")


def _write_left_out(file: Path, tested_on: Tested) -> None:
    file.unlink(missing_ok=True)  # of an earlier evaluation
    if tested_on.left_out:
        lines = map(csv_line, [("file", "used"), *tested_on.left_out])
        file.write_text("".join(lines), encoding="utf-8", errors="surrogateescape", newline="")
