"""The configs of callbacks that show what a network has learned."""

from __future__ import annotations

from typing import Annotated

from convlens.config.schema.keys import FRACTION, key, whole
from convlens.config.schema.look import LAYERS, BatchedConfig, EachEpochConfig


class ShortcutsConfig(BatchedConfig):
    """Images grouped by where their evidence is, and whether the network needs that place."""

    pictures: Annotated[int, whole(1)] = key("validation images to group, evenly spread")
    area: Annotated[float, FRACTION] = key(
        "largest area of a place that holds half of a group's evidence, fraction of the image"
    )
    fall: Annotated[float, FRACTION] = key(
        "least fall of accuracy, beyond that of covering a mirror image of the place, that makes "
        "a place a shortcut"
    )
    chance: Annotated[float, FRACTION] = key(
        "largest probability that such a fall is chance, divided among the places that are tested"
    )


class FeatureSpaceConfig(BatchedConfig):
    """Where the network's last layer sees validation images, in two dimensions."""

    pictures: Annotated[int, whole(3)] = key("validation images to show, evenly spread")


class SlicesConfig(BatchedConfig):
    """Images of a class with alike features, most of which are mistaken."""

    pictures: Annotated[int, whole(1)] = key("validation images to group, evenly spread")
    fall: Annotated[float, FRACTION] = key(
        "how much lower a group's accuracy must be than that of the rest of its class"
    )
    chance: Annotated[float, FRACTION] = key(
        "largest probability that so low an accuracy is chance, divided among the groups"
    )


class LayerChangesConfig(EachEpochConfig):
    """How alike each layer stays to what it was."""

    layers: Annotated[str | list[str], LAYERS] = key(
        "layers to compare: auto (the output of each stage), names or patterns"
    )
    limit: Annotated[int, whole(1)] = key(
        "largest number of layers that layers=auto chooses, spread over the depth"
    )
    pictures: Annotated[int, whole(4)] = key("validation images to compare, evenly spread")
    batch: Annotated[int, whole(4)] = key(
        "images that are compared with each other, and that pass through the network at once"
    )
