"""Where the network places validation images, and how that changes while it learns."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from convlens.callbacks.evidence import Stream
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import SLACK, Look, Portion
from convlens.callbacks.looks import ExplanationCallback
from torch import Tensor, nn

from convlens.draw.feature_space import feature_space, make_thumbnail
from convlens.explain.feature_space import Projection, align, project
from convlens.explain.penultimate import find_classifier, read_features

KIND, TAG = "feature space", "layers/feature_space"
PASSES = 1.2  # forward passes of one image that a unit costs about, its thumbnail included
DRAWING = 0.1  # seconds that drawing and writing take about, until they are measured
FEWEST = 3  # images, below which two dimensions say nothing
LEAST = 10  # images without time for which none is read, if there are as many


class FeatureSpace(ExplanationCallback):
    """``layers/feature_space``: validation images, where the network's last layer sees them.

    What that layer reads of each image is projected on its two principal components, then turned
    and mirrored to fit the look before, so that an image moves only as far as the network moves it.
    Each image is a thumbnail, framed in the colour of its class; wrong predictions are marked. See
    ``convlens.explain.feature_space``.

    Networks without a last layer that reads one vector of each image are left out.

    Args:
        pictures: number of validation images; without a data set, the probes are used.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.
    """

    for_some_networks = True

    def __init__(self, *, pictures: int = 80, every_n_epochs: int = 1, batch: int = 32):
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.count = pictures
        self._before: Tensor | None = None  # (N, 2), the points of the look before

    def state_dict(self) -> dict:
        return {"before": self._before}

    def load_state_dict(self, state_dict: dict) -> None:
        self._before = state_dict["before"]

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        layer, _ = self.find_once(network, example, find_classifier)
        return [layer] if layer else []

    def find_obstacle(self, network: nn.Module, example: Tensor) -> str:
        return self.find_once(network, example, find_classifier)[1]

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {TAG: 1} if layers else {}

    def portion(self, look: Look) -> Portion | None:
        if not self.layers_of(look):
            return None
        count = len(self._labels(look))
        return Portion(count, "images", KIND, PASSES, min(LEAST, count))

    def _labels(self, look: Look) -> Tensor:
        """Return the classes of the images, (N,)."""
        if look.sample_labels is None:
            return look.probes.labels.cpu()
        return look.sample_labels(self.count)

    def pictures(self, look: Look) -> Findings:
        if obstacle := self.find_obstacle(look.network, look.example):
            self.log_once("obstacle", f"{self.name} draws nothing: {obstacle}")
            return
        labels = self._labels(look)
        batches = (
            [look.probes.images] if look.sample_images is None else look.sample_images(self.count)
        )
        stream, done = Stream(batches), 0
        # images are only read as long as there is time left to draw them
        drawing = look.pace.estimate(("drawing", TAG), 1) or DRAWING
        reading = replace(look, deadline=look.deadline - SLACK * drawing)
        fewest = max(FEWEST, min(LEAST, len(labels)))
        if not reading.affords(KIND, fewest, PASSES):
            self.report_cut(look, "before the first image")
            return
        features: list[Tensor] = []
        logits: list[Tensor] = []
        thumbnails: list[np.ndarray] = []
        for part in reading.pieces(KIND, len(labels), batch=self.batch, passes=PASSES):
            images = stream.take(part.stop - part.start)
            read, answers = self.fit_batch(partial(self._read, look, images))
            features.append(read.cpu())
            logits.append(answers.cpu())
            thumbnails += map(make_thumbnail, images.cpu())
            done = part.stop
        if done < len(labels):
            self.report_cut(look, f"with {done} of {len(labels)} images")
        if done < FEWEST:
            return
        projection = project(torch.cat(features))
        if not projection.points.isfinite().any():
            self.log_once("finite", f"{self.name} draws nothing: no image has finite features")
            return
        if self._before is not None:
            projection = align(projection, self._before)
        self._before = projection.points
        yield from self.draw(
            look, TAG,
            partial(self._draw, look, projection, thumbnails, labels[:done], torch.cat(logits)),
            DRAWING,
        )  # fmt: skip

    def _read(self, look: Look, images: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        (layer,) = self.layers_of(look)
        return read_features(look.network, images, layer, batch=batch)

    def _draw(
        self, look: Look, projection: Projection, thumbnails: list[np.ndarray], labels: Tensor,
        logits: Tensor,
    ) -> np.ndarray:  # fmt: skip
        title = f"{len(labels)} {look.split} images as the network sees them · epoch {look.clock}"
        return feature_space(
            projection.points.numpy(), thumbnails, labels.numpy(),
            self._find_wrong(look, logits, labels).numpy(), look.class_names,
            projection.shares.numpy(), title=title,
        )  # fmt: skip

    def _find_wrong(self, look: Look, logits: Tensor, labels: Tensor) -> Tensor:
        """Return which images have another prediction than their classes, (N,) bool."""
        probabilities = look.probabilities(logits)
        if look.thresholds is None:
            return (labels >= 0) & (probabilities.argmax(1) != labels)
        present = look.probes.present
        if look.sample_present is not None:
            present = look.sample_present(self.count)
        if present is None:
            return torch.zeros(len(labels), dtype=torch.bool)
        return ((probabilities >= look.thresholds) != present[: len(labels)].cpu()).any(1)
