"""Writes numbers, pictures, texts and tables to all loggers, and pictures to the run folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from convlens.callbacks.explanation import Explanation
from convlens.callbacks.logging.table import Table
from convlens.callbacks.logging.trackers import Trackers
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer import record_writer

from convlens.draw.jpeg import encode_jpeg
from convlens.rundir.maps import Maps, write_maps
from convlens.rundir.tags import find_picture


def masked_crc32c(data: bytes) -> int:
    """Return the checksum of an event record: CRC-32C, rotated by 15 bits, plus a constant."""
    value = google_crc32c.value(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


# TensorBoard computes it byte by byte in Python: 31 ms for a picture of 250 kB, four times as long
# as drawing and encoding it, and it holds the interpreter's lock while the network trains
record_writer.masked_crc32c = masked_crc32c


def find_event_loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    """Return the loggers that write event files."""
    return [each for each in trainer.loggers if isinstance(each, TensorBoardLogger)]


def find_trackers(trainer: Trainer) -> list[Trackers]:
    """Return the logger of the trackers, in a list; it is empty without trackers."""
    return [each for each in trainer.loggers if isinstance(each, Trackers)]


def accept_any_thread(trainer: Trainer) -> bool:
    """Return whether all loggers can be used from any thread: user-defined ones may not."""
    return all(isinstance(each, TensorBoardLogger | Trackers) for each in trainer.loggers)


def write_numbers(trainer: Trainer, values: dict[str, float], clock: int) -> None:
    """Write numbers by tag, at ``clock``, to every logger."""
    for logger in trainer.loggers:
        logger.log_metrics(values, step=clock)


def write_text(trainer: Trainer, tag: str, text: str, clock: int) -> None:
    """Write a line of text under ``tag``, at ``clock``, to TensorBoard and the trackers."""
    for events in find_event_loggers(trainer):
        events.experiment.add_text(tag, text, clock)
    for trackers in find_trackers(trainer):
        trackers.log_text(tag, text, clock)


def write_table(trainer: Trainer, tag: str, table: Table, clock: int) -> None:
    """Write a table under ``tag``, at ``clock``, to TensorBoard, as a text, and the trackers."""
    for events in find_event_loggers(trainer):
        events.experiment.add_text(tag, table.to_markdown(), clock)
    for trackers in find_trackers(trainer):
        trackers.log_table(tag, table, clock)


def name_look(folder: Path, clock: int) -> Path:
    """Return the folder of the looks after ``clock`` epochs."""
    return folder / f"epoch_{clock:03d}"


def write_finding(
    trainer: Trainer, explanation: Explanation, tag: str,
    value: np.ndarray | Maps | Table | float, clock: int,
) -> None:  # fmt: skip
    """Write what an explanation found: a picture, a number, a table, or maps (to files only)."""
    folder = explanation.folder
    if isinstance(value, np.ndarray):
        photographs = explanation.photographs
        write_picture(trainer, folder, tag, value, clock, photographs=photographs)
    elif isinstance(value, Table):
        write_table(trainer, tag, value, clock)
    elif not isinstance(value, Maps):
        write_numbers(trainer, {tag: value}, clock)
    elif folder is not None:
        write_maps(name_look(folder, clock), value)


def write_picture(
    trainer: Trainer, folder: Path | None, tag: str, picture: np.ndarray, clock: int, *,
    photographs: bool = False,
) -> None:  # fmt: skip
    """Write one picture under ``tag`` at ``clock``, to every logger that takes pictures.

    ``SummaryWriter.add_image`` would encode PNG, which takes forty times as long and five times
    the space; the event file accepts the JPEG bytes as they are.

    Args:
        trainer: the trainer whose loggers get the picture.
        folder: the run's folder of explanations, where the file is ``epoch_<clock>/<tag>.jpg``;
            None for no files.
        tag: the name of the picture.
        picture: (H, W, 3) uint8.
        clock: completed epochs.
        photographs: see ``convlens.draw.jpeg.encode_jpeg``.
    """
    encoded = encode_jpeg(picture, photographs=photographs)
    height, width = picture.shape[:2]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            summary = Summary(value=[Summary.Value(tag=tag, image=image)])
            logger.experiment._get_file_writer().add_summary(summary, clock)
        elif not isinstance(logger, Trackers):
            _hand_over(logger, tag, picture, clock)
    if folder is not None:
        file = find_picture(name_look(folder, clock), tag)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            file.write_bytes(encoded)
        except OSError:
            file.unlink(missing_ok=True)  # whole or not at all
            raise
        for trackers in find_trackers(trainer):
            trackers.log_picture(tag, file, clock)


def _hand_over(logger: Any, tag: str, picture: np.ndarray, clock: int) -> None:
    """Give a picture to a logger other than TensorBoard's, by that logger's own method."""
    kind = type(logger).__name__
    if kind == "WandbLogger":
        # no step: wandb drops what has an earlier step than its own, which counts batches
        logger.log_image(key=tag, images=[picture], caption=[f"epoch {clock}"])
    elif kind == "MLFlowLogger":
        logger.experiment.log_image(logger.run_id, picture, key=tag.replace("/", "."), step=clock)
    elif kind == "CometLogger":
        logger.experiment.log_image(image_data=picture, name=tag, step=clock)
    elif kind == "NeptuneLogger":
        file_type = importlib.import_module("neptune.types").File
        logger.experiment[tag].append(file_type.as_image(picture / 255), step=clock)
