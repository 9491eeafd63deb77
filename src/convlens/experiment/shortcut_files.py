"""Write what a search for shortcuts found: a sheet for each class, tables, and lines to print.

Legend: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from convlens.core.files import open_atomic
from convlens.core.photograph import Photograph
from convlens.data.index.tables import format_csv_line
from convlens.draw.cluster_sheet import ClusterRow, cluster_sheet
from convlens.draw.slice_sheet import SliceRow, slice_sheet
from convlens.experiment.explanation import write_panels
from convlens.explain.covering import Covering
from convlens.explain.shortcuts import Cluster, describe_cluster, locate_place
from convlens.explain.slices import Slice, choose_examples, describe_slice

TABLE, SLICES, CLUSTERS = "shortcuts.csv", "slices.csv", "clusters.csv"
_COLUMNS = {
    TABLE: ("class", "cluster", "images", "accuracy", "border_energy", "place", "accuracy_covered",
            "accuracy_mirror_covered", "chance", "shortcut"),
    SLICES: ("class", "slice", "images", "accuracy", "accuracy_of_the_rest", "taken_for", "taken",
             "chance", "low"),
    CLUSTERS: ("file", "class", "predicted", "cluster", "slice"),
}  # fmt: skip
_SHOWN, _EXAMPLES = 4, 6  # images of a cluster, and of a slice
_ROWS = 12  # slices in the sheet


@dataclass(frozen=True)
class Reader:
    """Reads the images that are searched, by their positions (n,) among the N.

    Attributes:
        read: returns them as the network takes them, (n, C, H, W) in [0, 1], on its device.
        photographs: returns them at their own proportions.
        sources: returns the names by which a user finds them.
    """

    read: Callable[[Tensor], Tensor]
    photographs: Callable[[Tensor], list[Photograph]]
    sources: Callable[[Tensor], list[str]]


@dataclass(frozen=True, eq=False)
class Result:
    """What a search found.

    Attributes:
        class_names: K names.
        layer: the layer whose maps were grouped.
        classifier: the dense layer whose features were grouped; None if there is none.
        labels: (N,) true classes.
        predictions: (N,) predicted classes.
        clusters: groups by evidence.
        tested: by number of a cluster, what covering its place does.
        shortcuts: numbers of the clusters whose place is a shortcut.
        slices: groups by features.
        low: numbers of the slices of low accuracy.
        reader: reads the images.
        explain: returns the maps of images at positions (n,) for their true class, (n, h, w).
    """

    class_names: tuple[str, ...]
    layer: str
    classifier: str | None
    labels: Tensor
    predictions: Tensor
    clusters: Sequence[Cluster]
    tested: dict[int, Covering]
    shortcuts: Sequence[int]
    slices: Sequence[Slice]
    low: Sequence[int]
    reader: Reader
    explain: Callable[[Tensor], Tensor]


def describe_result(result: Result) -> Iterator[str]:
    """Yield a line for each shortcut and each slice of low accuracy, or that there is none."""
    count = len(result.labels)
    for number in result.shortcuts:
        cluster, tested = result.clusters[number], result.tested[number]
        assert cluster.place is not None
        yield (
            f"shortcut: {result.class_names[cluster.label]}, {len(cluster.rows)} images, "
            f"{locate_place(cluster.place)}: accuracy {cluster.accuracy:.3f}, covered "
            f"{tested.covered:.3f}, mirror image covered {tested.elsewhere:.3f} (chance "
            f"{tested.chance:.2g})"
        )
    if not result.shortcuts:
        yield f"no shortcut found in {count} images (places covered: {len(result.tested)})"
    for number in result.low:
        found = result.slices[number]
        taken = ""
        if found.taken_for is not None:
            taken = f", {found.taken} taken for {result.class_names[found.taken_for]}"
        yield (
            f"slice of low accuracy: {result.class_names[found.label]}, {len(found.rows)} images, "
            f"accuracy {found.accuracy:.3f}, the rest of the class {found.rest:.3f}{taken} (chance "
            f"{found.chance:.2g})"
        )
    if result.classifier is None:
        yield "no slices: the logits come from no dense layer, whose features could be grouped"
    elif not result.low:
        yield f"no slice of low accuracy found among {len(result.slices)}"


def write_result(home: Path, result: Result, *, title: str) -> None:
    """Write the sheets and tables; ``shortcuts.csv`` comes last, when all others are there.

    Args:
        home: the folder.
        result: what was found.
        title: what was searched, for the headings.
    """
    for label, name in enumerate(result.class_names):
        rows = _list_cluster_rows(result, label)
        if rows:
            heading = f"{name} · clusters of the evidence · {result.layer} · {title}"
            write_panels(home, {f"clusters/{name}": cluster_sheet(rows, title=heading)})
    if result.low:
        shown = [_describe_slice(result, result.slices[each]) for each in result.low[:_ROWS]]
        heading = f"slices of low accuracy · {len(shown)} of {len(result.low)} · {title}"
        write_panels(home, {"slices": slice_sheet(shown, title=heading)})
    names, places = _number(result)
    _write_table(home / CLUSTERS, _list_images(result, places))
    _write_table(home / SLICES, _list_slices(result, names[1]))
    _write_table(home / TABLE, _list_clusters(result, names[0]))


def _list_cluster_rows(result: Result, label: int) -> list[ClusterRow]:
    rows = []
    for number, cluster in enumerate(result.clusters):
        if cluster.label != label:
            continue
        shown, reader = cluster.rows[:_SHOWN], result.reader
        lines = describe_cluster(cluster, result.tested.get(number))
        rows.append(
            ClusterRow(
                result.class_names[label], lines, cluster.mean.numpy(), reader.photographs(shown),
                [each.numpy() for each in result.explain(shown)], reader.sources(shown),
                number in result.shortcuts,
            )
        )  # fmt: skip
    return rows


def _describe_slice(result: Result, found: Slice) -> SliceRow:
    shown = choose_examples(found, result.predictions, _EXAMPLES)
    captions = [result.class_names[each] for each in result.predictions[shown].tolist()]
    return SliceRow(
        result.class_names[found.label], describe_slice(found, result.class_names),
        result.reader.photographs(shown), captions, result.reader.sources(shown),
    )  # fmt: skip


def _number(result: Result) -> tuple[list[list[int]], list[np.ndarray]]:
    """Number clusters and slices within their class from 1 on.

    Returns:
        The numbers of the clusters and of the slices; and by image, (N,) each, the number of its
        cluster and of its slice, 0 if it is in none.
    """
    numbers, places = [], []
    for groups in (result.clusters, result.slices):
        counts: dict[int, int] = {}
        own, place = [], np.zeros(len(result.labels), np.int64)
        for group in groups:
            counts[group.label] = counts.get(group.label, 0) + 1
            own.append(counts[group.label])
            place[group.rows.numpy()] = own[-1]
        numbers.append(own)
        places.append(place)
    return numbers, places


def _list_clusters(result: Result, numbers: Sequence[int]) -> Iterator[tuple]:
    for number, cluster in enumerate(result.clusters):
        tested = result.tested.get(number)
        place = "" if cluster.place is None else locate_place(cluster.place)
        found = ("", "", "")
        if tested is not None:
            found = (tested.covered, tested.elsewhere, tested.chance)
        yield (
            result.class_names[cluster.label], numbers[number], len(cluster.rows),
            cluster.accuracy, cluster.border, place, *found, number in result.shortcuts,
        )  # fmt: skip


def _list_slices(result: Result, numbers: Sequence[int]) -> Iterator[tuple]:
    for number, found in enumerate(result.slices):
        taken = "" if found.taken_for is None else result.class_names[found.taken_for]
        yield (
            result.class_names[found.label], numbers[number], len(found.rows), found.accuracy,
            found.rest, taken, found.taken, found.chance, number in result.low,
        )  # fmt: skip


def _list_images(result: Result, places: Sequence[np.ndarray]) -> Iterator[tuple]:
    import torch

    names = result.reader.sources(torch.arange(len(result.labels)))
    columns = result.labels.tolist(), result.predictions.tolist(), *(p.tolist() for p in places)
    for name, label, predicted, cluster, part in zip(names, *columns, strict=True):
        yield (
            name, result.class_names[label], result.class_names[predicted], cluster or "",
            part or "",
        )  # fmt: skip


def _write_table(file: Path, rows: Iterable[tuple]) -> None:
    with open_atomic(file, errors="surrogateescape", newline="") as out:
        out.write(format_csv_line(_COLUMNS[file.name]))
        for row in rows:
            out.write(format_csv_line(map(_format_cell, row)))


def _format_cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
