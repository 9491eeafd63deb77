"""The config group ``model``: backbone, weights, head."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from convlens.config.schema.keys import (
    FRACTION,
    FRACTION_BELOW_1,
    SWITCH,
    TABLE,
    TEXT,
    Own,
    Slice,
    above,
    at_least,
    each,
    key,
    named,
    one_of,
    one_or_each,
    optional,
    whole,
)

OWN_HEAD = "imagenet"  # the value of model.head for the network's own classifier
SIDE = whole(1, 1000)  # of a kernel or window, pixels
PADDING = one_of("valid", "same") | whole(0, 1000)
ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid")
NORMALISATION = named("auto", "imagenet", "symmetric", "unit")
POOLING = named("max", "average", "none")
MEAN_AND_STD = replace(each(each(at_least(-1000))), expected="[mean, std], two lists of numbers")


class HeadConfig(Slice):
    """A new head, from the feature map to the logits."""

    pool: Annotated[str, named("flatten", "average")] = key(
        "how the head reduces the feature map: flatten or average"
    )
    tokens: Annotated[str | None, named("auto", "class", "mean", "both")] = optional(
        "how the head reduces tokens: auto (as timm's own classifier), class, mean or both"
    )
    norm: Annotated[bool | None, SWITCH] = optional(
        "whether the head keeps the norm with which timm's own classifier begins"
    )
    dropout: Annotated[float, FRACTION_BELOW_1] = key(
        "fraction of features dropped before the head's first dense layer"
    )
    hidden: Annotated[list[int], each(whole(1, 1_000_000))] = key(
        "units of each dense layer of the head before the logits"
    )
    hidden_dropout: Annotated[float, FRACTION_BELOW_1] = key(
        "fraction of units dropped after each hidden dense layer of the head"
    )


class ModelConfig(Slice):
    """The network.

    Only library networks have the key ``head_classes``; only ``scratch`` has the keys from
    ``filters`` on.
    """

    name: Annotated[str, TEXT] = key("network: scratch, vgg16, inception_v3 or any of timm")
    weights: Annotated[str, TEXT] = key(
        "initial weights: auto, none, a file, or an earlier run's best.ckpt"
    )
    normalisation: Annotated[str | list, NORMALISATION | MEAN_AND_STD] = key(
        "input normalisation: auto (that of the weights), imagenet, symmetric, unit or [mean, std]"
    )
    activation: Annotated[str, named(*ACTIVATIONS)] = key(
        "activation of scratch and of the head: relu, leaky_relu, elu, gelu, silu, tanh or sigmoid"
    )
    initialisation: Annotated[str, named("keras", "torch")] = key(
        "initialisation of scratch and of the head: keras (Glorot uniform, zero biases) or torch"
    )
    head: Annotated[HeadConfig | str, (TABLE | one_of(OWN_HEAD)).of(HeadConfig)] = key(
        "a new head, or imagenet: the network's own 1000 classes"
    )
    head_classes: Annotated[str | list | None, TEXT | each(whole(0, 999))] = optional(
        "with model.head=imagenet, outputs of the data's classes: order, names, numbers, a CSV "
        "file class,output or a list of numbers"
    )
    options: Annotated[dict[str, Any] | None, TABLE] = optional(
        "timm: further arguments of the network's constructor, such as drop_path_rate"
    )
    filters: Annotated[list[int] | None, each(whole(1, 65_536))] = optional(
        "scratch: output channels of each block; []: no convolution"
    )
    kernel_size: Annotated[int | list | None, one_or_each(SIDE)] = optional(
        "scratch: side of the kernels, pixels; one value or one per block"
    )
    stride: Annotated[int | list | None, one_or_each(SIDE)] = optional(
        "scratch: stride of the convolutions, pixels; one value or one per block"
    )
    padding: Annotated[str | int | list | None, one_or_each(PADDING)] = optional(
        "scratch: padding of the convolutions: valid, same or pixels; one value or one per block"
    )
    pooling: Annotated[str | list | None, one_or_each(POOLING)] = optional(
        "scratch: pooling at the end of a block: max, average or none; one value or one per block"
    )
    pool_size: Annotated[int | list | None, one_or_each(SIDE)] = optional(
        "scratch: side and stride of the pooling window, pixels; one value or one per block"
    )
    batch_norm: Annotated[bool | None, SWITCH] = optional(
        "scratch: batch normalisation between convolution and activation"
    )
    batch_norm_momentum: Annotated[float | None, FRACTION] = optional(
        "scratch: weight of the newest batch in the statistics of batch normalisation"
    )
    batch_norm_eps: Annotated[float | None, above(0)] = optional(
        "scratch: term added to the variance in batch normalisation"
    )
    dropout: Annotated[float | None, FRACTION_BELOW_1] = optional(
        "scratch: fraction of whole channels dropped after each block"
    )


class OwnModelConfig(ModelConfig, Own):
    """A user-defined backbone; see ``docs/extending.md``."""
