"""Groups of alike validation images that the network mostly mistakes."""

from __future__ import annotations

from functools import partial

import torch
from convlens.callbacks.evidence import Stream
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look
from convlens.callbacks.looks import ExplanationCallback
from torch import Tensor, nn

from convlens.draw.slice_sheet import SliceRow, slice_sheet
from convlens.explain.grad_cam import probabilities
from convlens.explain.penultimate import find_classifier, read_features
from convlens.explain.slices import (
    Slice,
    choose_examples,
    describe_slice,
    find_low_slices,
    find_slices,
)

_SHOWN = 6  # images of a slice in the sheet
_ROWS = 8  # slices in the sheet
_KIND = "features"


class Slices(ExplanationCallback):
    """``predictions/slices``: groups of a class's images, alike in features, of low accuracy.

    The features that the classifier reads are clustered for each class (see
    ``convlens.explain.slices``). A cluster whose accuracy is far below that of the rest of its
    class is shown: how large it is, what it is taken for, and its images.
    ``explain/low_slices`` is the fraction of the images that are in such clusters.

    After an epoch it looks only if there is time for all images; at the end it takes as many as it
    can. The network before training is left out. Images with several classes are not grouped.

    Args:
        pictures: number of validation images, evenly spread.
        fall: how much lower accuracy must be than on the rest of the class.
        chance: maximum probability that so low an accuracy is chance, divided among the clusters.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.
    """

    has_final_look = photographs = True

    def __init__(
        self, *, pictures: int = 300, fall: float = 0.25, chance: float = 0.01,
        every_n_epochs: int = 1, batch: int = 32,
    ):  # fmt: skip
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.count, self.fall, self.chance = pictures, fall, chance
        self._measured: int | None = None  # the clock of the latest look with all images

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"predictions/slices": 1}

    def pictures(self, look: Look) -> Findings:
        if look.thresholds is not None or look.sample_images is None or look.clock == 0:
            return
        if self._measured == look.clock:  # the look at the end follows that of the last epoch
            return
        if not look.final and not look.affords(_KIND, self.count, 1.0):
            return  # the look at the end takes as many images as it can
        layer, obstacle = self.find_once(look.network, look.example, find_classifier)
        if layer is None:
            self.log_once("layer", f"{self.name} draws nothing: {obstacle}")
            return
        assert look.sample_labels is not None
        labels = look.sample_labels(self.count).cpu()
        features, predictions = self._read(look, layer, len(labels))
        if (done := len(predictions)) < len(labels):
            self.report_cut(look, f"with features of {done} of {len(labels)} images")
        if done == 0:
            return
        if not self.cut:
            self._measured = look.clock
        slices = find_slices(features, labels[:done], predictions)
        low = find_low_slices(slices, fall=self.fall, chance=self.chance)
        yield "explain/low_slices", sum(len(slices[number].rows) for number in low) / done
        if shown := [slices[number] for number in low[:_ROWS]]:
            yield from self.draw(
                look, "predictions/slices",
                lambda: slice_sheet(
                    [self._describe(look, each, predictions) for each in shown],
                    title=f"slices of low accuracy · {done} {look.split} images · "
                    f"epoch {look.clock}",
                ),
            )  # fmt: skip

    def _read(self, look: Look, layer: str, count: int) -> tuple[Tensor, Tensor]:
        """Return features and predictions of as many images as there is time for."""
        assert look.sample_images is not None
        stream, features, predictions = Stream(look.sample_images(count)), [], []
        for part in look.pieces(_KIND, count, batch=self.batch, passes=1.0):
            images = stream.take(part.stop - part.start)
            found, logits = self.fit_batch(partial(_read, look.network, images, layer))
            features.append(found)
            predictions.append(probabilities(logits).argmax(1).cpu())
        if not features:
            return torch.zeros(0, 1), torch.zeros(0, dtype=torch.long)
        return torch.cat(features), torch.cat(predictions)

    def _describe(self, look: Look, found: Slice, predictions: Tensor) -> SliceRow:
        assert look.fetch and look.photographs and look.sources and look.sample_rows
        shown = choose_examples(found, predictions, _SHOWN).tolist()
        sample = look.sample_rows(self.count)
        images, rows = look.fetch([sample[number] for number in shown])
        return SliceRow(
            look.class_names[found.label], describe_slice(found, look.class_names),
            look.photographs(rows, images),
            [look.class_names[predictions[number]] for number in shown], look.sources(rows),
        )  # fmt: skip


def _read(network: nn.Module, images: Tensor, layer: str, batch: int) -> tuple[Tensor, Tensor]:
    return read_features(network, images, layer, batch=batch)
