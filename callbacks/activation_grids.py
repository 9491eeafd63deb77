"""Activation grids: the channels of chosen layers, for some probes."""

from __future__ import annotations

from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look, Portion
from convlens.callbacks.looks import ExplanationCallback
from torch import Tensor, nn

from convlens.draw.activation_grid import activation_grid
from convlens.draw.activation_levels import Colours, Order, Rule
from convlens.explain.activations import activations
from convlens.explain.layers import choose_layers


class ActivationGrids(ExplanationCallback):
    """``layers/activations/<layer>/<probe>``: the channels of a layer as one picture.

    Within a stage, the convolution, its normalisation, its activation and its pooling are separate
    layers. Channels that are zero for every probe are marked as dead, except before a
    normalisation, which shifts them.

    Args:
        layers: ``auto`` (every stage), a name, a glob, or a list of them.
        limit: maximum number of layers with ``auto``.
        probes: number of probes to show; all probes decide which channels are dead.
        rule: ``shared`` is one scale for all channels of a layer, on which 0 is black;
            ``reference`` standardises each channel by itself, as most textbooks do.
        colours: ``default``, or ``grey`` from black to white.
        order: ``strength`` shows the strongest channels of each image first and only counts those
            that are 0 everywhere; ``index`` keeps every channel in its place, to compare epochs.
        channels: maximum number of channels to show; None for all.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.
    """

    def __init__(
        self, *, layers: str | list[str] = "auto",
        limit: int | None = 4,
        probes: int = 2, rule: Rule = "shared",
        order: Order = "strength", channels: int | None = 64, colours: Colours = "default",
        every_n_epochs: int = 1, batch: int = 32,
    ):  # fmt: skip
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.layers, self.limit, self.probe_count = layers, limit, probes
        self.rule, self.order, self.channels, self.colours = rule, order, channels, colours

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        return choose_layers(network, self.layers, "activations", example=example, limit=self.limit)

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {
            f"layers/activations/{layer}/<probe>": min(self.probe_count, probes) for layer in layers
        }

    def portion(self, look: Look) -> Portion | None:
        layers, shown = self.layers_of(look), min(self.probe_count, len(look.probes))
        return Portion(len(layers) * shown, "grids", "activation grid", 0.5) if layers else None

    def pictures(self, look: Look) -> Findings:
        layers = self.layers_of(look)
        if not layers:
            return
        images = look.probes.images
        if not look.affords(("activations", *layers), len(images), 1.5):
            self.report_cut(look, "before the first layer")
            return
        with look.timed(("activations", *layers), len(images)):
            results = self.fit_batch(
                lambda batch: activations(look.network, images, layers, batch=batch)
            )
        shown = sorted(look.probes.order_in_turns()[: self.probe_count])
        # a layer of all shown probes after the other, so that each look shows some layers wholly
        turn = [(layer, number) for layer in self.rotate(layers) for number in shown]
        done = 0
        for part in look.pieces("activation grid", len(turn), batch=1, passes=0.5):
            ((layer, number),) = turn[part]
            probe = look.probes.names[number]
            title = f"{layer} · {probe} · epoch {look.clock}"
            yield (
                f"layers/activations/{layer}/{probe}",
                activation_grid(
                    results.layers[layer][number], title=title, image=images[number],
                    rule=self.rule, order=self.order, channels=self.channels, colours=self.colours,
                    dead=results.dead(layer),
                ),
            )  # fmt: skip
            done = part.stop
            self._turn = layers.index(turn[done][0]) if done < len(turn) else 0
        if done < len(turn):
            self.report_cut(look, f"before layer {turn[done][0]}")
