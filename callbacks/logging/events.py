"""TensorBoard's event file, without which a run is still a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from unittest import mock

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.summary.writer import event_file_writer
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("convlens")


class EnduringRecords:
    """A record writer that a full disk does not end.

    TensorBoard writes in a thread of its own. An error there ends the thread with a traceback on
    the screen, and the run at its next scalar. Here it is handed over, and what comes later is
    dropped: behind a record that was cut off nothing could be read anyway.
    """

    def __init__(self, file, failed: Callable[[OSError], None]):
        self._writer, self._failed, self._broken = RecordWriter(file), failed, False

    def write(self, data: bytes) -> None:
        self._try(self._writer.write, data)

    def flush(self) -> None:
        self._try(self._writer.flush)

    def close(self) -> None:
        self._try(self._writer.close)

    def _try(self, act: Callable, *arguments) -> None:
        if self._broken:
            return
        try:
            act(*arguments)
        except OSError as error:
            self._broken = True
            self._failed(error)


class EnduringWriter(SummaryWriter):
    """A summary writer over :class:`EnduringRecords`.

    Attributes:
        failure: why events are missing, in a line, or nothing.
    """

    failure = ""

    def _get_file_writer(self):
        # made anew after every close
        make = lambda file: EnduringRecords(file, self._fail)  # noqa: E731
        with mock.patch.object(event_file_writer, "RecordWriter", make):
            return super()._get_file_writer()

    def _fail(self, error: OSError) -> None:
        if not self.failure:
            self.failure = (
                f"TensorBoard's event file was not written on ({error.strerror or error}): make "
                f"room; the same pictures and numbers are in explanations/ and metrics.csv"
            )
            log.warning("%s; training goes on", self.failure)


class EventLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger over an :class:`EnduringWriter`."""

    @property
    @rank_zero_experiment
    def experiment(self) -> EnduringWriter:
        if self._experiment is None:
            self._fs.makedirs(self.root_dir, exist_ok=True)
            self._experiment = EnduringWriter(log_dir=self.log_dir, **self._kwargs)
        return self._experiment

    @property
    def failure(self) -> str:
        return self._experiment.failure if self._experiment is not None else ""
