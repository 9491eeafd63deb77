"""Test a checkpoint: results, every prediction, the confusion matrix and the worst mistakes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as L

from convlens.callbacks import ConfusionMatrix, Looks, Mistakes, Reliability
from convlens.callbacks.predictions import PredictionBook, Predictions
from convlens.config.checks import restore_config
from convlens.config.compose import apply_overrides
from convlens.config.migrate import dump_config
from convlens.config.schema import Config
from convlens.config.targets import format_targets
from convlens.core.errors import UserError
from convlens.core.processes import is_first_process
from convlens.core.progress import progress_bar
from convlens.core.stopwatch import count_seconds, get_stopwatch
from convlens.data.datamodule import PictureData
from convlens.data.index.several import SEPARATOR
from convlens.data.index.tables import format_csv_line
from convlens.data.probes import choose_probes
from convlens.experiment.assemble import check_labels
from convlens.experiment.data import use_own_places
from convlens.experiment.devices import adapt_devices, lightning
from convlens.experiment.inputs import find_run_folder
from convlens.experiment.networks import restore_module
from convlens.experiment.predict import TABLE, write_table
from convlens.experiment.summary import describe_test, seconds_by_name
from convlens.experiment.unseen import UnseenImages, select_test_images
from convlens.rundir.paths import OUTPUTS, make_fresh_folder
from convlens.rundir.read import select_stage
from convlens.rundir.write import write_evaluation, write_results
from convlens.training import ClassifierModule
from convlens.training.details import Details
from convlens.training.precision import PRECISIONS
from convlens.training.survival.checkpoint import read_checkpoint

log = logging.getLogger("convlens")


@dataclass(frozen=True)
class Evaluation:
    """Results of a checkpoint on images that it has not seen.

    Attributes:
        tested_on: the images, as ``convlens.experiment.unseen`` selects them.
        epoch: completed epochs of the checkpoint.
        results: ``loss``, ``accuracy``, ``balanced_accuracy`` and ``f1/<class>``, or ``macro_f1``
            if there are very many classes, and what ``metrics`` names.
        details: see ``convlens.training.details``.
        home: the folder with ``predictions.csv`` (probabilities of every test image, see
            ``convlens.experiment.predict``) and ``results.json``. Its folder ``epoch_NNN`` contains
            the confusion matrix, the reliability chart, and the most confident mistakes with their
            Grad-CAM. If images were left out, ``left_out.csv`` states how the run used each.
    """

    tested_on: UnseenImages
    epoch: int
    results: dict[str, float]
    details: Details
    home: Path


def evaluate(
    file: Path, words: list[str], say: Callable[[str], object], *, mirrors: bool = False,
    temperature: bool = True,
) -> Evaluation:  # fmt: skip
    """Test a checkpoint; on the test split of its run, the results equal those of the run.

    Args:
        file: the checkpoint.
        words: overrides of its config, ``key=value``.
        say: prints a line about the selection of images, before the test.
        mirrors: average the probabilities of each image and its mirror image (test-time
            augmentation); the results have a folder of their own.
        temperature: whether probabilities are calibrated; without, the folder is another one, too.

    Raises:
        UserError: the file is not a convlens checkpoint, an override fits no key, no image is left
            to test, or no network can be built from the checkpoint.
    """
    content = read_checkpoint(file)
    parts, epoch = content["hyper_parameters"], content["epoch"] + 1
    stored = use_own_places(restore_config(parts["config"], str(file), words), file)
    parts["config"] = dump_config(stored)
    config = apply_overrides(stored, words)
    check_labels(config)
    if config.trainer.fast_dev_run:
        raise UserError("trainer.fast_dev_run: eval tests every image; leave it out")
    with progress_bar("selecting the test images"):
        tested_on = select_test_images(config, content)
    name = file.stem + "_flip" * mirrors + "_uncalibrated" * (not temperature)
    home, data = _choose_folder(file, name, tested_on.is_own_split), tested_on.data
    if is_first_process():
        for line in tested_on.lines:
            say(line)
    with count_seconds("decoding"):
        images = data.dataset.splits["test"]
    module = restore_module(content, "the checkpoint", format_targets(config))
    module.mirrors_tests = mirrors
    if not temperature:
        module.calibrator.validation = None
    book = PredictionBook(keep_probabilities=True, several=module.multi_label)
    looks = Looks([Mistakes(), ConfusionMatrix(), Reliability()], predictions=book)
    looks.tested = epoch
    trainer = _build_trainer(config, looks)
    probes = choose_probes(images, data.class_names, count=1, seed=config.seed)
    for explanation in looks.order:
        explanation.attach(probes, data.class_names, home, config.seed)
    # on a terminal Lightning shows a bar of its own
    with count_seconds("test"), progress_bar("testing", visible=not sys.stdout.isatty()):
        trainer.test(module, datamodule=data, verbose=False)
    results = select_stage(module.results, "test")
    details = describe_test(looks.predictions, module)
    evaluation = Evaluation(tested_on, epoch, results, details, home)
    get_stopwatch().switch_to("closing")
    if is_first_process():
        _write_predictions(home / TABLE, looks.predictions.latest["test"], data, module)
        _write_left_out(home / "left_out.csv", tested_on)
        _write_results(file, evaluation, mirrors=mirrors, temperature=temperature)
    return evaluation


def _build_trainer(config: Config, looks: Looks) -> L.Trainer:
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


def _choose_folder(checkpoint: Path, name: str, is_own_split: bool) -> Path:
    """Return a folder for the results: in the run folder, or a new one.

    Only results on the run's own test split (``is_own_split``) belong in the run folder.
    """
    home = find_run_folder(checkpoint)
    if home is None or not is_own_split:
        return make_fresh_folder(OUTPUTS / "eval")
    folder = home / "evaluation" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_predictions(
    file: Path, predictions: Predictions, data: PictureData, module: ClassifierModule
) -> None:
    names = data.dataset.splits["test"].names
    known = predictions.labels[:, None] == np.arange(len(data.class_names))
    present = known if predictions.present is None else predictions.present
    columns = predictions.rows.tolist(), predictions.probabilities, present
    rows = (
        (
            names[row],
            probabilities,
            SEPARATOR.join(data.class_names[k] for k in np.flatnonzero(true)),
        )
        for row, probabilities, true in zip(*columns, strict=True)
    )
    thresholds = None if module.thresholds is None else module.thresholds.cpu()
    write_table(file, data.class_names, rows, last="true", thresholds=thresholds)


def _write_left_out(file: Path, tested_on: UnseenImages) -> None:
    file.unlink(missing_ok=True)  # of an earlier evaluation
    if tested_on.left_out:
        lines = map(format_csv_line, [("file", "used"), *tested_on.left_out])
        file.write_text("".join(lines), encoding="utf-8", errors="surrogateescape", newline="")


def _write_results(file: Path, evaluation: Evaluation, *, mirrors: bool, temperature: bool) -> None:
    """Write results.json.

    Results on the run's own test split, as the run itself tests, are added to its summary.
    """
    tested_on, epoch, results = evaluation.tested_on, evaluation.epoch, evaluation.results
    write_results(
        evaluation.home,
        {
            "checkpoint": str(file), "epoch": epoch, "data": tested_on.place,
            "images": len(tested_on.data.dataset.splits["test"]),
            "own_test_split": tested_on.is_own_split, "tta": "flip" if mirrors else None,
            "test": results, "test_details": evaluation.details,
        },
    )  # fmt: skip
    if (home := find_run_folder(file)) and tested_on.is_own_split and temperature and not mirrors:
        write_evaluation(home, file, epoch, results, seconds_by_name())
