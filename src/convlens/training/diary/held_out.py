"""Suspects among validation and test images: labels that the final network firmly contradicts.

They are found in the answers that an evaluation computes anyway, by the rule of
``convlens.training.diary.suspects``, and have no part in training.

Legend: N images of a split, n suspects, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convlens.training.diary.presentations import HELD, gather_parts, measure
from convlens.training.diary.suspects import find_suspects

NUMBERS = 1 << 22  # logits of contradicted labels kept from one pass: 16 MiB


@dataclass(frozen=True)
class HeldOutSuspects:
    """The labels of a split that a network contradicts firmly, the lowest margin first.

    Attributes:
        rows: (n,) int64, the image's position in the split.
        classes: (n,) int64, the given class; with several classes per image, the class that the
            label is about.
        others: (n,) int64, the class that the network names instead; ``classes`` with several.
        margins: (n,) float64, the logit of the given label minus the largest other logit, divided
            by the temperature.
        given: (n,) float64 in [0, 1], the probability of the given label, with the temperature.
        named: (n,) float64 in [0, 1], that of the class in ``others``; NaN with several classes.
        count: how many labels are suspected; more than n if not all are listed.
        total: labels in the split.
        by_chance: how many suspects chance gives.
    """

    rows: np.ndarray
    classes: np.ndarray
    others: np.ndarray
    margins: np.ndarray
    given: np.ndarray
    named: np.ndarray
    count: int
    total: int
    by_chance: float

    def to_state(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        values = ((each.name, getattr(self, each.name)) for each in fields(self))
        return {n: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in values}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> HeldOutSuspects:
        """Return what ``to_state`` returned."""
        return cls(**{n: v.numpy() if isinstance(v, Tensor) else v for n, v in state.items()})


class OpenPass:
    """The answers of a validation or test pass under way, in one process.

    With more than two classes, a probability takes all logits of the image, and the temperature,
    which is known at the end of the pass only. So the logits of contradicted labels are kept, those
    of the lowest margins first; no more suspects are listed.

    Args:
        numbers: most logits to keep.
    """

    def __init__(self, numbers: int = NUMBERS):
        self.numbers = numbers
        self._held: list[tuple[Tensor, Tensor, Tensor]] = []
        self._size = 0
        self._parts: list[list[np.ndarray]] = []  # rows, labels, margins, others
        self._wrong: list[np.ndarray] = []  # rows, margins, logits
        self._limit = 0  # images whose logits are kept; 0 if none are needed

    @torch.no_grad()
    def take(self, logits: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Note a batch.

        Args:
            logits: (B, K) or (B, 1), not divided by a temperature.
            batch: with ``row`` and ``label``.
        """
        self._held.append((batch["row"], logits.detach(), batch["label"]))
        self._size += logits.numel()
        if self._size >= HELD:
            self._measure()

    def _measure(self) -> None:
        if not self._held:
            return
        rows, logits, labels = (torch.cat(column) for column in zip(*self._held, strict=True))
        self._held, self._size = [], 0
        margins, _, _, _, others = measure(logits, labels)
        self._parts.append([each.cpu().numpy() for each in (rows, labels, margins, others)])
        if labels.dim() == 1 and logits.shape[1] > 2:
            self._limit = max(self.numbers // logits.shape[1], 1)
            wrong = margins < 0
            new = [rows.to(wrong.device)[wrong], margins[wrong], logits[wrong].double()]
            self._keep_lowest([each.cpu().numpy() for each in new])

    def _keep_lowest(self, new: list[np.ndarray]) -> None:
        joined = new
        if self._wrong:
            joined = [np.concatenate(pair) for pair in zip(self._wrong, new, strict=True)]
        order = np.lexsort((joined[0], joined[1]))[: self._limit]
        self._wrong = [each[order] for each in joined]

    def close(self, temperature: float) -> HeldOutSuspects | None:
        """End the pass; every process must call it.

        Args:
            temperature: the logits are divided by it to get probabilities.

        Returns:
            The suspects of all processes; None if the pass had no image.
        """
        self._measure()
        mine = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        parts = [part for part in gather_parts(mine) if part]
        if not parts:
            return None
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.unique(columns[0], return_index=True)[1]
        rows, labels, margins, others = (column[order] for column in columns)
        margins = margins.astype(np.float64) / temperature
        several = labels.ndim == 2
        kinds = [np.where(labels == has, margins, np.nan) for has in (True, False)]
        found = [find_suspects(each) for each in (kinds if several else [margins])]
        place = np.nonzero(np.any([each.flags for each in found], axis=0))
        order = np.argsort(margins[place], kind="stable")
        place = tuple(each[order] for each in place)
        rows, margins = rows[place[0]], margins[place]
        classes, others = (place[1],) * 2 if several else (labels[place], others[place])
        given = 1 / (1 + np.exp(-margins))
        named = np.full(len(given), np.nan) if several else 1 - given
        pairs = np.stack([classes, others], axis=1).tolist()
        own = self._compute_shares(dict(zip(rows.tolist(), pairs, strict=True)), temperature)
        limits, shares = zip(*gather_parts((self._limit, own)), strict=True)
        kept = slice(max(limits) or None)
        known = {row: pair for part in shares for row, pair in part.items()}
        if known:
            given, named = np.array([known[row] for row in rows[kept].tolist()]).T
        return HeldOutSuspects(
            rows[kept], classes[kept], others[kept], margins[kept],
            given[kept], named[kept],
            count=len(rows), total=sum(each.total for each in found),
            by_chance=sum(each.by_chance for each in found),
        )  # fmt: skip

    def _compute_shares(
        self, wanted: Mapping[int, list[int]], temperature: float
    ) -> dict[int, tuple[float, float]]:
        """Return the probabilities of two classes of images whose logits this process kept.

        Args:
            wanted: row of the image -> the two classes.
            temperature: the logits are divided by it.
        """
        if not self._wrong:
            return {}
        rows, _, logits = self._wrong
        scaled = torch.from_numpy(logits) / temperature
        return {
            row: tuple(scaled[at].softmax(0)[wanted[row]].tolist())
            for at, row in enumerate(rows.tolist())
            if row in wanted
        }
