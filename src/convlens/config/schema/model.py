"""The config group ``model``: backbone, weights, head."""

from __future__ import annotations

from typing import Annotated

from convlens.config.schema.keys import (
    PART,
    SHARE,
    SWITCH,
    TABLE,
    TEXT,
    Own,
    Slice,
    above,
    each,
    key,
    least,
    one_of,
    optional_key,
    whole,
)

OWN_HEAD = "imagenet"  # what model.head says for the network's own classifier
SIDE = whole(1, 1000)  # of a kernel or window, in pixels
PADDING = one_of("valid", "same") | whole(0, 1000)


class HeadConfig(Slice):
    """A new head: feature map to logits."""

    pool: Annotated[str, TEXT] = key("flatten or average")
    dropout: Annotated[float, PART] = key("share of features dropped before the first dense layer")
    hidden: Annotated[list[int], each(whole(1, 1_000_000))] = key(
        "units of each dense layer before the logits"
    )
    hidden_dropout: Annotated[float, PART] = key(
        "share of units dropped after each hidden dense layer"
    )


class ModelConfig(Slice):
    """The network; the keys behind ``head`` are those of a library's, or of scratch, only."""

    name: Annotated[str, TEXT] = key("scratch, vgg16, inception_v3 or any network of timm")
    weights: Annotated[str, TEXT] = key("auto, none, a file, or an earlier run's best.ckpt")
    normalisation: Annotated[str | list, TEXT | each(each(least(-1000)))] = key(
        "auto (what belongs to the weights), imagenet, symmetric, unit, or [mean, std]"
    )
    activation: Annotated[str, TEXT] = key(
        "of scratch and the head: relu, leaky_relu, elu, gelu, silu, tanh or sigmoid"
    )
    initialisation: Annotated[str, TEXT] = key(
        "of scratch and the head: keras (Glorot uniform, zero biases) or torch"
    )
    head: Annotated[HeadConfig | str, (TABLE | one_of(OWN_HEAD)).of(HeadConfig)] = key(
        "a new head, or imagenet: the network's own 1000 classes"
    )
    head_classes: Annotated[str | list | None, TEXT | each(whole(0, 999))] = optional_key(
        "head=imagenet: the outputs of the data's classes: order, names, numbers, a CSV file "
        "class,output, or the numbers themselves"
    )
    filters: Annotated[list[int] | None, each(whole(1, 65_536))] = optional_key(
        "scratch: channels of the blocks; [] for no convolution at all"
    )
    kernel_size: Annotated[int | list | None, SIDE | each(SIDE)] = optional_key(
        "scratch: edge of the kernels, pixels, one value or one a block"
    )
    stride: Annotated[int | list | None, SIDE | each(SIDE)] = optional_key(
        "scratch: step of the kernels, pixels, one value or one a block"
    )
    padding: Annotated[str | int | list | None, PADDING | each(PADDING)] = optional_key(
        "scratch: valid, same or pixels, one value or one a block"
    )
    pooling: Annotated[str | list | None, TEXT | each(TEXT)] = optional_key(
        "scratch: max, average or none, one value or one a block"
    )
    pool_size: Annotated[int | list | None, SIDE | each(SIDE)] = optional_key(
        "scratch: edge and step of the pooling window, pixels, one value or one a block"
    )
    batch_norm: Annotated[bool | None, SWITCH] = optional_key(
        "scratch: between convolution and activation"
    )
    batch_norm_momentum: Annotated[float | None, SHARE] = optional_key(
        "scratch: weight of the new batch"
    )
    batch_norm_eps: Annotated[float | None, above(0)] = optional_key(
        "scratch: added to the variance"
    )
    dropout: Annotated[float | None, PART] = optional_key(
        "scratch: share of whole channels dropped after each block"
    )


class OwnModelConfig(ModelConfig, Own):
    """A backbone of a person's own; see ``docs/extending.md``."""
