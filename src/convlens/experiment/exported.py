"""Predict and explain with an exported ONNX file, as with the network that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convlens.core.errors import UserError, convert_errors
from convlens.core.progress import Work
from convlens.experiment.explainer import Explainer, ImageLike
from convlens.experiment.explanation import Explanation
from convlens.experiment.methods import add_explanation, draw_grad_cam
from convlens.export.answers import GRAD_CAM, LOGITS, PROBABILITIES
from convlens.export.facts import Facts, read_facts
from convlens.export.onnx_file import OnnxNetwork

COVERS = ("occlusion", "superpixels")  # methods that need only answers


class ExportedExplainer(Explainer):
    """An exported file with its class names and preprocessing.

    It has answers but no layers: it is explained by the Grad-CAM map that it may compute itself, by
    occlusion and by superpixels.

    Args:
        network: the file.
        facts: what it says about itself.
        temperature: False undoes the temperature by which the file divides its logits.

    Attributes:
        facts: as given.
    """

    def __init__(self, network: OnnxNetwork, facts: Facts, *, temperature: bool = True):
        super().__init__(
            network, facts.class_names, facts.recipe, outputs="logits", thresholds=facts.thresholds
        )
        if not temperature:
            self.temperature = 1 / facts.temperature
        self.facts = facts

    def filters(
        self, layers: str | Sequence[str] = "auto", *, pictures: Sequence[ImageLike] = (),
        work: Work | None = None,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """Raise a UserError: a file has no filters that could be drawn."""
        raise _has_no_layers("filters")

    def describe_left_out(self, methods: Sequence[str]) -> str:
        """Return an empty text: there are no layers."""
        return ""

    def _add(
        self, method: str, explanation: Explanation, layers: str | list[str], is_named: bool
    ) -> None:
        if method in COVERS:
            add_explanation(
                method, self.network, explanation, layers, is_named=is_named, seed=self.seed
            )
            return
        problem = _has_no_layers(method)
        if method == GRAD_CAM:
            problem = self._find_obstacle(explanation, layers)
            if problem is None:
                maps = self.network.run(explanation.picture[None], [GRAD_CAM])[GRAD_CAM]
                if self.thresholds is not None:  # a map of each class
                    maps = maps[0, list(explanation.targets)]
                draw_grad_cam(explanation, {self.facts.layer: maps})
                return
        if is_named:
            raise problem
        if method != "legrad":  # which only some networks have
            explanation.notes.append(str(problem))

    def _find_obstacle(self, explanation: Explanation, layers: str | list[str]) -> UserError | None:
        """Return why the file's own map is not what is requested, or None if it is."""
        layer = self.facts.layer
        if layer is None:
            return UserError("grad_cam: the file computes no map; export it with cam=true")
        if layers not in ("auto", [layer]):
            return UserError(f"grad_cam: the file has only the map of {layer}: leave layers= out")
        is_other = explanation.targets != (int(explanation.probabilities.argmax()),)
        if self.thresholds is None and is_other:
            return UserError(
                "grad_cam: the file has only the map of the predicted class; only=occlusion "
                "explains any class"
            )
        return None


def _has_no_layers(method: str) -> UserError:
    return UserError(
        f"{method}: an exported file has no layers; explain the checkpoint it was made from"
    )


def load_exported(file: Path, *, temperature: bool = True) -> ExportedExplainer:
    """Load an ONNX file that ``convlens export`` wrote.

    Args:
        file: the file.
        temperature: see ``ExportedExplainer``.

    Raises:
        UserError: there is no such file, ONNX Runtime is not installed or cannot read it, or
            convlens did not write it.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}; `convlens export` writes one")
    network = OnnxNetwork(file, str(file))
    facts = read_facts(network.metadata, str(file))
    with convert_errors(f"{file} does not compute what its metadata says", "was it modified?"):
        wanted = {PROBABILITIES, LOGITS} | ({GRAD_CAM} if facts.layer is not None else set())
        if set(network.outputs) != wanted:
            raise ValueError(f"outputs: {', '.join(network.outputs)}")
        return ExportedExplainer(network, facts, temperature=temperature)
