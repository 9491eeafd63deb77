"""A checkpoint on the test set: the same numbers again, every answer, the worst mistakes."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as L

from convlens.callbacks import ConfusionMatrix, Looks, Mistakes
from convlens.callbacks.answers import AnswerBook, Answers
from convlens.config.checks import stored_config, with_values
from convlens.config.compose import changed
from convlens.config.migrate import stored
from convlens.config.schema import Config
from convlens.config.targets import repeats
from convlens.core.errors import UserError
from convlens.core.processes import first_process
from convlens.core.stopwatch import current, spent_on
from convlens.data.datamodule import PictureData
from convlens.data.index.tables import csv_line
from convlens.data.probes import choose_probes
from convlens.data.sources.places import cache_dir
from convlens.data.unchanged import PLACES
from convlens.experiment.assemble import Run
from convlens.experiment.checkpoints import run_of
from convlens.experiment.devices import trainer_here
from convlens.experiment.fit import run_test
from convlens.experiment.restore import restored
from convlens.experiment.summary import seconds_by_name
from convlens.experiment.table import write_table
from convlens.experiment.unseen import Tested, images_to_test
from convlens.rundir.paths import OUTPUTS, holds_run, make_fresh_folder
from convlens.rundir.read import of_stage, read_config
from convlens.rundir.write import write_evaluation, write_results
from convlens.training.finetune.phases import Phases
from convlens.training.survival.checkpoint import read_checkpoint

log = logging.getLogger("convlens")


@dataclass(frozen=True)
class Evaluation:
    """What ``make eval`` tests, on which images, and where its answers go.

    Attributes:
        file: the checkpoint.
        content: what :func:`convlens.training.survival.checkpoint.read_checkpoint` gives of it.
        config: resolved; decides data, device and precision.
        tested_on: the images, as :func:`convlens.experiment.unseen.images_to_test` chooses them.
        home: the folder for ``predictions.csv`` (every test picture's probabilities, see
            :mod:`convlens.experiment.table`), ``results.json``, below ``epoch_NNN`` the confusion
            matrix and the most confident mistakes with their Grad-CAM; and ``left_out.csv`` where
            images were left out, with how the run has used each.
    """

    file: Path
    content: dict[str, Any]
    config: Config
    tested_on: Tested
    home: Path

    @property
    def epoch(self) -> int:
        """Completed epochs of the checkpoint."""
        return self.content["epoch"] + 1


def evaluation_of(file: Path, words: list[str]) -> Evaluation:
    """Choose what a checkpoint is tested on, and make the folder for the answers.

    Args:
        file: the checkpoint.
        words: ``key=value``, which change its config.

    Raises:
        UserError: no checkpoint of ours, a word that fits no key, or nothing is left to test.
    """
    content = read_checkpoint(file)
    told = content["hyper_parameters"]
    kept = _with_places(stored_config(told["config"], str(file), words), file)
    told["config"] = stored(kept)
    config = changed(kept, words)
    tested_on = images_to_test(config, content)
    return Evaluation(file, content, config, tested_on, _answers_folder(file, tested_on.own))


def evaluate(asked: Evaluation) -> dict[str, float]:
    """Test a checkpoint; on its run's own test split the results are those of the run's end.

    Returns:
        ``loss``, ``accuracy``, ``balanced_accuracy`` and ``f1/<class>``, or ``macro_f1`` of very
        many classes.

    Raises:
        UserError: the checkpoint describes no network, or one that its weights do not fit.
    """
    config, data = asked.config, asked.tested_on.data
    if config.trainer.fast_dev_run:
        raise UserError("trainer.fast_dev_run: eval tests every image; leave it out")
    with spent_on("decoding"):
        pictures = data.dataset.splits["test"]
    module = restored(asked.content, "the checkpoint", repeats(config))
    looks = Looks([Mistakes(), ConfusionMatrix()], answers=AnswerBook(whole=True))
    looks.tested = asked.epoch
    trainer = _trainer(config, looks)
    probes = choose_probes(pictures, data.class_names, count=1, seed=config.seed)
    for explanation in looks.order:
        explanation.attach(probes, data.class_names, asked.home, config.seed)
    run = Run(config, data, module, [], Phases("never", cache_dir()))
    with spent_on("test"):
        results = of_stage(run_test(trainer, run, None), "test")
    current().turn_to("closing")
    if first_process():
        _write_predictions(asked.home / "predictions.csv", looks.answers.latest["test"], data)
        _write_left_out(asked.home / "left_out.csv", asked.tested_on)
        _write_results(asked, results)
    return results


def _trainer(config: Config, looks: Looks) -> L.Trainer:
    trainer, line = trainer_here(
        config,
        callbacks=[looks],
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    if line:
        log.warning(line)
    return trainer


def _with_places(config: Config, checkpoint: Path) -> Config:
    """The run's data may have moved since the checkpoint was written: config.yaml knows where."""
    home = run_of(checkpoint)
    if home is None or not holds_run(home):
        return config
    places = read_config(home).places(config.data.name)
    known = {place: place.removeprefix("data.") in config.data.given for place in PLACES}
    return with_values(config, {key: places[key] for key in places if known.get(key)})


def _answers_folder(checkpoint: Path, own: bool) -> Path:
    """Where the answers go: beside the run's other files, or a folder of their own.

    Only what was measured on the run's own test split belongs to the run.
    """
    home = run_of(checkpoint)
    if home is None or not own:
        return make_fresh_folder(OUTPUTS / "eval")
    folder = home / "evaluation" / checkpoint.stem
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_predictions(file: Path, answered: Answers, data: PictureData) -> None:
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


def _write_results(asked: Evaluation, results: dict[str, float]) -> None:
    """Beside the answers; those on a run's own test split are in its summary too."""
    tested_on, file = asked.tested_on, asked.file
    write_results(
        asked.home,
        {
            "checkpoint": str(file), "epoch": asked.epoch, "data": tested_on.place,
            "images": len(tested_on.data.dataset.splits["test"]), "own_test_split": tested_on.own,
            "test": results,
        },
    )  # fmt: skip
    if (home := run_of(file)) and tested_on.own:
        seconds = seconds_by_name(current().seconds())
        write_evaluation(home, file, asked.epoch, results, seconds)
