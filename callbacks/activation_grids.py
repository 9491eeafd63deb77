"""Activation grids: every channel of chosen layers, for each probe."""

from __future__ import annotations

from convlens.callbacks.explanation import Findings, Look
from convlens.callbacks.looks import ExplanationCallback

from convlens.draw.activation_grid import activation_grid
from convlens.explain.activations import activations
from convlens.explain.layers import choose_layers


class ActivationGrids(ExplanationCallback):
    """``activations/<layer>/<probe>``: all channels of a layer as one picture.

    The three taps of a stage are layers of their own: the convolution, its normalisation and its
    activation; pooling is a fourth. Channels that answer none of the probes are marked as dead,
    except before a normalisation, which moves them.

    Args:
        layers: ``auto`` (every stage), a name, a glob, or a list of them.
        limit: layers at most when ``auto``.
        probes: how many of the probes are shown; dead channels are judged by all of them.
        rule: ``reference``, each channel standardised by itself (the documents' rule), or
            ``shared``, one scale for all channels.
        every_n_epochs, batch: see :class:`~convlens.callbacks.explanation.Explanation`.
    """

    def __init__(
        self, *, layers="auto", limit: int | None = 16, probes: int = 2, rule: str = "reference",
        every_n_epochs: int = 1, batch: int = 32,
    ):  # fmt: skip
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.layers, self.limit, self.shown, self.rule = layers, limit, probes, rule

    def select_layers(self, network, example) -> list[str]:
        return choose_layers(network, self.layers, "activations", example=example, limit=self.limit)

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {f"activations/{layer}/<probe>": min(self.shown, probes) for layer in layers}

    def pictures(self, look: Look) -> Findings:
        layers = self.layers_at(look)
        if not layers:
            return
        found = self.fitting(
            lambda batch: activations(look.network, look.probes.images, layers, batch=batch)
        )
        for number in sorted(look.probes.in_turns()[: self.shown]):
            probe = look.probes.names[number]
            for layer in self.in_turn(layers):
                title = f"{layer} · {probe} · epoch {look.clock}"
                yield (
                    f"activations/{layer}/{probe}",
                    activation_grid(
                        found.layers[layer][number], title=title, rule=self.rule,
                        dead=found.dead(layer),
                    ),
                )  # fmt: skip
                if look.left < 0:
                    self._turn = layers.index(layer) + 1
                    self.say("short", f"{self.name}: the budget ends the look at {layer}")
                    return
        self._turn = 0
