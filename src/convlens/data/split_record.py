"""The split belongs to the run: which images it trained on, chose by and tests on, by content.

Legend: N images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from convlens.core.errors import UserError
from convlens.data.index.digests import UNREAD
from convlens.data.index.labels import SPLITS
from convlens.data.pixels.dataset import Dataset

BEFORE = "before"
_PARTS = (*SPLITS, BEFORE)
USED = {
    "train": "trained on",
    "validation": "validated on",
    BEFORE: "used by an earlier run, whose weights this one started from",
}


@dataclass(frozen=True, eq=False)
class SplitRecord:
    """The digests of a run's images, eight bytes each: what a checkpoint carries of its split.

    Attributes:
        train, validation, test: (N,) int64 each, in the order of the split.
        before: (N,) int64, what earlier runs trained on or chose by whose weights this one started
            from; often none.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    before: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, before: np.ndarray) -> SplitRecord | None:
        """The record of decoded images; None where one of the splits has no digests."""
        found = [dataset.splits[name].digests for name in SPLITS if name in dataset.splits]
        if len(found) < len(SPLITS) or any(digests is None for digests in found):
            return None
        return cls(*found, before)

    @classmethod
    def from_state(cls, state: object, where: str) -> SplitRecord | None:
        """What :meth:`state` gave, out of a checkpoint; None of one that has no record.

        Raises:
            UserError: it is there, and no record.
        """
        if state is None:
            return None
        parts = [state.get(name) for name in _PARTS] if isinstance(state, Mapping) else [None]
        if not all(
            isinstance(part, Tensor) and part.dtype == torch.int64 and part.dim() == 1
            and part.layout == torch.strided and part.device.type == "cpu"
            for part in parts
        ):  # fmt: skip
            raise UserError(f"{where} holds no readable record of its split: was it changed?")
        return cls(*(part.numpy() for part in parts))

    def state(self) -> dict[str, Tensor]:
        """Plain tensors by split."""
        return {name: torch.from_numpy(np.array(getattr(self, name))) for name in _PARTS}

    @property
    def used(self) -> np.ndarray:
        """(N,) int64, each once: whatever the weights owe something to."""
        return np.unique(np.concatenate([self.train, self.validation, self.before]))

    def find_uses(self, digests: np.ndarray) -> np.ndarray:
        """(N,) str: a key of ``USED`` for images that the run used so, "" for all others."""
        found = np.full(len(digests), "", dtype="<U10")
        for name in (BEFORE, "validation", "train"):
            found[np.isin(digests, getattr(self, name))] = name
        found[digests == UNREAD] = ""
        return found

    def find_own_test(self, digests: np.ndarray) -> np.ndarray:
        """(N,) bool: the images of the run's test split, a copy of one no more often than there."""
        wanted, times = np.unique(self.test, return_counts=True)
        rows = np.flatnonzero(np.isin(digests, wanted) & (digests != UNREAD))
        rows = rows[np.argsort(digests[rows], kind="stable")]
        _, starts, counts = np.unique(digests[rows], return_index=True, return_counts=True)
        copy = np.arange(len(rows)) - np.repeat(starts, counts)
        allowed = times[np.searchsorted(wanted, digests[rows])]
        found = np.zeros(len(digests), bool)
        found[rows[copy < allowed]] = True
        return found

    def same_as(self, other: SplitRecord) -> bool:
        """Whether both hold the same images in the same splits and order."""
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in SPLITS)
