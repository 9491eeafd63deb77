"""The config group ``diary``, and the callback that shows it."""

from __future__ import annotations

from typing import Annotated

from convlens.config.schema.keys import FRACTION, SWITCH, Slice, key


class DiaryConfig(Slice):
    """What is kept of every training image."""

    rows: Annotated[bool, SWITCH] = key(
        "also write every image's numbers of each epoch to diary/epoch_NNN.safetensors"
    )
    excess: Annotated[float, FRACTION] = key(
        "mislabelled alarm: suspected labels beyond what chance gives, fraction of the labels"
    )
