"""Groups of images whose evidence is in one place, and whether the network needs that place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from convlens.callbacks.evidence import (
    PASSES,
    Evidence,
    Stream,
    collect_evidence,
    find_last_feature_map,
)
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look
from convlens.callbacks.looks import ExplanationCallback
from torch import Tensor

from convlens.draw.cluster_sheet import ClusterRow, cluster_sheet
from convlens.explain.clusters import average_cells, cluster_maps, find_place
from convlens.explain.covering import MIRRORS, Covering, list_mirrors, judge_place
from convlens.explain.scores import border_energy

_SHOWN = 4  # images of a cluster in the sheet
_ROWS = 8  # clusters in the sheet
_HALF, _MOST = 0.5, 0.8  # shares of the evidence: in the place, and in what is covered
_BORDER = 0.1  # width of the border region, see ``border_energy``


@dataclass(frozen=True, eq=False)
class Found:
    """A cluster of a class's images.

    Attributes:
        kind: the class.
        rows: (n,) positions in the sample.
        mean: (h, w), the mean of its maps, each with a sum of 1.
        place: (h, w) bool, the cells that are covered; None if the evidence is not in one place.
        accuracy: on its images.
        border: its mean border energy.
    """

    kind: int
    rows: Tensor
    mean: Tensor
    place: Tensor | None
    accuracy: float
    border: float


class Shortcuts(ExplanationCallback):
    """``grad_cam_clusters``: groups of images whose evidence is in similar places.

    The Grad-CAM maps of each class are clustered (SpRAy, see ``convlens.explain.clusters``). If a
    cluster's evidence is in one place at the edge of the image, this place is covered, and
    accuracy is compared to that with a mirror image of the place covered (see
    ``convlens.explain.covering``). A place without which accuracy falls much further is a
    shortcut, and ``explain/shortcut/<class>`` says how much further.

    After an epoch it looks only if there is time for all images; at the end it takes as many as
    it can. Images with several classes are not grouped.

    Args:
        pictures: number of validation images, evenly spread.
        area: maximum area of a place, as a fraction of the image, that holds half of the evidence.
        fall: minimum fall of accuracy that makes a place a shortcut.
        chance: maximum probability that so large a fall is chance, divided among the places tested.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.
    """

    has_final_look = True

    def __init__(
        self, *, pictures: int = 120, area: float = 0.2, fall: float = 0.25, chance: float = 0.01,
        every_n_epochs: int = 1, batch: int = 32,
    ):  # fmt: skip
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.count = pictures
        self.area, self.fall, self.chance = area, fall, chance
        self._measured: int | None = None  # the clock of the latest look with all images

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"grad_cam_clusters": 1}

    def pictures(self, look: Look) -> Findings:
        layers = find_last_feature_map(look.network, look.example)
        if not layers or look.thresholds is not None or look.sample_images is None:
            return
        if self._measured == look.clock:  # the look at the end follows that of the last epoch
            return
        if not (look.final or look.affords(("grad_cam", *layers), self.count, PASSES)):
            return  # the look at the end takes as many images as it can
        evidence = collect_evidence(self, look, self.count)
        if evidence is None:
            return
        clusters = self._cluster(evidence, len(look.class_names))
        images = Stream(look.sample_images(self.count)).take(len(evidence.labels))
        tested = self._test_places(look, evidence, clusters, images)
        if tested is None:
            self.report_cut(look, "before a place was covered")
            return
        if not self.cut:
            self._measured = look.clock
        allowed = self.chance / max(1, len(tested))
        shortcuts = {
            number: result for number, result in tested.items()
            if result.fall >= self.fall and result.chance <= allowed
        }  # fmt: skip
        falls: dict[str, float] = {}
        for number, result in shortcuts.items():
            name = look.class_names[clusters[number].kind]
            falls[name] = max(result.fall, falls.get(name, 0.0))
        for name, fall in falls.items():
            yield f"explain/shortcut/{name}", fall
        if clusters:
            order = sorted(
                range(len(clusters)), key=lambda k: (k not in shortcuts, clusters[k].accuracy)
            )[:_ROWS]
            title = f"clusters of the evidence · {evidence.layer} · epoch {look.clock}"
            yield from self.draw(
                look, "grad_cam_clusters",
                lambda: cluster_sheet(
                    [
                        self._describe(look, evidence, images, clusters[k], tested.get(k),
                                       k in shortcuts)
                        for k in order
                    ],
                    title=title,
                ),
            )  # fmt: skip

    def _cluster(self, evidence: Evidence, classes: int) -> list[Found]:
        cells = average_cells(evidence.true)
        borders = border_energy(evidence.true, _BORDER)
        right = evidence.predictions == evidence.labels
        found = []
        for kind in range(classes):
            own = (evidence.labels == kind).nonzero()[:, 0]
            for rows in cluster_maps(cells[own]):
                rows = own[rows]
                mean = cells[rows].mean(0)
                half = find_place(mean, _HALF)
                is_one = float(half.double().mean()) <= self.area and _touches_edge(half)
                place = find_place(mean, _MOST) if is_one else None
                accuracy = float(right[rows].double().mean())
                border = float(borders[rows].nanmean())
                found.append(Found(kind, rows, mean, place, accuracy, border))
        return found

    def _test_places(
        self, look: Look, evidence: Evidence, clusters: list[Found], images: Tensor
    ) -> dict[int, Covering] | None:
        """Return the results by cluster; None if there is no time."""
        due = [k for k, each in enumerate(clusters)
               if each.place is not None and list_mirrors(each.place)]  # fmt: skip
        passes = (2 + len(MIRRORS)) * sum(len(clusters[k].rows) for k in due)
        if not look.affords("covering", passes, 1.0):
            return None
        results: dict[int, Covering] = {}
        with look.timed("covering", max(1, passes)):
            for k in due:
                rows, place = clusters[k].rows, clusters[k].place
                labels = evidence.labels[rows]
                result = self.fit_batch(
                    partial(_run_test, look, images[rows.to(images.device)], labels, place)
                )
                if result is not None:
                    results[k] = result
        return results

    def _describe(
        self, look: Look, evidence: Evidence, images: Tensor, cluster: Found,
        result: Covering | None, is_shortcut: bool,
    ) -> ClusterRow:  # fmt: skip
        count = len(cluster.rows)
        lines = [f"{count} images, accuracy {cluster.accuracy:.2f}",
                 f"{cluster.border:.0%} of the evidence along the border"]  # fmt: skip
        if result is not None:
            lines.append(
                f"covered {result.covered:.2f}, covered elsewhere {result.elsewhere:.2f}"
                f" (chance {result.chance:.2g})"
            )
        elif cluster.place is None:
            lines.append("the evidence is not in one place at the edge")
        assert look.photographs and look.sources and look.sample_rows
        shown = cluster.rows[:_SHOWN].tolist()
        sample = look.sample_rows(self.count)
        rows = [sample[row] for row in shown]
        return ClusterRow(
            look.class_names[cluster.kind], lines, cluster.mean.numpy(),
            look.photographs(rows, images[shown]), [evidence.true[row].numpy() for row in shown],
            look.sources(rows), is_shortcut,
        )  # fmt: skip


def _run_test(
    look: Look, images: Tensor, labels: Tensor, place: Tensor, batch: int
) -> Covering | None:
    return judge_place(look.network, images, labels, place, batch=batch)


def _touches_edge(place: Tensor) -> bool:
    """Return whether at least half of a place's cells are at the edge of the image."""
    inner = place[1:-1, 1:-1]
    return 2 * float(inner.sum()) <= float(place.sum())
