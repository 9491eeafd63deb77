"""Which images a run trained on, validated on and tests on, by content, and their labels.

Legend: N images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from convlens.core.errors import UserError
from convlens.data.index.digests import UNREAD, content_digest
from convlens.data.index.labels import SPLITS
from convlens.data.pixels.dataset import Dataset

BEFORE, _LABELS = "before", "labels"
_PARTS = (*SPLITS, BEFORE)
USED = {
    "train": "trained on",
    "validation": "validated on",
    BEFORE: "used by an earlier run, whose weights this one started from",
}


@dataclass(frozen=True, eq=False)
class SplitRecord:
    """The digests of a run's images and labels; a checkpoint carries this record.

    Attributes:
        train: (N,) int64, in the order of the split.
        validation: (N,) int64, in the order of the split.
        test: (N,) int64, in the order of the split.
        before: (N,) int64, what earlier runs whose weights this one started from trained or
            validated on; often empty.
        labels: (3,) int64, by split, a digest of the labels; None if an earlier version wrote it.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    before: np.ndarray
    labels: np.ndarray | None = None

    @classmethod
    def of(cls, dataset: Dataset, before: np.ndarray) -> SplitRecord | None:
        """Return the record of decoded images; None if a split has no digests."""
        parts = [dataset.splits[name].digests for name in SPLITS if name in dataset.splits]
        if len(parts) < len(SPLITS) or any(digests is None for digests in parts):
            return None
        labels = [_digest_labels(dataset, split) for split in SPLITS]
        return cls(*parts, before, np.array(labels, np.int64))

    @classmethod
    def from_state(cls, state: object, where: str) -> SplitRecord | None:
        """Read what ``state`` returned, from a checkpoint; None if it has no record.

        Args:
            state: the value in the checkpoint, or None.
            where: what an error calls the checkpoint.

        Raises:
            UserError: the value is not a valid record.
        """
        if state is None:
            return None
        parts = [state.get(name) for name in _PARTS] if isinstance(state, Mapping) else [None]
        if isinstance(state, Mapping) and _LABELS in state:  # earlier versions did not record it
            parts.append(state[_LABELS])
        if not all(
            isinstance(part, Tensor) and part.dtype == torch.int64 and part.dim() == 1
            and part.layout == torch.strided and part.device.type == "cpu"
            for part in parts
        ):  # fmt: skip
            raise UserError(f"{where} contains no readable record of its split: was it modified?")
        return cls(*(part.numpy() for part in parts))

    def state(self) -> dict[str, Tensor]:
        """Return plain tensors by split."""
        names = _PARTS if self.labels is None else (*_PARTS, _LABELS)
        return {name: torch.from_numpy(np.array(getattr(self, name))) for name in names}

    @property
    def used(self) -> np.ndarray:
        """(N,) int64, without repeats: every image that influenced the weights."""
        return np.unique(np.concatenate([self.train, self.validation, self.before]))

    def find_uses(self, digests: np.ndarray) -> np.ndarray:
        """Return (N,) str: the key of ``USED`` by which the run used an image, "" for others."""
        uses = np.full(len(digests), "", dtype="<U10")
        for name in (BEFORE, "validation", "train"):
            uses[np.isin(digests, getattr(self, name))] = name
        uses[digests == UNREAD] = ""
        return uses

    def find_own_test(self, digests: np.ndarray) -> np.ndarray:
        """Return (N,) bool: images of the run's test split, each as often as it occurs there."""
        tested, times = np.unique(self.test, return_counts=True)
        rows = np.flatnonzero(np.isin(digests, tested) & (digests != UNREAD))
        rows = rows[np.argsort(digests[rows], kind="stable")]
        _, starts, counts = np.unique(digests[rows], return_index=True, return_counts=True)
        copy = np.arange(len(rows)) - np.repeat(starts, counts)
        allowed = times[np.searchsorted(tested, digests[rows])]
        is_test = np.zeros(len(digests), bool)
        is_test[rows[copy < allowed]] = True
        return is_test

    def same_as(self, other: SplitRecord) -> bool:
        """Return whether both contain the same images and labels in the same splits and order."""
        names = [*SPLITS] if self.labels is None or other.labels is None else [*SPLITS, _LABELS]
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)


def _digest_labels(dataset: Dataset, split: str) -> int:
    """Return a digest of the classes, and of the labels of a split in its order."""
    names = "\0".join(dataset.class_names).encode("utf-8", "surrogatepass")
    return content_digest(names + np.ascontiguousarray(dataset.splits[split].targets).tobytes())
