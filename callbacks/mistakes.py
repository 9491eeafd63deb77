"""The network's most confident mistakes, with Grad-CAM maps that explain them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from convlens.callbacks.evidence import PASSES, explain_classes, find_last_feature_map
from convlens.callbacks.explanation import Findings
from convlens.callbacks.logging.table import Table
from convlens.callbacks.look import Look, Portion
from convlens.callbacks.looks import ExplanationCallback
from convlens.callbacks.predictions import Predictions
from convlens.callbacks.targets import choose_classes
from torch import Tensor

from convlens.core.photograph import Photograph
from convlens.draw.breakdown import breakdown, error_bars
from convlens.draw.confusion_matrix import count_confusions
from convlens.draw.grad_cam_panel import (
    ClassMap,
    Role,
    draw_evidence,
    evidence_sheet,
    format_probability,
)
from convlens.draw.picture_sheet import SheetEntry, picture_sheet

_READING = "The number behind a class is the probability that the network gives it."
_DRAWING = 0.05  # seconds that reading and drawing an image take about, until they are measured
_COLUMNS = 4  # images in a row of a sheet without maps
_EDGE = 224  # longest side of an image with maps, pixels: eight of them are one sheet


class Mistakes(ExplanationCallback):
    """``predictions/…``: the most confident mistakes, random images, and mistakes by class.

    ``predictions/mistakes`` shows each with its Grad-CAM for the predicted and for the true class:
    a heat map is most useful on a mistake. ``predictions/random`` shows images drawn once, with
    prediction and confidence; ``predictions/breakdown`` shows which class is mistaken for which.
    ``tables/mistakes`` lists the most confident mistakes by name. After the test, all this is made
    for the test images, under ``…/test``.

    If images may have several classes, mistakes are misses (a class of the image is not predicted)
    and false alarms (another class is), each with the Grad-CAM of that class.

    In convlens runs, images are read from their files and shown at their own proportions.

    Args:
        mistakes: number of the most confident mistakes to show.
        random: number of random images to show.
        table: number of mistakes to list in the table; 0 for no table.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.
    """

    needs_predictions = looks_at_test = photographs = True

    def __init__(
        self, *, mistakes: int = 8, random: int = 8, table: int = 0, every_n_epochs: int = 1,
        batch: int = 32,
    ):  # fmt: skip
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.mistakes, self.random, self.table = mistakes, random, table

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {f"predictions/{what}": 1 for what in ("mistakes", "random", "breakdown")}

    def portion(self, look: Look) -> Portion | None:
        if not (self.mistakes and (layers := find_last_feature_map(look.network, look.example))):
            return None
        return Portion(self.mistakes, "mistakes", ("mistakes", *layers), PASSES)

    def pictures(self, look: Look) -> Findings:
        predictions = look.predictions
        if predictions is None or not len(predictions) or look.fetch is None:
            return
        suffix = "/test" if look.stage == "test" else ""
        listed = predictions.mistakes(self.table)
        if len(listed := listed[predictions.labels[listed] >= 0]):
            yield f"tables/mistakes{suffix}", _tabulate(look, predictions, listed)
        when = f"{look.split} · epoch {look.clock}"
        title = f"most confident mistakes · {when}"
        if look.thresholds is not None:
            draw = self._compose_errors(
                look, predictions, f"worst misses and false alarms · {when}"
            )
        else:
            draw = self._compose_mistakes(look, predictions, title)
        if draw:
            yield from self.draw(look, f"predictions/mistakes{suffix}", draw)
        if draw := self._compose_random(look, predictions, f"random images · {when}"):
            yield from self.draw(look, f"predictions/random{suffix}", draw)
        if look.thresholds is not None:
            yield from self._draw_errors_by_class(look, predictions, suffix, when)
            return
        labelled = predictions.labels >= 0
        counts = count_confusions(
            predictions.labels[labelled], predictions.predicted[labelled], len(look.class_names)
        )
        title = f"mistakes by class · {when}"
        yield from self.draw(
            look, f"predictions/breakdown{suffix}",
            lambda: breakdown(counts, look.class_names, title=title),
        )  # fmt: skip

    def _compose_mistakes(
        self, look: Look, predictions: Predictions, title: str
    ) -> Callable[[], np.ndarray] | None:
        """Return what draws the sheet of the mistakes for which there is time."""
        chosen = predictions.mistakes(self.mistakes)
        layers = find_last_feature_map(look.network, look.example)
        rows: list[np.ndarray] = []
        entries: list[SheetEntry] = []
        kind, done = ("mistakes", *layers), 0
        passes = PASSES if layers else 0.0
        for part in look.pieces(
            kind, len(chosen), batch=self.batch, passes=passes, seconds=_DRAWING
        ):
            images = _read_images(look, predictions, chosen[part])
            if layers:
                rows += self._draw_evidence(look, predictions, images, layers)
            else:
                entries += _describe(look, predictions, images)
            done = part.stop
        if done < len(chosen):
            self.report_cut(look, f"with {done} of {len(chosen)} mistakes drawn")
        if entries:
            return partial(picture_sheet, entries, title=title, subtitle=_READING, columns=_COLUMNS)
        return partial(evidence_sheet, rows, title=title) if rows else None

    def _draw_evidence(
        self, look: Look, predictions: Predictions, images: _Images, layers: list[str]
    ) -> list[np.ndarray]:
        """Return a row for each image: the overlays of the predicted and the true class."""
        if not len(images.indices):
            return []
        pairs = np.stack(
            [predictions.predicted[images.indices], predictions.labels[images.indices]], axis=1
        )
        with look.skip_preprocessing():
            found = explain_classes(self, look, images.pixels, torch.from_numpy(pairs), layers)
        rows = []
        for number, (index, maps) in enumerate(
            zip(images.indices, found.maps[layers[0]], strict=True)
        ):
            roles = choose_classes("answer", look.class_names, *pairs[number].tolist())
            probabilities = predictions.confidences[index], predictions.true_confidences[index]
            entries = [
                ClassMap(
                    maps[k], look.class_names[name], role, float(probabilities[k]), layer=layers[0]
                )
                for k, (name, role) in enumerate(roles)
            ]
            source = images.sources[number]
            picture = images.photographs[number]
            rows.append(draw_evidence(picture, entries, source=source, edge=_EDGE))
        return rows

    def _compose_errors(
        self, look: Look, predictions: Predictions, title: str
    ) -> Callable[[], np.ndarray] | None:
        """Return what draws the worst errors on images with several classes, each with its map."""
        assert look.thresholds is not None and predictions.probabilities is not None
        errors = predictions.errors(look.thresholds.numpy(), self.mistakes)
        layers = find_last_feature_map(look.network, look.example)
        rows: list[np.ndarray] = []
        entries: list[SheetEntry] = []
        kind, done = ("mistakes", *layers), 0
        passes = PASSES if layers else 0.0
        for part in look.pieces(
            kind, len(errors), batch=self.batch, passes=passes, seconds=_DRAWING
        ):
            if layers:
                rows += self._draw_errors(look, predictions, errors[part], layers)
            else:
                indices = np.array([index for index, _ in errors[part]])
                entries += _describe(look, predictions, _read_images(look, predictions, indices))
            done = part.stop
        if done < len(errors):
            self.report_cut(look, f"with {done} of {len(errors)} mistakes drawn")
        if entries:
            return partial(picture_sheet, entries, title=title, subtitle=_READING, columns=_COLUMNS)
        return partial(evidence_sheet, rows, title=title) if rows else None

    def _draw_errors(
        self, look: Look, predictions: Predictions, errors: list[tuple[int, int]],
        layers: list[str],
    ) -> list[np.ndarray]:  # fmt: skip
        """Return a row for each error: the image, and the map of the class concerned."""
        assert predictions.probabilities is not None and predictions.present is not None
        indices, classes = (list(part) for part in zip(*errors, strict=True))
        images = _read_images(look, predictions, np.array(indices))
        with look.skip_preprocessing():
            found = explain_classes(self, look, images.pixels, torch.tensor(classes), layers)
        rows = []
        for place, (index, kind) in enumerate(errors):
            role: Role = "miss" if predictions.present[index, kind] else "false alarm"
            probability = float(predictions.probabilities[index, kind])
            entry = ClassMap(
                found.maps[layers[0]][place, 0], look.class_names[kind], role, probability,
                layer=layers[0],
            )  # fmt: skip
            photograph, source = images.photographs[place], images.sources[place]
            rows.append(draw_evidence(photograph, [entry], source=source, edge=_EDGE))
        return rows

    def _draw_errors_by_class(
        self, look: Look, predictions: Predictions, suffix: str, when: str
    ) -> Findings:
        assert look.thresholds is not None and predictions.probabilities is not None
        assert predictions.present is not None
        above, present = predictions.probabilities >= look.thresholds.numpy(), predictions.present
        title = f"misses and false alarms by class · {when}"
        yield from self.draw(
            look, f"predictions/breakdown{suffix}",
            lambda: error_bars(present, above, look.class_names, title=title),
        )  # fmt: skip

    def _compose_random(
        self, look: Look, predictions: Predictions, title: str
    ) -> Callable[[], np.ndarray] | None:
        """Return what draws the sheet of random images, the same ones at every look."""
        pool = np.arange(len(predictions))
        if predictions.sample:  # the data cannot be read again; only these images are held
            pool = np.flatnonzero(np.isin(predictions.rows, predictions.sample))
        chosen = np.sort(np.random.default_rng(look.seed).permutation(pool)[: self.random])
        entries: list[SheetEntry] = []
        for part in look.pieces(
            "random image", len(chosen), batch=self.batch, passes=0.0, seconds=_DRAWING
        ):
            entries += _describe(look, predictions, _read_images(look, predictions, chosen[part]))
        if not entries:
            return None
        return partial(picture_sheet, entries, title=title, subtitle=_READING, columns=_COLUMNS)


@dataclass(frozen=True, eq=False)
class _Images:
    """Images of a split that can be read again.

    Attributes:
        indices: n indices into the predictions.
        pixels: (n, C, H, W), as the network takes them.
        photographs: n pictures of them.
        sources: n names by which a user finds them; empty if unknown.
    """

    indices: list[int]
    pixels: Tensor
    photographs: Sequence[Photograph | Tensor]
    sources: Sequence[str]


def _read_images(look: Look, predictions: Predictions, indices: np.ndarray) -> _Images:
    assert look.fetch is not None
    pixels, rows = look.fetch(predictions.rows[indices].tolist())
    known = np.searchsorted(predictions.rows, rows).tolist()  # rows are sorted
    if look.photographs is None or look.sources is None:
        return _Images(known, pixels, list(pixels.cpu()), [""] * len(known))
    return _Images(known, pixels, look.photographs(rows, pixels), look.sources(rows))


def _tabulate(look: Look, predictions: Predictions, indices: np.ndarray) -> Table:
    """Return a row for each mistake, the most confident first."""
    rows = predictions.rows[indices].tolist()
    sources = look.sources(rows) if look.sources else [f"image {row}" for row in rows]
    columns = ("image", "true", "predicted", "probability of predicted", "probability of true")
    cells = zip(
        map(_make_printable, sources),
        (look.class_names[label] for label in predictions.labels[indices]),
        (look.class_names[label] for label in predictions.predicted[indices]),
        predictions.confidences[indices].tolist(),
        predictions.true_confidences[indices].tolist(),
        strict=True,
    )
    return Table(columns, list(cells))


def _make_printable(name: str) -> str:
    """Return a file name whose bytes that are not UTF-8 are written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _describe(look: Look, predictions: Predictions, images: _Images) -> list[SheetEntry]:
    """Return a sheet's entries: what is predicted, what is true, and the name of the file."""
    if look.thresholds is not None:
        return _describe_several(look, predictions, images)
    entries = []
    for photograph, source, index in zip(
        images.photographs, images.sources, images.indices, strict=True
    ):
        predicted, truth = int(predictions.predicted[index]), int(predictions.labels[index])
        confidence = format_probability(float(predictions.confidences[index]))
        lines = [f"predicted {look.class_names[predicted]} {confidence}"]
        if truth >= 0 and truth != predicted:
            probability = format_probability(float(predictions.true_confidences[index]))
            lines.append(f"true {look.class_names[truth]} {probability}")
        correct = None if truth < 0 else truth == predicted
        entries.append(SheetEntry(photograph, lines, correct, source))
    return entries


def _describe_several(look: Look, predictions: Predictions, images: _Images) -> list[SheetEntry]:
    """Return a sheet's entries for images with several classes: a line for each class."""
    assert look.thresholds is not None
    assert predictions.probabilities is not None and predictions.present is not None
    entries = []
    for photograph, source, index in zip(
        images.photographs, images.sources, images.indices, strict=True
    ):
        present, shares = predictions.present[index], predictions.probabilities[index]
        above = shares >= look.thresholds.numpy()
        lines = []
        for kind in np.flatnonzero(present | above).tolist():
            words = "predicted" if present[kind] else "false alarm:"
            words = words if above[kind] else "miss:"
            probability = format_probability(float(shares[kind]))
            lines.append(f"{words} {look.class_names[kind]} {probability}")
        correct = bool((present == above).all())
        entries.append(SheetEntry(photograph, lines, correct, source))
    return entries
