"""Event files written with the fast checksum are what TensorBoard itself would write."""

from __future__ import annotations

import random

from convlens.callbacks.logging import writing
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.summary.writer import record_writer


def test_checksum_equals_tensorboards():
    rng = random.Random(0)
    for size in (0, 1, 8, 1000, 65_537):
        data = rng.randbytes(size)
        assert writing.masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)


def test_tensorboards_writer_uses_it():
    assert record_writer.masked_crc32c is writing.masked_crc32c
