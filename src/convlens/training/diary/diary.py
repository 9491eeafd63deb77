"""The diary of a run: its record, the epoch under way, and what is read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from convlens.core.stopwatch import count_seconds
from convlens.data.index.tables import format_csv_line
from convlens.training.diary.presentations import OpenEpoch, Presentations, gather_parts, join
from convlens.training.diary.record import Record
from convlens.training.diary.suspects import Suspects, check_labels, check_presence, find_suspects


@dataclass(frozen=True)
class Suspect:
    """A label that may be wrong.

    Attributes:
        row: the image's position in the training images.
        name: by which a user finds it.
        label: the given class; with several classes per image, the class that the label is about.
        other: the class that the network names instead; ``label`` with several classes per image.
        role: ``label``, or ``missing label`` if the image lacks the class.
        copy: position of a training image that looks the same and has another label; None if there
            is none.
    """

    row: int
    name: str
    label: int
    other: int
    role: Literal["label", "missing label"] = "label"
    copy: int | None = None


class Diary:
    """What every training image did, up to the last complete epoch.

    Args:
        labels: (N,) int64, the given classes; (N, K) bool if images may have several.
        names: N names by which a user finds the images.
        class_names: K names.
        double: whether the network is trained in float64.
        copies: positions of images -> that of one which looks the same and has another label.

    Attributes:
        record: the running sums.
        epoch: completed epochs in the record.
    """

    def __init__(
        self, labels: np.ndarray, names: Sequence[str], class_names: Sequence[str], *,
        double: bool = False, copies: Mapping[int, int] | None = None,
    ):  # fmt: skip
        self.labels, self.class_names = labels, tuple(class_names)
        self.names = [str(name) for name in names]  # images of an array are numbered
        self.several, self.copies = labels.ndim == 2, dict(copies or {})
        self.record = Record(len(labels), len(class_names), several=self.several, double=double)
        self.epoch = 0
        self._open = OpenEpoch()
        self._closed: Presentations | None = None

    def take(self, logits: Tensor, batch: dict, number: int) -> None:
        """Note a training step; see ``OpenEpoch.take``."""
        self._open.take(logits, batch, number)

    def close_epoch(self, epoch: int) -> Presentations | None:
        """Add the epoch to the record; every process must call it, once or several times.

        Args:
            epoch: completed epochs, with this one.

        Returns:
            The presentations of the epoch in all processes, in their order; None without any.
        """
        if epoch == self.epoch:
            return self._closed
        with count_seconds("diary"):
            self._closed = self._gather()
            self.epoch = epoch
            if self._closed is not None:
                self.record.add(self._closed, epoch)
        return self._closed

    def _gather(self) -> Presentations | None:
        parts = gather_parts(self._open.read())
        self._open = OpenEpoch()
        kept = [part for part in parts if part is not None]
        return join(kept) if kept else None

    # --- what is read from it

    @cached_property
    def quoted_files(self) -> list[str]:
        """The names as cells of a CSV file."""
        return [quote(name) for name in self.names]

    def find_suspects(self) -> list[Suspects]:
        """Return the suspects, each in the shape of ``labels``.

        With several classes per image there are two kinds, each with a cut of its own: labels that
        an image has, then labels that it lacks. Otherwise there is one.
        """
        aum = self.record.aum
        if not self.several:
            return [find_suspects(aum)]
        return [find_suspects(np.where(self.labels == has, aum, np.nan)) for has in (True, False)]

    def rank(self) -> np.ndarray:
        """Return (M, 2): image and class of labels by mean margin, the most suspicious first.

        The class is the given one. With several classes per image these are the labels that an
        image has, and those it lacks although the network, on average, predicts them.
        """
        aum = self.record.aum
        if self.several:
            rows, classes = np.nonzero(self.labels | (aum < 0))
        else:
            rows, classes = np.arange(len(self.labels)), self.labels
        margins = aum[rows, classes] if self.several else aum
        return np.stack([rows, classes], axis=1)[np.argsort(margins, kind="stable")]

    def list_suspects(self, count: int) -> list[Suspect]:
        """Return the most suspicious labels of ``rank``, at most ``count``.

        Of two images that look the same and have different labels, one is wrong whatever the
        network says: they come first, in up to half of the places, each pair by its lower margin.
        """
        found, ranked = [], self.rank()
        places = [*self._rank_copies(ranked[:, 0], count // 2), *range(min(count, len(ranked)))]
        for row, label in ranked[list(dict.fromkeys(places))[:count]].tolist():
            if self.several:
                other, present = label, bool(self.labels[row, label])
            else:
                named = self.record.arrays["lead"][row] > 0
                other, present = int(self.record.arrays["other"][row]) if named else label, True
            role = "label" if present else "missing label"
            copy = self.copies.get(row)
            found.append(Suspect(row, self.names[row], label, other, role, copy))
        return found

    def _rank_copies(self, rows: np.ndarray, count: int) -> list[int]:
        """Return where in a ranking of images the first of each pair of copies is."""
        first: dict[int, int] = {}  # image -> its place
        for place in np.flatnonzero(np.isin(rows, list(self.copies))).tolist():
            row = int(rows[place])
            if len(first) < count and self.copies[row] not in first:
                first[row] = place
        return list(first.values())

    def describe_suspects(self) -> str:
        """Return how many labels are suspected, and how many chance gives, in words."""
        found = self.find_suspects()
        count, by_chance = sum(f.count for f in found), sum(f.by_chance for f in found)
        if not count:
            return "lowest margins, no label suspected"
        total = sum(each.total for each in found)
        return f"probably mislabelled: {count} of {total}, chance gives {by_chance:.0f}"

    def check(self, excess: float) -> str | None:
        """Return the alarm that many labels are probably wrong, or None.

        Args:
            excess: threshold, as a fraction of the labels.
        """
        found = self.find_suspects()
        if not self.several:
            others = self.record.arrays["other"]
            return check_labels(found[0], self.labels, others, self.class_names, excess=excess)
        lines = [
            check_presence(each, has, self.class_names, excess=excess)
            for each, has in zip(found, (True, False), strict=True)
        ]
        return "; ".join(line for line in lines if line) or None

    # --- what a checkpoint keeps

    def state(self) -> dict[str, Tensor | int]:
        """Return the record, for a checkpoint."""
        return {"epoch": self.epoch, **self.record.state()}

    def load(self, state: dict[str, Tensor | int]) -> bool:
        """Take over the record of a checkpoint; return False if it is of other images."""
        sums = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        epoch = state.get("epoch")
        if not isinstance(epoch, int) or not self.record.load(sums):
            return False
        self.epoch = epoch
        return True

    def open_state(self) -> dict[str, list]:
        """Return this process's part of the epoch under way, for a checkpoint amid it."""
        return self._open.state()

    def reopen(self, state: dict[str, list], device: torch.device) -> None:
        """Continue the epoch of a checkpoint."""
        self._open.load(state, device)


def quote(text: str) -> str:
    """Return a text as a cell of a CSV file."""
    return format_csv_line([text])[:-1]
