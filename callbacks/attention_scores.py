"""Numbers that only transformers have: how heads look, odd tokens, and how fast tokens turn."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look, Portion
from convlens.callbacks.looks import ExplanationCallback
from torch import Tensor, nn

from convlens.draw.attention_panel import NORMS_READING, MapRow, NamedMap, attention_panel
from convlens.draw.charts import depth_chart
from convlens.explain.attention import attention_maps, choose_attention
from convlens.explain.attention_profile import AttentionProfile, profile_attention
from convlens.explain.attention_scores import NormOutliers, norm_outliers, token_drift
from convlens.explain.obstacles import find_obstacle

KIND = "attention scores"
PASSES = 2.0  # forward passes of one image that its scores cost about
STATE_KEYS = ("before", "untrained", "latest", "measured")  # in checkpoints
SCORES = {  # by layer -> what the chart over depth calls them
    "head_entropy": "head entropy (1: looks at all alike)",
    "head_diversity": "head diversity (0: all heads alike)",
    "attention_distance": "attention distance (of the diagonal)",
}


class AttentionScores(ExplanationCallback):
    """``explain/<score>`` each epoch, for the attention and the tokens of a transformer.

    - ``head_entropy/<layer>``, ``head_diversity/<layer>``: how evenly a head spreads its attention,
      and how differently the heads of a layer look.
    - ``attention_distance/<layer>``: how far patches look, as a fraction of the image's diagonal.
    - ``norm_outliers``: the fraction of the background's patches whose token has a norm far above
      the others after the last block; without masks, of all patches.
    - ``token_drift``: how far what the classifier reads (class token or mean of the patches) turned
      since the previous look, 1 - cosine.

    ``layers/norms/<probe>`` shows the norms, and the outliers among them. At the end
    ``layers/depth/<score>`` draws the first three over depth, against the network before training.
    The last three scores need attention among all tokens of an image. Formulas and papers:
    ``convlens.explain.attention_scores``.

    Args:
        layers: ``auto`` (all that attend over positions), a name, a glob, or a list of them.
        limit: maximum number of layers with ``auto``, spread over the depth.
        deviations: an outlier's norm is above the median by this many robust standard deviations
            of the logarithms …
        times: … and by at least this factor.
        probes: number of probes of which the norms are drawn; the scores are means over all.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.
    """

    has_final_look = for_some_networks = True

    def __init__(
        self, *, layers: str | list[str] = "auto", limit: int = 12, deviations: float = 6.0,
        times: float = 3.0, probes: int = 2, every_n_epochs: int = 1, batch: int = 8,
    ):  # fmt: skip
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.layers, self.limit, self.probe_count = layers, limit, probes
        self.deviations, self.times = deviations, times
        self._before: Tensor | None = None  # what the classifier read at the previous look
        # by score and layer
        self._untrained: dict[str, dict[str, float]] = {}
        self._latest: dict[str, dict[str, float]] = {}
        self._measured: int | None = None  # the clock of the latest numbers

    def state_dict(self) -> dict:
        return {name: getattr(self, f"_{name}") for name in STATE_KEYS}

    def load_state_dict(self, state_dict: dict) -> None:
        for name in STATE_KEYS:
            setattr(self, f"_{name}", state_dict[name])

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        if self.layers == "auto" and find_obstacle(network, example, "attention"):
            return []
        return choose_attention(attention_maps(network, example), self.layers, self.limit)

    def find_obstacle(self, network: nn.Module, example: Tensor) -> str:
        return find_obstacle(network, example, "attention")

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        if not layers:
            return {}
        return {"layers/norms/<probe>": min(self.probe_count, probes)} | {
            f"layers/depth/{score}": 1 for score in SCORES
        }

    def portion(self, look: Look) -> Portion | None:
        count = len(look.probes)
        return Portion(count, "probes", KIND, PASSES, count) if self.layers_of(look) else None

    def pictures(self, look: Look) -> Findings:
        if obstacle := self.find_once(look.network, look.example, self.find_obstacle):
            self.log_once("obstacle", f"{self.name} draws nothing: {obstacle}")
            return
        if self._measured != look.clock:  # the last look follows that of the last epoch
            yield from self._compute_scores(look)
        if look.final and self._measured == look.clock:
            yield from self._draw_charts(look)

    def _compute_scores(self, look: Look) -> Findings:
        images = look.probes.images
        if not look.affords(KIND, len(images), PASSES):
            self.report_cut(look, "before the scores of attention")
            return
        with look.timed(KIND, len(images)):
            found = self.fit_batch(
                lambda batch: profile_attention(look.network, images, batch=batch)
            )
        self._latest = {
            "head_entropy": self._select(look, found.entropy),
            "head_diversity": self._select(look, found.diversity),
            "attention_distance": self._select(look, found.distance),
        }
        self._measured = look.clock
        if look.clock == 0:
            self._untrained = dict(self._latest)
        for score, layers in self._latest.items():
            for layer, value in layers.items():
                yield f"explain/{score}/{layer}", value
        yield from self._judge_tokens(look, found)

    def _select(self, look: Look, values: Mapping[str, float]) -> dict[str, float]:
        return {layer: values[layer] for layer in self.layers_of(look) if layer in values}

    def _judge_tokens(self, look: Look, found: AttentionProfile) -> Findings:
        """Yield the scores of the tokens after the last block, and pictures of their norms."""
        if found.patches is None or found.read is None:
            return
        masks = look.probes.masks
        outliers = norm_outliers(
            found.patches.cpu(), None if masks is None else masks.cpu(),
            deviations=self.deviations, times=self.times,
        )  # fmt: skip
        yield "explain/norm_outliers", float(outliers.share.nanmean())
        read, before = found.read.cpu(), self._before
        if before is not None and before.shape == read.shape:
            yield "explain/token_drift", float(token_drift(before, read).nanmean())
        self._before = read
        for number in sorted(look.probes.order_in_turns()[: self.probe_count]):
            tag = f"layers/norms/{look.probes.names[number]}"
            yield from self.draw(
                look, tag, partial(self._draw_norms, look, number, outliers, found.layer), 0.05
            )

    def _draw_norms(
        self, look: Look, number: int, outliers: NormOutliers, layer: str
    ) -> np.ndarray:
        norms, above = outliers.norms[number], outliers.map[number]
        count, total = int(above.sum()), above.numel()
        maps = [NamedMap("norm of the token", norms, float(outliers.norms.max()))]
        if count:
            maps.append(NamedMap("outliers", above.float()))
        title = f"{look.probes.names[number]} · norms after {layer} · epoch {look.clock}"
        counted = f"Outliers: {count} of {total} patches, with a norm above"
        return attention_panel(
            look.probes.photographs[number], [MapRow("tokens", maps, shared=False)], title=title,
            source=look.probes.sources[number],
            reading=f"{counted} {outliers.threshold:.3g}. {NORMS_READING}",
        )  # fmt: skip

    def _draw_charts(self, look: Look) -> Findings:
        for score, what in SCORES.items():
            now, untrained = self._latest.get(score, {}), self._untrained.get(score, {})
            if not now:
                continue
            layers = list(now)
            known = untrained.keys() >= now.keys()
            before = [untrained[name] for name in layers] if known else None
            title = f"{score.replace('_', ' ')} over depth · epoch {look.clock}"
            yield from self.draw(
                look, f"layers/depth/{score}",
                partial(depth_chart, layers, [*now.values()], before, title=title, what=what),
            )  # fmt: skip
