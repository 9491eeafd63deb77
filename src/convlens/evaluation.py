"""A checkpoint on the test set: the same numbers again, every answer, the worst mistakes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytorch_lightning as L

from convlens.building import restored
from convlens.callbacks import ConfusionMatrix, Mistakes, Predictions
from convlens.data.datamodule import PictureData
from convlens.data.probes import choose_probes
from convlens.data.sources import cache_dir
from convlens.errors import UserError
from convlens.predictions import write_table
from convlens.run import Run, data_of, tested
from convlens.summary import of_stage
from convlens.training.phases import Phases
from convlens.training.precision import PRECISIONS


def evaluate(config: dict, checkpoint: dict, home: Path | None = None) -> dict[str, float]:
    """Test-set results of a checkpoint: the same numbers as at the end of its run.

    Into ``home`` go ``predictions.csv`` (every test picture's probabilities, see
    :mod:`convlens.predictions`) and, below ``epoch_NNN``, the confusion matrix and the most
    confident mistakes with their Grad-CAM.

    Returns:
        ``loss``, ``accuracy``, ``balanced_accuracy`` and ``f1/<class>``, or ``macro_f1`` of very
        many classes.

    Args:
        config: resolved; decides data, device and precision.
        checkpoint: as :func:`convlens.training.checkpoint.read_checkpoint` gives it.
        home: None writes nothing.

    Raises:
        UserError: the data has other classes than the checkpoint.
    """
    data = data_of(config)
    names = checkpoint["hyper_parameters"]["class_names"]
    if len(names) != len(data.class_names):
        raise UserError(
            f"the checkpoint knows {len(names)} classes ({', '.join(names[:5])}), the data has "
            f"{len(data.class_names)} ({', '.join(data.class_names[:5])}); point data= and "
            f"data.dir= at the pictures it was trained for"
        )
    if list(names) != list(data.class_names):
        raise UserError(
            f"the checkpoint's classes are {', '.join(names)}, the data's are "
            f"{', '.join(data.class_names)}; they have to be the same, in the same order"
        )
    module = restored(checkpoint, "the checkpoint")
    answered = Predictions()
    callbacks = [] if home is None else [answered, Mistakes(), ConfusionMatrix()]
    trainer = L.Trainer(
        **config["trainer"],
        callbacks=callbacks,
        precision=PRECISIONS[str(config["precision"])],
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.convlens_tested = checkpoint["epoch"] + 1
    if home is not None:
        pictures = data.dataset.splits["test"]
        probes = choose_probes(pictures, data.class_names, count=1, seed=config["seed"])
        for callback in callbacks[1:]:
            callback.attach(probes, data.class_names, home, config["seed"])
    phases = Phases("never", cache_dir())
    results = tested(trainer, Run(config, data, module, [], phases), None)
    if home is not None and trainer.is_global_zero:
        _write_predictions(home / "predictions.csv", answered, data)
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
