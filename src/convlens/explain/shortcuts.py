"""Groups of a class's images whose evidence is in one place, and whether that place is a shortcut.

Legend: N images, (h, w) size of their maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from convlens.explain.clusters import average_cells, cluster_maps, find_place
from convlens.explain.covering import Covering, list_mirrors
from convlens.explain.scores import border_energy

K = TypeVar("K")
HALF = 0.5  # share of a cluster's evidence that its place must hold
EDGE = 0.22  # distance of cell centres up to which they are at the edge, fraction of the sides
AT_EDGE = 2 / 3  # least fraction of a place's cells that are at the edge
_BORDER = 0.1  # width of the border region, see ``border_energy``


@dataclass(frozen=True, eq=False)
class Cluster:
    """Images of one class whose evidence is in similar places.

    Attributes:
        label: the class.
        rows: (n,) int64, positions among the N images.
        mean: (h', w'), the mean of their maps, with a sum of 1; see ``average_cells``.
        place: (h', w') bool, the cells to cover: the fewest that hold half of the evidence, and
            those beside them. None if these few are not in one place at the edge, or if every
            mirror image overlaps the place.
        accuracy: of the network on these images, in [0, 1].
        border: their mean border energy, in [0, 1].
    """

    label: int
    rows: Tensor
    mean: Tensor
    place: Tensor | None
    accuracy: float
    border: float


def find_clusters(
    maps: Tensor, labels: Tensor, predictions: Tensor, *, area: float
) -> list[Cluster]:
    """Cluster the maps of each class.

    Args:
        maps: (N, h, w), evidence for the true class, at least 0.
        labels: (N,) true classes; -1 where unknown, and then in no cluster.
        predictions: (N,) predicted classes.
        area: maximum area of one place, as a fraction of the image: the fewest cells that hold half
            of the evidence, at least two thirds of which are at the edge.
    """
    return group_images(*summarise_maps(maps), labels, predictions, area=area)


def summarise_maps(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return all that is used of maps, (N, h, w): their cells, (N, h', w'), and border energy."""
    return average_cells(maps), border_energy(maps, _BORDER)


def group_images(
    cells: Tensor, borders: Tensor, labels: Tensor, predictions: Tensor, *, area: float
) -> list[Cluster]:
    """Do what ``find_clusters`` does, from what ``summarise_maps`` returned."""
    right = (predictions == labels).double()
    found = []
    for label in labels[labels >= 0].unique().tolist():
        own = (labels == label).nonzero()[:, 0]
        for part in cluster_maps(cells[own]):
            rows = own[part]
            mean = cells[rows].mean(0)
            core = find_place(mean, HALF)
            # a map is blurred: what it points at may reach into the cells beside the core
            place = widen(core) if _is_one_place(core, area) else None
            if place is not None and not list_mirrors(place):
                place = None
            accuracy, border = float(right[rows].mean()), float(borders[rows].nanmean())
            found.append(Cluster(label, rows, mean, place, accuracy, border))
    return found


def describe_cluster(cluster: Cluster, tested: Covering | None) -> list[str]:
    """Return what was found of a cluster, line by line.

    Args:
        cluster: the cluster.
        tested: what covering its place does; None if it was not covered.
    """
    lines = [f"{len(cluster.rows)} images, accuracy {cluster.accuracy:.2f}",
             f"{cluster.border:.0%} of the evidence along the border"]  # fmt: skip
    if tested is not None:
        lines.append(
            f"covered {tested.covered:.2f}, covered elsewhere {tested.elsewhere:.2f}"
            f" (chance {tested.chance:.2g})"
        )
    elif cluster.place is None:
        lines.append("the evidence is not in one place at the edge")
    return lines


def locate_place(place: Tensor) -> str:
    """Return where the middle of a place, (h, w) bool, is, in words.

    >>> locate_place(torch.tensor([[True, False], [False, False]]))
    'top left'
    """
    down, across = (
        ((rows.double() + 0.5).mean() / count).item()
        for rows, count in zip(place.nonzero().unbind(1), place.shape, strict=True)
    )
    vertical = "top" if down < 1 / 3 else "bottom" if down > 2 / 3 else ""
    sideways = "left" if across < 1 / 3 else "right" if across > 2 / 3 else ""
    return f"{vertical} {sideways}".strip() or "middle"


def widen(place: Tensor) -> Tensor:
    """Return a place, (h, w) bool, with all cells beside it, also diagonally."""
    return max_pool2d(place[None].float(), 3, stride=1, padding=1)[0] > 0


def _is_one_place(place: Tensor, area: float) -> bool:
    down, across = (((torch.arange(n) + 0.5) / n) for n in place.shape)
    near = (
        torch.minimum(torch.minimum(down, 1 - down)[:, None], torch.minimum(across, 1 - across))
        <= EDGE
    )
    at_edge = float((place & near).sum()) / float(place.sum())
    return float(place.double().mean()) <= area and at_edge >= AT_EDGE


def find_shortcuts(tested: Mapping[K, Covering], *, fall: float, chance: float) -> list[K]:
    """Return which of the places that were covered are shortcuts.

    Args:
        tested: by any key, what covering a place does.
        fall: minimum fall of accuracy, see ``Covering``.
        chance: maximum probability that any of them is called a shortcut by chance alone; each may
            have an equal part of it (Bonferroni).

    >>> places = {"corner": Covering(1.0, 0.1, 0.9, 0.001), "left": Covering(1.0, 0.7, 1.0, 0.02)}
    >>> find_shortcuts(places, fall=0.25, chance=0.01)
    ['corner']
    """
    return [
        key for key, each in tested.items()
        if each.fall >= fall and each.chance <= chance / len(tested)
    ]  # fmt: skip
