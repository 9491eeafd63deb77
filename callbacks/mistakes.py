"""The network's most confident mistakes, with Grad-CAM maps that explain them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from convlens.callbacks.evidence import PASSES, explain_classes, find_last_feature_map
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look, Portion
from convlens.callbacks.looks import ExplanationCallback
from convlens.callbacks.predictions import Predictions
from torch import Tensor

from convlens.draw.breakdown import breakdown
from convlens.draw.colour import overlay
from convlens.draw.confusion_matrix import count_confusions
from convlens.draw.grad_cam_panel import format_probability
from convlens.draw.picture_sheet import SheetEntry, picture_sheet

Panels = list[tuple[str, np.ndarray]]  # caption and picture


class Mistakes(ExplanationCallback):
    """``predictions/…``: the most confident mistakes, random images, and mistakes by class.

    ``predictions/mistakes`` shows each with its Grad-CAM for the predicted and for the true class:
    a heat map is most useful on a mistake. ``predictions/random`` shows images drawn once, with
    prediction and confidence; ``predictions/breakdown`` shows which class is mistaken for which.
    After the test, the same is drawn for the test images, under ``…/test``.

    Args:
        mistakes: number of the most confident mistakes to show.
        random: number of random images to show.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.
    """

    needs_predictions = looks_at_test = True

    def __init__(
        self, *, mistakes: int = 8, random: int = 8, every_n_epochs: int = 1, batch: int = 32
    ):
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.mistakes, self.random = mistakes, random

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {f"predictions/{what}": 1 for what in ("mistakes", "random", "breakdown")}

    def portion(self, look: Look) -> Portion | None:
        if not (self.mistakes and (layers := find_last_feature_map(look.network, look.example))):
            return None
        return Portion(self.mistakes, "mistakes", ("grad_cam", *layers), PASSES)

    def pictures(self, look: Look) -> Findings:
        predictions = look.predictions
        if predictions is None or not len(predictions) or look.fetch is None:
            return
        suffix = "/test" if look.stage == "test" else ""
        when = f"{look.split} · epoch {look.clock}"
        pool = np.arange(len(predictions))
        if predictions.sample:  # the data cannot be read again; only these images are held
            pool = np.flatnonzero(np.isin(predictions.rows, predictions.sample))
        chosen = np.random.default_rng(look.seed).permutation(pool)[: self.random]
        for tag, title, indices in (
            ("mistakes", "most confident mistakes", predictions.mistakes(self.mistakes)),
            ("random", "random images", np.sort(chosen)),
        ):
            if not len(indices):
                continue
            images, rows = look.fetch(predictions.rows[indices].tolist())
            # indices of the fetched images; rows are sorted
            known = np.searchsorted(predictions.rows, rows).tolist()
            has_panels = tag == "mistakes"
            panels: list[Panels] = [[] for _ in rows]
            if has_panels:
                panels = self._draw_panels(look, predictions, images, known)
            entries = [
                _make_entry(predictions, look.class_names, *each)
                for each in zip(images.cpu(), known, panels, strict=False)
            ]
            if entries:
                columns = 2 if has_panels else 4
                yield from self.draw(
                    look, f"predictions/{tag}{suffix}",
                    partial(picture_sheet, entries, title=f"{title} · {when}", columns=columns),
                )  # fmt: skip
        labelled = predictions.labels >= 0
        counts = count_confusions(
            predictions.labels[labelled], predictions.predicted[labelled], len(look.class_names)
        )
        title = f"mistakes by class · {when}"
        yield from self.draw(
            look, f"predictions/breakdown{suffix}",
            lambda: breakdown(counts, look.class_names, title=title),
        )  # fmt: skip

    def _draw_panels(
        self, look: Look, predictions: Predictions, images: Tensor, indices: list[int]
    ) -> list[Panels]:
        """Return the overlays of the predicted and the true class, on one scale per image.

        They are those of the first images, as many as there is time for.
        """
        layers = find_last_feature_map(look.network, look.example)
        if not layers:
            return [[] for _ in indices]
        kind, panels = ("mistakes", *layers), []
        for part in look.pieces(kind, len(indices), batch=self.batch, passes=PASSES):
            panels += self._explain(look, predictions, images[part], indices[part], layers)
        if len(panels) < len(indices):
            self.report_cut(look, f"with {len(panels)} of {len(indices)} mistakes drawn")
        return panels

    def _explain(
        self, look: Look, predictions: Predictions, images: Tensor, indices: list[int],
        layers: list[str],
    ) -> list[Panels]:  # fmt: skip
        pairs = np.stack([predictions.predicted[indices], predictions.labels[indices]], axis=1)
        targets = torch.from_numpy(pairs)
        with look.skip_preprocessing():
            maps = explain_classes(self, look, images, targets, layers).maps[layers[0]]
        return [
            [
                (
                    f"{role}: {look.class_names[name]}" if one.any() else "no positive evidence",
                    overlay(image, one, high=float(pair.max())),
                )
                for role, name, one in zip(("predicted", "true"), names, pair, strict=True)
            ]
            for image, pair, names in zip(images.cpu(), maps, pairs, strict=True)
        ]


def _make_entry(
    predictions: Predictions, class_names: Sequence[str], image: Tensor, index: int, panels: Panels
) -> SheetEntry:
    predicted, truth = int(predictions.predicted[index]), int(predictions.labels[index])
    confidence = format_probability(float(predictions.confidences[index]))
    lines = [f"predicted {class_names[predicted]} {confidence}"]
    if truth >= 0 and truth != predicted:
        probability = format_probability(float(predictions.true_confidences[index]))
        lines.append(f"true {class_names[truth]} {probability}")
    return SheetEntry(image, lines, None if truth < 0 else truth == predicted, panels)
