"""Groups of images whose evidence is in one place, and whether the network needs that place."""

from __future__ import annotations

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
from convlens.explain.covering import MIRRORS, Covering, judge_place
from convlens.explain.shortcuts import Cluster, describe_cluster, find_clusters, find_shortcuts

_SHOWN = 4  # images of a cluster in the sheet
_ROWS = 8  # clusters in the sheet


class Shortcuts(ExplanationCallback):
    """``grad_cam_clusters``: groups of images whose evidence is in similar places.

    The Grad-CAM maps of each class are clustered (SpRAy, see ``convlens.explain.clusters``). If a
    cluster's evidence is in one place at the edge of the image, this place is covered, and
    accuracy is compared to that with a mirror image of the place covered (see
    ``convlens.explain.covering``). A place without which accuracy falls much further is a
    shortcut, and ``explain/shortcut/<class>`` says how much further.

    After an epoch it looks only if there is time for all images; at the end it takes as many as
    it can. The network before training is left out. Images with several classes are not grouped.

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
        kind = ("grad_cam", *layers)
        if not look.final and not (look.clock and look.affords(kind, self.count, PASSES)):
            return  # the look at the end takes as many images as it can
        evidence = collect_evidence(self, look, self.count)
        if evidence is None:
            return
        clusters = find_clusters(
            evidence.true, evidence.labels, evidence.predictions, area=self.area
        )
        images = Stream(look.sample_images(self.count)).take(len(evidence.labels))
        tested = self._cover_places(look, evidence, clusters, images)
        if tested is None:
            if look.final:
                self.report_cut(look, "before a place was covered")
            return
        if not self.cut:
            self._measured = look.clock
        shortcuts = find_shortcuts(tested, fall=self.fall, chance=self.chance)
        for label in sorted({clusters[number].label for number in shortcuts}):
            falls = [tested[k].fall for k in shortcuts if clusters[k].label == label]
            yield f"explain/shortcut/{look.class_names[label]}", max(falls)
        order = sorted(
            range(len(clusters)), key=lambda k: (k not in shortcuts, clusters[k].accuracy)
        )[:_ROWS]
        if order:
            yield from self.draw(
                look, "grad_cam_clusters",
                lambda: cluster_sheet(
                    [
                        self._describe(
                            look, evidence, images, clusters[k], tested.get(k), k in shortcuts
                        )
                        for k in order
                    ],
                    title=f"clusters of the evidence · {evidence.layer} · epoch {look.clock}",
                ),
            )  # fmt: skip

    def _cover_places(
        self, look: Look, evidence: Evidence, clusters: list[Cluster], images: Tensor
    ) -> dict[int, Covering] | None:
        """Return what covering each cluster's place does; None if there is no time."""
        due = [
            (k, each.rows, each.place) for k, each in enumerate(clusters) if each.place is not None
        ]
        passes = (2 + len(MIRRORS)) * sum(len(rows) for _, rows, _ in due)
        if not look.affords("covering", passes, 1.0):
            return None
        results: dict[int, Covering] = {}
        colour = images.mean((0, 2, 3))
        with look.timed("covering", max(1, passes)):
            for k, rows, place in due:
                labels, covered = evidence.labels[rows], images[rows.to(images.device)]
                judge = partial(_judge, look, covered, labels, place, colour)
                if (result := self.fit_batch(judge)) is not None:
                    results[k] = result
        return results

    def _describe(
        self, look: Look, evidence: Evidence, images: Tensor, cluster: Cluster,
        result: Covering | None, is_shortcut: bool,
    ) -> ClusterRow:  # fmt: skip
        assert look.photographs and look.sources and look.sample_rows
        shown = cluster.rows[:_SHOWN].tolist()
        sample = look.sample_rows(self.count)
        rows = [sample[row] for row in shown]
        return ClusterRow(
            look.class_names[cluster.label], describe_cluster(cluster, result),
            cluster.mean.numpy(),
            look.photographs(rows, images[shown]), [evidence.true[row].numpy() for row in shown],
            look.sources(rows), is_shortcut,
        )  # fmt: skip


def _judge(
    look: Look, images: Tensor, labels: Tensor, place: Tensor, colour: Tensor, batch: int
) -> Covering | None:
    return judge_place(look.network, images, labels, place, colour, batch=batch)
