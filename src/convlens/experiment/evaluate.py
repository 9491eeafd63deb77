"""A checkpoint on the test set: the same numbers again, every answer, the worst mistakes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as L

from convlens.callbacks import ConfusionMatrix, Looks, Mistakes
from convlens.callbacks.predictions import PredictionBook, Predictions
from convlens.config.checks import replace_values, restore_config
from convlens.config.compose import apply_overrides
from convlens.config.migrate import dump_config
from convlens.config.schema import Config
from convlens.config.targets import format_targets
from convlens.core.errors import UserError
from convlens.core.processes import is_first_process
from convlens.core.stopwatch import count_seconds, get_stopwatch
from convlens.data.datamodule import PictureData
from convlens.data.index.tables import format_csv_line
from convlens.data.probes import choose_probes
from convlens.data.unchanged import PLACES
from convlens.experiment.devices import adapt_devices, lightning
from convlens.experiment.networks import restore_module
from convlens.experiment.predict import TABLE, write_table
from convlens.experiment.summary import seconds_by_name
from convlens.experiment.unseen import UnseenImages, select_test_images
from convlens.rundir.paths import OUTPUTS, holds_run, make_fresh_folder
from convlens.rundir.read import read_config, select_stage
from convlens.rundir.write import write_evaluation, write_results
from convlens.training.precision import PRECISIONS
from convlens.training.survival.checkpoint import read_checkpoint

log = logging.getLogger("convlens")


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint does on images that it has not seen.

    Attributes:
        tested_on: the images, as ``convlens.experiment.unseen`` selects them.
        epoch: completed ones of the checkpoint.
        results: ``loss``, ``accuracy``, ``balanced_accuracy`` and ``f1/<class>``, or ``macro_f1``
            of very many classes.
        home: the folder with ``predictions.csv`` (every test picture's probabilities, see
            :mod:`convlens.experiment.predict`), ``results.json``, below ``epoch_NNN`` the confusion
            matrix and the most confident mistakes with their Grad-CAM; and ``left_out.csv`` where
            images were left out, with how the run has used each.
    """

    tested_on: UnseenImages
    epoch: int
    results: dict[str, float]
    home: Path


def evaluate(file: Path, words: list[str], say: Callable[[str], object]) -> Evaluation:
    """Test a checkpoint; on its run's own test split the results are those of the run's end.

    Args:
        file: the checkpoint.
        words: ``key=value``, which change its config.
        say: takes lines on the choice of images, before the test.

    Raises:
        UserError: no checkpoint of ours, a word that fits no key, nothing is left to test, or the
            checkpoint describes no network, or one that its weights do not fit.
    """
    content = read_checkpoint(file)
    parts, epoch = content["hyper_parameters"], content["epoch"] + 1
    kept = _with_places(restore_config(parts["config"], str(file), words), file)
    parts["config"] = dump_config(kept)
    config = apply_overrides(kept, words)
    if config.trainer.fast_dev_run:
        raise UserError("trainer.fast_dev_run: eval tests every image; leave it out")
    tested_on = select_test_images(config, content)
    home, data = _answers_folder(file, tested_on.own), tested_on.data
    if is_first_process():
        for line in tested_on.lines:
            say(line)
    with count_seconds("decoding"):
        pictures = data.dataset.splits["test"]
    module = restore_module(content, "the checkpoint", format_targets(config))
    book = PredictionBook(keep_probabilities=True)
    looks = Looks([Mistakes(), ConfusionMatrix()], predictions=book)
    looks.tested = epoch
    trainer = _trainer(config, looks)
    probes = choose_probes(pictures, data.class_names, count=1, seed=config.seed)
    for explanation in looks.order:
        explanation.attach(probes, data.class_names, home, config.seed)
    with count_seconds("test"):
        trainer.test(module, datamodule=data, verbose=False)
    found = Evaluation(tested_on, epoch, select_stage(module.results, "test"), home)
    get_stopwatch().switch_to("closing")
    if is_first_process():
        _write_predictions(home / TABLE, looks.predictions.latest["test"], data)
        _write_left_out(home / "left_out.csv", tested_on)
        _write_results(file, found)
    return found


def _trainer(config: Config, looks: Looks) -> L.Trainer:
    devices, precision, line = adapt_devices(config.trainer, str(config.precision))
    if line:
        log.warning(line)
    return lightning(
        **devices.plain(),
        precision=PRECISIONS[precision],
        callbacks=[looks],
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        enable_checkpointing=False,
    )


def _run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint lies in; None of a file by itself."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None


def _with_places(config: Config, checkpoint: Path) -> Config:
    """The run's data may have moved since the checkpoint was written: config.yaml knows where."""
    home = _run_of(checkpoint)
    if home is None or not holds_run(home):
        return config
    places = read_config(home).places(config.data.name)
    known = {place for place in PLACES if place.removeprefix("data.") in config.data.key_names}
    return replace_values(config, {key: places[key] for key in places if key in known})


def _answers_folder(checkpoint: Path, own: bool) -> Path:
    """Where the answers go: beside the run's other files, or a folder of their own.

    Only what was measured on the run's own test split belongs to the run.
    """
    home = _run_of(checkpoint)
    if home is None or not own:
        return make_fresh_folder(OUTPUTS / "eval")
    folder = home / "evaluation" / checkpoint.stem
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_predictions(file: Path, found: Predictions, data: PictureData) -> None:
    names = data.dataset.splits["test"].names
    known = zip(found.rows.tolist(), found.probabilities, found.labels.tolist(), strict=True)
    rows = ((names[row], shares, data.class_names[label]) for row, shares, label in known)
    write_table(file, data.class_names, rows, last="true")


def _write_left_out(file: Path, tested_on: UnseenImages) -> None:
    file.unlink(missing_ok=True)  # of an earlier evaluation
    if tested_on.left_out:
        lines = map(format_csv_line, [("file", "used"), *tested_on.left_out])
        file.write_text("".join(lines), encoding="utf-8", errors="surrogateescape", newline="")


def _write_results(file: Path, found: Evaluation) -> None:
    """Beside the answers; those on a run's own test split are in its summary too."""
    tested_on = found.tested_on
    write_results(
        found.home,
        {
            "checkpoint": str(file), "epoch": found.epoch, "data": tested_on.place,
            "images": len(tested_on.data.dataset.splits["test"]), "own_test_split": tested_on.own,
            "test": found.results,
        },
    )  # fmt: skip
    if (home := _run_of(file)) and tested_on.own:
        write_evaluation(home, file, found.epoch, found.results, seconds_by_name())
