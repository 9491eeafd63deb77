"""The configs of the callbacks that explain transformers."""

from __future__ import annotations

from typing import Annotated

from convlens.config.schema.keys import NULL, above, at_least, key, one_of, whole
from convlens.config.schema.look import LAYERS, BatchedConfig, EvidenceMapsConfig


class LeGradConfig(EvidenceMapsConfig):
    """LeGrad of the probes, for transformers."""

    pool: Annotated[str, one_of("auto", "mean", "network")] = key(
        "tokens that the classifier gets: mean (of all), network (those that it reads) or auto "
        "(mean; networks that LeGrad cannot explain are left out)"
    )


class AttentionMapsConfig(BatchedConfig):
    """The attention of each head of some layers, and attention rollout."""

    layers: Annotated[str | list[str], LAYERS] = key(
        "layers of attention to show: auto (those over positions; other networks are left out), "
        "names or patterns"
    )
    limit: Annotated[int, whole(1)] = key(
        "largest number of layers that layers=auto chooses, spread over the depth"
    )
    heads: Annotated[int | None, NULL | whole(1)] = key(
        "largest number of heads of a layer to show, evenly chosen; null: all"
    )
    probes: Annotated[int, whole(1)] = key("number of probes to show")


class AttentionScoresConfig(BatchedConfig):
    """Scores of the attention and the tokens of a transformer."""

    layers: Annotated[str | list[str], LAYERS] = key(
        "layers of attention to score: auto (those over positions; other networks are left out), "
        "names or patterns"
    )
    limit: Annotated[int, whole(1)] = key(
        "largest number of layers that layers=auto chooses, spread over the depth"
    )
    deviations: Annotated[float, above(0)] = key(
        "norm outliers: least distance from the median norm, robust standard deviations of the "
        "logarithms"
    )
    times: Annotated[float, at_least(1)] = key(
        "norm outliers: least norm, as a multiple of the median norm"
    )
    probes: Annotated[int, whole(1)] = key("number of probes whose tokens' norms are drawn")
