"""TensorBoard's event file; a run continues when it cannot be written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from unittest import mock

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.summary.writer import event_file_writer
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("convlens")


class EnduringRecords:
    """A record writer that survives a full disk.

    TensorBoard writes in its own thread. An error there ends the thread with a traceback on the
    screen, and the run at its next scalar. This writer reports the error and drops later records:
    nothing after a truncated record could be read anyway.

    Args:
        file: the file to write to.
        failed: called with the first error.
    """

    def __init__(self, file: Any, failed: Callable[[OSError], None]):
        self._writer, self._failed, self._broken = RecordWriter(file), failed, False

    def write(self, data: bytes) -> None:
        """Write a record."""
        self._try(self._writer.write, data)

    def flush(self) -> None:
        """Flush the file."""
        self._try(self._writer.flush)

    def close(self) -> None:
        """Close the file."""
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
    """A summary writer over ``EnduringRecords``.

    Attributes:
        failure: why events are missing, in one line; empty if none are.
    """

    failure = ""

    def _get_file_writer(self) -> Any:
        # called again after every close
        make = lambda file: EnduringRecords(file, self._fail)  # noqa: E731
        with mock.patch.object(event_file_writer, "RecordWriter", make):
            return super()._get_file_writer()

    def _fail(self, error: OSError) -> None:
        if not self.failure:
            self.failure = (
                f"TensorBoard's event file is incomplete ({error.strerror or error}): free disk "
                f"space; explanations/ and metrics.csv have the same pictures and numbers"
            )
            log.warning("%s; training continues", self.failure)


class EventLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger, over an ``EnduringWriter``."""

    @property
    @rank_zero_experiment
    def experiment(self) -> EnduringWriter:
        """The writer, which is created at the first call."""
        if self._experiment is None:
            self._fs.makedirs(self.root_dir, exist_ok=True)
            self._experiment = EnduringWriter(log_dir=self.log_dir, **self._kwargs)
        assert isinstance(self._experiment, EnduringWriter)
        return self._experiment

    @property
    def failure(self) -> str:
        """Why events are missing, in one line; empty if none are."""
        writer = self._experiment
        return writer.failure if isinstance(writer, EnduringWriter) else ""
