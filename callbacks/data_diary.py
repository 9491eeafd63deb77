"""What the diary shows: the map of the training images, and those that are probably mislabelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from convlens.callbacks.evidence import PASSES, explain_classes, find_last_feature_map
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look, Portion
from convlens.callbacks.looks import ExplanationCallback

from convlens.core.photograph import Photograph
from convlens.draw.cartography import cartography_map
from convlens.draw.grad_cam_panel import (
    ClassMap,
    Role,
    draw_evidence,
    evidence_sheet,
    format_probability,
    place_beside,
)
from convlens.draw.picture_sheet import SheetEntry, picture_sheet
from convlens.training.diary.diary import Diary, Suspect
from convlens.training.diary.extremes import KINDS, Extreme, list_extremes

_DRAWING = 0.05  # seconds that reading and drawing an image take about, until they are measured
_COLUMNS = 4  # images in a row of a sheet without maps
_EDGE = 224  # longest side of an image with maps, pixels
_READING = "The number behind a class is the probability that the network gives it now."


class DataDiary(ExplanationCallback):
    """``training/…``: what the training images did, see ``convlens.training.diary``.

    ``training/map`` places every training image by confidence and variability.
    ``training/mislabelled`` shows the images whose labels have the lowest mean margins, each with
    its Grad-CAM for the given label and for the class that the network named instead. Up to half of
    them are images that look the same as another one with another label, which is beside them.
    At the end ``training/hardest``, ``training/forgotten`` and ``training/learned_last`` show other
    images with the highest mean loss, those forgotten most, and those learned last.

    Only convlens runs have a diary; elsewhere nothing is drawn.

    Args:
        images: number of images in ``training/mislabelled``, and in each sheet of others.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.
    """

    photographs = has_final_look = True

    def __init__(self, *, images: int = 8, every_n_epochs: int = 1, batch: int = 32):
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.images = images
        self._shown: int | None = None  # the clock of the latest complete look

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        sheets = ("mislabelled", "map", *KINDS)
        return {f"training/{name}": 1 for name in sheets}

    def portion(self, look: Look) -> Portion | None:
        if not (self.images and (layers := find_last_feature_map(look.network, look.example))):
            return None
        return Portion(self.images, "suspects", ("suspects", *layers), PASSES)

    def pictures(self, look: Look) -> Findings:
        diary = look.diary
        if diary is None or not diary.epoch:
            return
        when = f"training · epoch {diary.epoch}"
        if self._shown != look.clock:  # the last look follows that of the last epoch
            if draw := self._compose_suspects(replace(look, **look.over_training), diary, when):
                yield from self.draw(look, "training/mislabelled", draw)
            if not diary.several:  # a point per image and class would be a cloud
                yield from self._draw_map(look, diary, when)
            self._shown = None if self.cut else look.clock
        if not look.final:
            return
        shown = [(each.row, each.label) for each in diary.list_suspects(self.images)]
        for kind, what in KINDS.items():
            if chosen := list_extremes(diary, kind, self.images, shown):
                yield from self._draw_extremes(look, f"training/{kind}", chosen, f"{what} · {when}")

    def _draw_map(self, look: Look, diary: Diary, when: str) -> Findings:
        record, flags = diary.record, diary.find_suspects()[0].flags
        yield from self.draw(
            look, "training/map",
            lambda: cartography_map(
                record.confidence, record.variability, diary.labels, flags, look.class_names,
                title=f"data map · {when}",
            ),
            seconds=0.4,
        )  # fmt: skip

    def _draw_extremes(self, look: Look, tag: str, chosen: list[Extreme], title: str) -> Findings:
        look = replace(look, **look.over_training)
        entries: list[SheetEntry] = []
        for part in look.pieces(
            "extremes", len(chosen), batch=self.batch, passes=0.0, seconds=_DRAWING
        ):
            entries += _describe_extremes(look, chosen[part])
        if len(entries) < len(chosen):
            self.report_cut(look, f"before {tag}")
            return
        yield from self.draw(
            look, tag, partial(picture_sheet, entries, title=title, columns=_COLUMNS)
        )

    def _compose_suspects(
        self, look: Look, diary: Diary, when: str
    ) -> Callable[[], np.ndarray] | None:
        """Return what draws the sheet of the suspects for which there is time.

        Args:
            look: over the training images.
            diary: of the run.
            when: the split and the epoch, in words.
        """
        chosen = diary.list_suspects(self.images)
        layers = find_last_feature_map(look.network, look.example)
        rows: list[np.ndarray] = []
        entries: list[SheetEntry] = []
        passes, done = PASSES if layers else 0.0, 0
        for part in look.pieces(
            ("suspects", *layers), len(chosen), batch=self.batch, passes=passes, seconds=_DRAWING
        ):
            if layers:
                rows += self._draw_evidence(look, chosen[part], layers)
            else:
                entries += _describe(look, chosen[part])
            done = part.stop
        if done < len(chosen):
            self.report_cut(look, f"with {done} of {len(chosen)} suspects drawn")
        title = f"{diary.describe_suspects()} · {when}"
        if entries:
            return partial(picture_sheet, entries, title=title, subtitle=_READING, columns=_COLUMNS)
        return partial(evidence_sheet, rows, title=title) if rows else None

    def _draw_evidence(
        self, look: Look, suspects: list[Suspect], layers: list[str]
    ) -> list[np.ndarray]:
        """Return a row for each image: the overlays of the given label and the other class."""
        assert look.fetch is not None and look.photographs is not None
        rows = [each.row for each in suspects]
        images, _ = look.fetch(rows)
        pairs = torch.tensor([[each.label, each.other] for each in suspects])
        with look.skip_preprocessing():
            found = explain_classes(self, look, images, pairs, layers)
        probabilities = look.probabilities(found.logits).cpu()
        drawn = []
        for number, photograph in enumerate(look.photographs(rows, images)):
            each, maps = suspects[number], found.maps[layers[0]][number]
            roles: list[tuple[int, Role]] = [
                (each.label, each.role), (each.other, "named instead")
            ]  # fmt: skip
            entries = []
            for k, (kind, role) in enumerate(roles[: 1 + (each.other != each.label)]):
                share = float(probabilities[number, kind])
                name = look.class_names[kind]
                entries.append(ClassMap(maps[k], name, role, share, layer=layers[0]))
            drawn.append(draw_evidence(photograph, entries, source=each.name, edge=_EDGE))
        for number, copy, photograph in _read_copies(look, suspects):
            name, label = _name_copy(look, copy)
            lines = ["looks the same", f"label: {label}"]
            drawn[number] = place_beside(drawn[number], photograph, lines, source=name, edge=_EDGE)
        return drawn


def _read_copies(look: Look, suspects: list[Suspect]) -> Iterator[tuple[int, int, Photograph]]:
    """Yield the place of each suspect that has a copy with another label, and the copy."""
    assert look.fetch is not None and look.photographs is not None
    copies = {n: each.copy for n, each in enumerate(suspects) if each.copy is not None}
    if not copies:
        return
    rows = list(copies.values())
    images, _ = look.fetch(rows)
    for number, photograph in zip(copies, look.photographs(rows, images), strict=True):
        yield number, copies[number], photograph


def _name_copy(look: Look, row: int) -> tuple[str, str]:
    """Return name and class of a training image."""
    assert look.diary is not None
    return look.diary.names[row], look.class_names[look.diary.labels[row]]


def _describe(look: Look, suspects: list[Suspect]) -> list[SheetEntry]:
    """Return the images with their classes, for a network without feature maps."""
    assert look.fetch is not None and look.photographs is not None
    rows = [each.row for each in suspects]
    images, _ = look.fetch(rows)
    with torch.no_grad(), look.skip_preprocessing():
        probabilities = look.probabilities(look.network(images)).cpu()
    entries = []
    for number, photograph in enumerate(look.photographs(rows, images)):
        each = suspects[number]
        shares = [float(probabilities[number, kind]) for kind in (each.label, each.other)]
        lines = [f"{each.role}: {look.class_names[each.label]} {format_probability(shares[0])}"]
        if each.other != each.label:
            named = f"{look.class_names[each.other]} {format_probability(shares[1])}"
            lines.append(f"named instead: {named}")
        if each.copy is not None:
            lines.append("looks the same as {} ({})".format(*_name_copy(look, each.copy)))
        entries.append(SheetEntry(photograph, lines, None, each.name))
    return entries


def _describe_extremes(look: Look, chosen: list[Extreme]) -> list[SheetEntry]:
    assert look.fetch is not None and look.photographs is not None
    rows = [each.row for each in chosen]
    images, _ = look.fetch(rows)
    entries = []
    for each, photograph in zip(chosen, look.photographs(rows, images), strict=True):
        lines = [f"label: {look.class_names[each.label]}"]
        if each.named is not None:
            lines.append(f"named most: {look.class_names[each.named]}")
        entries.append(SheetEntry(photograph, [*lines, each.reason], None, each.name))
    return entries
