"""What an exported file says about itself: classes, preprocessing, temperature, model card.

All of it is text by name, which ONNX, safetensors and ``torch.export`` store beside the weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from convlens.core.errors import UserError
from convlens.data.pixels.decode import BACKGROUND, MAX_SIDE, PADDING, REDUCING_GAP, Recipe

# Formats of the metadata. Networks with several classes per image have one of their own: versions
# that know only the first would take a softmax of their logits.
FORMAT, SEVERAL = "1", "2"
SIGMOID = "sigmoid"  # the value of ``activation``
_READ = ("height", "width", "channels", "resize", "interpolation")
_RESIZES = {
    "squash": "resized to {size} pixels, whatever its proportions",
    "crop": "the largest centred part with the proportions of {size}, resized to {size} pixels",
    "pad": "resized to fit into {size} pixels, centred on black",
}
_FILTERS = {
    "bilinear": "bilinear, antialiased",
    "bicubic": "bicubic, antialiased",
    "nearest": "nearest pixel",
}


@dataclass(frozen=True)
class Facts:
    """What a file says about its network.

    Attributes:
        class_names: ``K`` names, in the order of the probabilities.
        recipe: how an image file becomes the network's image; ``decode`` is always ``exact``.
        temperature: the logits are divided by it; 1.0 until a network is calibrated.
        layer: the layer whose Grad-CAM map the file computes, or None.
        card: the model card, Markdown.
        thresholds: ``K`` probabilities from which each class counts as predicted, if an image may
            have several, whose probabilities are then sigmoids; None if it has one.
    """

    class_names: tuple[str, ...]
    recipe: Recipe
    temperature: float = 1.0
    layer: str | None = None
    card: str = ""
    thresholds: tuple[float, ...] | None = None

    def to_metadata(self) -> dict[str, str]:
        """Return the facts as text by name, for ``read_facts``."""
        found = {
            "convlens_format": FORMAT if self.thresholds is None else SEVERAL,
            "classes": json.dumps(self.class_names, ensure_ascii=False),
            "preprocessing": json.dumps(self._describe_preprocessing(), ensure_ascii=False),
            "temperature": repr(self.temperature),
            "model_card": self.card,
        }
        if self.thresholds is not None:
            found |= {"activation": SIGMOID, "thresholds": json.dumps(self.thresholds)}
        return found if self.layer is None else {**found, "grad_cam_layer": self.layer}

    def _describe_preprocessing(self) -> dict[str, Any]:
        """Return the recipe, the constants of decoding, and the rule in a sentence.

        ``reduce`` is the size in pixels that Pillow keeps at least when it decodes a large JPEG at
        a lower resolution (``Image.draft``).
        """
        recipe = self.recipe
        reduces = recipe.interpolation != "nearest"
        return {
            **{key: value for key, value in asdict(recipe).items() if key in _READ},
            "reduce": REDUCING_GAP * max(recipe.height, recipe.width) if reduces else MAX_SIDE,
            "background": BACKGROUND,
            "padding": PADDING,
            "rule": describe_rule(recipe),
        }


def make_facts(
    class_names: tuple[str, ...], recipe: Recipe, layer: str | None = None,
    thresholds: Sequence[float] | None = None, temperature: float = 1.0,
) -> Facts:  # fmt: skip
    """Return the facts of a network, without a model card."""
    limits = None if thresholds is None else tuple(thresholds)
    exact = replace(recipe, decode="exact")
    return Facts(class_names, exact, temperature, layer, thresholds=limits)


def describe_rule(recipe: Recipe) -> str:
    """Return in a sentence how an image becomes the network's image.

    >>> describe_rule(Recipe(150, 150))
    'upright, RGB, resized to 150×150 pixels, whatever its proportions (bilinear, antialiased)'
    """
    colour = "RGB" if recipe.channels == 3 else "grey (ITU-R 601 luma)"
    resized = _RESIZES[recipe.resize].format(size=f"{recipe.width}×{recipe.height}")
    return f"upright, {colour}, {resized} ({_FILTERS[recipe.interpolation]})"


def read_facts(metadata: Mapping[str, str], where: str) -> Facts:
    """Return the facts in the metadata of a file.

    Args:
        metadata: text by name.
        where: the file, for errors.

    Raises:
        UserError: convlens did not write the file, or a later version did, or a value is damaged.
    """
    written = metadata.get("convlens_format")
    if written is None:
        raise UserError(
            f"{where} was not exported by convlens, so its classes and preprocessing are unknown: "
            f"use a file that `convlens export` wrote"
        )
    if written not in (FORMAT, SEVERAL):
        raise UserError(
            f"{where} has metadata of format {written[:20]}, but this version reads {FORMAT} and "
            f"{SEVERAL}: export it again"
        )
    try:
        names = json.loads(metadata["classes"])
        preprocessing = json.loads(metadata["preprocessing"])
        recipe = Recipe(**{key: preprocessing[key] for key in _READ})
        temperature = float(metadata["temperature"])
        if not (isinstance(names, list) and all(isinstance(n, str) and n for n in names)):
            raise ValueError("the classes are not a list of names")
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError("there are fewer than two classes, or some are the same")
        if not 0 < temperature < math.inf:
            raise ValueError(f"the temperature is {temperature}")
        thresholds = None if written == FORMAT else _read_thresholds(metadata, len(names))
    except (KeyError, TypeError, ValueError, UserError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{where} has damaged metadata ({reason[:120]}): export the network again"
        ) from None
    return Facts(
        tuple(names), recipe, temperature, metadata.get("grad_cam_layer"),
        metadata.get("model_card", ""), thresholds,
    )  # fmt: skip


def _read_thresholds(metadata: Mapping[str, str], classes: int) -> tuple[float, ...]:
    """Return the thresholds of a network with several classes per image.

    Raises:
        KeyError: something is missing.
        ValueError: it is damaged.
    """
    if metadata["activation"] != SIGMOID:
        raise ValueError(f"the activation is {metadata['activation']}")
    values = json.loads(metadata["thresholds"])
    if not isinstance(values, list) or len(values) != classes:
        raise ValueError("the thresholds are not a number for each class")
    if not all(type(each) in (int, float) and 0 <= each <= 1 for each in values):
        raise ValueError("a threshold is not between 0 and 1")
    return tuple(map(float, values))
