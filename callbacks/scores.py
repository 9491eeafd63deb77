"""Numbers that show whether explanations can be trusted, and that warn of problems."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from convlens.callbacks.evidence import (
    FEWEST,
    METHODS,
    PASSES,
    Evidence,
    collect_evidence,
    explain_by,
    find_evidence_layers,
)
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look, Portion
from convlens.callbacks.looks import ExplanationCallback
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.draw.charts import depth_chart
from convlens.explain import scores
from convlens.explain.activations import compute_layer_statistics
from convlens.explain.faithfulness import faithfulness, insertion_deletion
from convlens.explain.layers import choose_layers, find_activations
from convlens.explain.obstacles import find_obstacle
from convlens.explain.sanity import parameter_randomisation
from convlens.explain.similarity import pearson

EXTENTS = ("default", "all")
STATE_KEYS = ("before", "untrained", "latest", "scored", "measured")  # in checkpoints


class Scores(ExplanationCallback):
    """``explain/<score>`` each epoch, for maps of many images: Grad-CAM at the last feature map.

    - ``border_energy``, ``peak_row``, ``peak_column``: where the evidence for the predicted class
      is; they need no masks.
    - ``same_place/<class>``: the fraction of a class's images whose peak is near the border, in the
      same place.
    - ``pointing_game``, ``energy_inside`` and ``object_share``: for images with masks.
    - ``drift``: correlation of each image's map for its true class with the previous look.
    - ``confident_mistakes``: fraction of the validation images.

    If images may have several classes, the evidence is that for each class of an image, masks are
    those of the class's own object where that is known, and there are no ``confident_mistakes``.

    Further scores:

    - ``sparsity/<layer>``, ``dead/<layer>``: of the activations; at the end,
      ``layers/depth/sparsity`` and ``layers/depth/dead`` draw them over depth, against the network
      before training.

    With ``which=all`` also ``entropy``, ``average_drop``, ``average_increase``, ``adcc``,
    ``insertion`` and ``deletion``, and at the end ``randomised/<layer>``, the rank correlation with
    the maps of a network whose layers from the top down to this one are random. For formulas and
    papers see ``convlens.explain.scores``, ``convlens.explain.faithfulness`` and
    ``convlens.explain.sanity``.

    Args:
        which: ``default`` or ``all``.
        method: whose maps are scored: ``grad_cam``, or ``legrad`` for transformers.
        pictures: number of validation images; without a data set, the probes are used.
        layers: ``auto`` (every activation), a name, a glob, or a list of them.
        limit: maximum number of layers with ``auto``.
        masks: whether masks are used if there are any.
        border: fraction of the image's side that counts as border.
        near: peaks within this fraction of the side of each other are in the same place.
        confident: minimum confidence of a confident mistake.
        steps: steps of the insertion and deletion curves.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.
    """

    needs_predictions = has_final_look = True

    def __init__(
        self, *, which: str = "default", method: str = "grad_cam", pictures: int = 40,
        layers: str | list[str] = "auto",
        limit: int = 12,
        masks: bool = True, border: float = 0.2, near: float = 0.15, confident: float = 0.9,
        steps: int = 20, every_n_epochs: int = 1, batch: int = 32,
    ):  # fmt: skip
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        if which not in EXTENTS:
            raise UserError(f"scores={which}: expected default or all")
        if method not in METHODS:
            raise UserError(f"{self.config_key}.method={method}: {nearest(str(method), METHODS)}")
        self.method = method
        self.which, self.count, self.layers, self.limit = which, pictures, layers, limit
        self.masks, self.border, self.near, self.confident = masks, border, near, confident
        self.steps = steps
        self._before: Tensor | None = None  # maps of the previous look
        # sparsity and fraction of dead channels by layer
        self._untrained: dict[str, tuple[float, float]] = {}
        self._latest: dict[str, tuple[float, float]] = {}
        self._scored: int | None = None  # the clock of the latest numbers
        self._measured: int | None = None  # the clock of the latest numbers about layers

    def state_dict(self) -> dict:
        return {name: getattr(self, f"_{name}") for name in STATE_KEYS}

    def load_state_dict(self, state_dict: dict) -> None:
        for name in STATE_KEYS:
            setattr(self, f"_{name}", state_dict[name])

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        if self.method != "grad_cam" and (why := find_obstacle(network, example, self.method)):
            raise UserError(why)
        if self.layers != "auto":
            return choose_layers(network, self.layers, "activations", example=example)
        active = find_activations(network, example)
        places = np.linspace(0, len(active) - 1, min(self.limit, len(active))).round().astype(int)
        return [active[place] for place in places]

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"layers/depth/sparsity": 1, "layers/depth/dead": 1} if layers else {}

    def portion(self, look: Look) -> Portion | None:
        if not (layers := find_evidence_layers(look, self.method)):
            return None
        kind, least = (self.method, *layers), min(FEWEST, self.count)
        return Portion(self.count, "images", kind, PASSES, least)

    def pictures(self, look: Look) -> Findings:
        layers = self.layers_of(look)
        if self._scored != look.clock:  # the last look follows that of the last epoch
            yield from self._compute_scores(look)
        if layers and self._measured != look.clock:
            yield from self._compute_layer_scores(look, layers)
        if layers and look.final and self._measured == look.clock:
            yield from self._draw_charts(look, layers)
        if look.final and self.which == "all":
            yield from self._compute_randomisation(look)

    def _compute_scores(self, look: Look) -> Findings:
        maps = collect_evidence(self, look, self.count, self.method)
        if maps is not None:
            yield from self._compute_map_scores(look, maps)
        if maps is not None or not find_evidence_layers(look, self.method):
            self._scored = look.clock
        predictions = look.predictions
        if predictions is not None and len(predictions) and look.thresholds is None:
            labels, predicted, confidences = map(
                torch.from_numpy,
                (predictions.labels, predictions.predicted, predictions.confidences),
            )
            fraction = scores.confident_mistakes(labels, predicted, confidences, self.confident)
            yield "explain/confident_mistakes", fraction

    def _compute_map_scores(self, look: Look, sample: Evidence) -> Findings:
        maps = sample.predicted
        yield from _mean("border_energy", scores.border_energy(maps, self.border / 2))
        peaks = scores.peak_position(maps)
        yield from _mean("peak_row", peaks[:, 0])
        yield from _mean("peak_column", peaks[:, 1])
        for number, name in enumerate(look.class_names):
            of_class = peaks[sample.predictions == number]
            if len(of_class) >= 3:
                fraction = scores.same_border_place(of_class, self.border, self.near)
                yield f"explain/same_place/{name}", fraction
        if self.masks and sample.masks is not None:
            known = sample.masks.flatten(1).any(1)
            masks = sample.masks[known]
            if len(masks):
                yield from _mean("pointing_game", scores.pointing_game(maps[known], masks))
                yield from _mean("energy_inside", scores.energy_inside(maps[known], masks))
                yield from _mean("object_share", masks.float().mean((1, 2)))
        if self._before is not None and self._before.shape[1:] == sample.true.shape[1:]:
            common = min(len(sample.true), len(self._before))  # a look may have had less time
            yield from _mean("drift", pearson(sample.true[:common], self._before[:common]))
        self._before = sample.true.clone()
        if self.which == "all":
            yield from _mean("entropy", scores.entropy(maps))
            yield from self._compute_faithfulness(look, sample.layer)

    def _compute_faithfulness(self, look: Look, layer: str) -> Findings:
        """Yield scores of the probes' maps for their predicted classes."""
        images, kind = look.probes.images, ("faithfulness", self.method, layer, self.steps)
        if not look.affords(kind, len(images), 4 * PASSES + 2 * self.steps):
            self.report_cut(look, "before the scores of faithfulness")
            return
        with look.timed(kind, len(images)):
            maps, targets = self._explain(look, images, layer)

            def explain(masked: Tensor) -> Tensor:
                return self._explain(look, masked, layer, targets)[0]

            result = faithfulness(look.network, images, maps, targets, explain, batch=self.batch)
            curves = insertion_deletion(
                look.network, images, maps, targets, self.steps, batch=self.batch
            )
        yield from _mean("average_drop", result.drop)
        yield from _mean("average_increase", result.increase)
        yield from _mean("adcc", result.adcc)
        yield from _mean("insertion", curves.insertion_auc)
        yield from _mean("deletion", curves.deletion_auc)

    def _explain(
        self, look: Look, images: Tensor, layer: str, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return maps (N, h, w) for one class each, by default the predicted, and the classes."""
        targets = torch.full((len(images),), -1) if targets is None else targets
        result = explain_by(self.method, self, look, images, targets, [layer])
        return result.maps[layer][:, 0].to(images.device), result.targets[:, 0]

    def _compute_randomisation(self, look: Look) -> Findings:
        """Yield how similar the probes' maps stay when layers become random."""
        layers = find_evidence_layers(look, self.method)
        if not layers:
            return
        layer, images = layers[0], look.probes.images
        # one layer after the other becomes random, and each time the maps are computed again
        rounds = sum(any(True for _ in m.parameters(False)) for m in look.network.modules())
        if not look.affords((self.method, layer), rounds * len(images), PASSES):
            self.report_cut(look, "before the test with random layers")
            return
        _, targets = self._explain(look, images, layer)
        result = parameter_randomisation(
            look.network,
            lambda: self._explain(look, images, layers[0], targets)[0],
            seed=look.seed,
        )
        for name, ranks in zip(result.layers, result.spearman, strict=True):
            yield from _mean(f"randomised/{name}", ranks)

    def _compute_layer_scores(self, look: Look, layers: list[str]) -> Findings:
        images, kind = look.probes.images, ("statistics", *layers)
        if not look.affords(kind, len(images), 2.0):
            self.report_cut(look, "before sparsity and dead channels")
            return
        with look.timed(kind, len(images)):
            batches = images.split(max(1, self.batch // 4))
            result = compute_layer_statistics(look.network, batches, layers)
        self._latest = {
            name: (float(each.sparsity.mean()), float(each.dead.float().mean()))
            for name, each in result.items()
        }
        self._measured = look.clock
        if look.clock == 0:
            self._untrained = dict(self._latest)
        for name, (sparsity, dead) in self._latest.items():
            yield f"explain/sparsity/{name}", sparsity
            yield f"explain/dead/{name}", dead

    def _draw_charts(self, look: Look, layers: list[str]) -> Findings:
        known = self._untrained.keys() >= set(layers)
        for place, what in enumerate(("sparsity", "dead channels")):
            untrained = [self._untrained[name][place] for name in layers] if known else None
            now = [self._latest[name][place] for name in layers]
            title = f"{what} over depth · epoch {look.clock}"
            yield from self.draw(
                look, f"layers/depth/{what.split()[0]}",
                partial(depth_chart, layers, now, untrained, title=title, what=what),
            )  # fmt: skip


def _mean(name: str, values: Tensor) -> Findings:
    """Yield the mean over the images for which the score is defined; nothing if there are none."""
    defined = values[~values.isnan()]
    if len(defined):
        yield f"explain/{name}", float(defined.double().mean())
