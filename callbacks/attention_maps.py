"""What the attention of a transformer looks at, for some probes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look, Portion
from convlens.callbacks.looks import ExplanationCallback
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.draw.attention_panel import HEADS_READING, MapRow, attention_panel, name_heads
from convlens.explain.attention import AttentionMaps as Found
from convlens.explain.attention import attention_maps, choose_attention
from convlens.explain.obstacles import find_obstacle
from convlens.explain.rollout import attention_rollout
from convlens.explain.shrink import shrink_maps
from convlens.rundir.maps import ATTENTION, BLOCKS, ROLLOUT, SIDE, Maps, name_head_maps

_PASSES = 3.0  # forward passes of one image that its maps and the rollout cost about


class AttentionMaps(ExplanationCallback):
    """``layers/attention/<probe>``: the attention of the heads of some layers, and the rollout.

    A head's map is the attention that the class token gives to each patch; the mean over the
    patches if the classifier reads their mean; in windows (Swin) what a position gets in its
    window. The last row is attention rollout, for networks in which all blocks attend among all
    tokens. All of them are the same for every class: they are not evidence.

    The maps of all heads of these layers are kept as numbers, averaged down to at most 14×14 cells:
    ``convlens.open_run(run).maps("attention")`` and ``maps("rollout")``.

    Args:
        layers: ``auto`` (all that attend over positions), a name, a glob, or a list of them.
            ``auto`` shows nothing of networks without such layers; a name is then refused.
        limit: maximum number of layers with ``auto``, spread over the depth.
        heads: maximum number of heads of a layer to show, evenly chosen; None for all.
        probes: number of probes to show.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.
    """

    for_some_networks = True

    def __init__(
        self, *, layers: str | list[str] = "auto", limit: int = 4, heads: int | None = 12,
        probes: int = 2, every_n_epochs: int = 1, batch: int = 8,
    ):  # fmt: skip
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.layers, self.limit, self.heads, self.probe_count = layers, limit, heads, probes

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        obstacle = find_obstacle(network, example, "attention")
        if obstacle:
            if self.layers != "auto":
                raise UserError(obstacle)
            return []
        return choose_attention(attention_maps(network, example), self.layers, self.limit)

    def find_obstacle(self, network: nn.Module, example: Tensor) -> str:
        return find_obstacle(network, example, "attention")

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"layers/attention/<probe>": min(self.probe_count, probes)} if layers else {}

    def portion(self, look: Look) -> Portion | None:
        count = min(self.probe_count, len(look.probes))
        if not self.layers_of(look):
            return None
        return Portion(count, "probes", "attention panel", _PASSES)

    def pictures(self, look: Look) -> Findings:
        if obstacle := self.find_once(look.network, look.example, self.find_obstacle):
            self.log_once("obstacle", f"{self.name} draws nothing: {obstacle}")
            return
        shown = sorted(look.probes.order_in_turns()[: self.probe_count])
        turn, done = self.rotate(shown), 0
        for part in look.pieces(
            "attention panel", len(turn), batch=self.batch, passes=_PASSES, seconds=0.1
        ):
            found, rollout = self._compute(look, look.probes.images[turn[part]])
            yield from self._name_maps(look, turn[part], found, rollout)
            for place, number in enumerate(turn[part]):
                own = None if rollout is None else rollout[place]
                yield self._draw_panel(look, number, found, place, own)
            done = part.stop
            self._turn = shown.index(turn[done]) if done < len(turn) else 0
        if done < len(turn):
            self.report_cut(look, f"before probe {look.probes.names[turn[done]]}")

    def _compute(self, look: Look, images: Tensor) -> tuple[Found, Tensor | None]:
        """Return the attention for n images, and the rollout (n, h, w) if the network has one."""
        network = look.network
        found = self.fit_batch(lambda batch: attention_maps(network, images, batch=batch))
        if find_obstacle(network, look.example, "rollout"):
            return found, None
        return found, self.fit_batch(lambda batch: attention_rollout(network, images, batch=batch))

    def _name_maps(
        self, look: Look, numbers: Sequence[int], found: Found, rollout: Tensor | None
    ) -> Iterator[tuple[str, Maps]]:
        """Yield the maps of n probes as they are kept; ``rollout`` is (n, h, w) or None."""
        probes = [look.probes.names[number] for number in numbers]
        layers = {
            layer: shrink_maps(found.maps[layer].cpu(), SIDE).numpy()
            for layer in self.layers_of(look)
        }
        yield ATTENTION, name_head_maps(ATTENTION, probes, layers)
        if rollout is not None:
            values = shrink_maps(rollout[:, None].cpu(), SIDE).numpy()
            yield ROLLOUT, name_head_maps(ROLLOUT, probes, {BLOCKS: values}, ["all heads"])

    def _draw_panel(
        self, look: Look, number: int, found: Found, place: int, rollout: Tensor | None
    ) -> tuple[str, np.ndarray]:
        """Return the panel of a probe; ``rollout`` is (h, w) or None."""
        probe = look.probes.names[number]
        rows = [
            MapRow(layer, name_heads(found.maps[layer][place].cpu(), self.heads))
            for layer in self.layers_of(look)
        ]
        if rollout is not None:
            rows.append(MapRow("all layers", name_heads(rollout[None].cpu(), names=["rollout"])))
        title = f"{probe} · attention · epoch {look.clock}"
        picture = attention_panel(
            look.probes.photographs[number], rows, title=title,
            source=look.probes.sources[number], reading=HEADS_READING,
        )  # fmt: skip
        return f"layers/attention/{probe}", picture
