"""The cut below which labels are probably wrong, by threshold samples.

A network is trained on labels of which some are certainly wrong: those of the threshold samples,
which have a class of their own that no image belongs to. Nearly all of them have a mean margin
(AUM) at or below the cut, and so have other wrong labels that a network learns no better (Pleiss et
al. 2020, arXiv:2001.10528, section 4).

Legend: T threshold samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Judged:
    """The label of a training image, and the cut of the network that judges it.

    Attributes:
        file: by which a user finds the image.
        label: the given class.
        aum: mean margin; NaN if the image was never trained on.
        cut: of the same network.
        other: the class that the network named most besides the given one; "" for none.
    """

    file: str
    label: str
    aum: float
    cut: float
    other: str

    @property
    def is_suspected(self) -> bool:
        """Whether the label is probably wrong."""
        return self.aum <= self.cut


def find_cut(margins: np.ndarray, catch: float) -> float:
    """Return the lowest of the samples' mean margins that ``catch`` of them do not exceed.

    Args:
        margins: (T,) of the threshold samples, at least one.
        catch: fraction of the samples, in (0, 1].

    >>> find_cut(np.arange(1.0, 101.0), 0.99), find_cut(np.array([3.0, 1.0]), 0.5)
    (99.0, 1.0)
    """
    return float(np.sort(margins)[max(int(np.ceil(catch * len(margins) - 1e-9)), 1) - 1])


def judge(
    parts: Iterable[Iterable[Mapping[str, str]]], sample: str, catch: float
) -> tuple[list[Judged], list[float]]:
    """Judge every image by the first network for which it was no threshold sample.

    Args:
        parts: the diaries of the networks, with columns ``file``, ``class``, ``aum`` and ``other``.
        sample: the class of the threshold samples.
        catch: fraction of the threshold samples whose mean margins are at or below the cut.

    Returns:
        The labels, the farthest below their cut first, and the cut of each network.

    Raises:
        ValueError: a network has no threshold sample with a mean margin.
    """
    judged: dict[str, Judged] = {}
    cuts = []
    for rows in map(list, parts):
        known = [float(row["aum"]) for row in rows if row["class"] == sample and row["aum"]]
        if not known:
            raise ValueError("no threshold sample was trained on")
        cuts.append(find_cut(np.array(known), catch))
        for row in rows:
            if row["class"] != sample and row["file"] not in judged:
                other = "" if row["other"] == sample else row["other"]
                aum = float(row["aum"] or "nan")
                judged[row["file"]] = Judged(row["file"], row["class"], aum, cuts[-1], other)
    found = list(judged.values())
    order = np.argsort([each.aum - each.cut for each in found], kind="stable")  # NaN at the end
    return [found[place] for place in order], cuts
