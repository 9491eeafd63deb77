"""The ``scratch`` backbone: a plain chain of convolutions, configured by ``model`` keys."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from convlens.config.schema import ModelConfig
from convlens.core.errors import UserError, check_name
from convlens.models.backbone import Backbone, build_chain
from convlens.models.fresh import build_activation

POOLINGS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d, "none": None}


def build_scratch(spec: ModelConfig, *, channels: int, size: int) -> Backbone:
    """Build ``block1 … blockN``: convolution, [batch norm], activation, [pooling], [dropout].

    ``kernel_size``, ``stride``, ``padding``, ``pooling`` and ``pool_size`` are one value for all
    blocks or a list with one value per block. With ``padding: same`` a map of n pixels becomes
    ceil(n / stride). Batch norm (Ioffe & Szegedy 2015) is between convolution and activation.

    Args:
        spec: the config group ``model``.
        channels: channels of the images.
        size: height and width of the images in pixels; detects maps that vanish.

    Returns:
        A network from (B, channels, size, size) to the last block's map, (B, filters[-1], h, w).

    Raises:
        UserError: a list has the wrong length, or a map vanishes.
    """
    count, batch_norm = len(spec.filters), spec.batch_norm
    settings = zip(
        spec.filters,
        _list_per_block("kernel_size", spec.kernel_size, count),
        _list_per_block("stride", spec.stride, count),
        _list_per_block("padding", spec.padding, count),
        _list_per_block("pooling", spec.pooling, count),
        _list_per_block("pool_size", spec.pool_size, count),
        strict=True,
    )
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (width, kernel, step, pad, pool, window) in enumerate(settings, start=1):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        pixels = _resolve_padding(pad, kernel)
        # batch norm would subtract the bias again
        layers["conv"] = nn.Conv2d(channels, width, kernel, step, pixels, bias=not batch_norm)
        if batch_norm:
            layers["norm"] = nn.BatchNorm2d(width, spec.batch_norm_eps, spec.batch_norm_momentum)
        layers["activation"] = build_activation(spec.activation)
        size = (size + 2 * pixels - kernel) // step + 1
        check_name("model.pooling", pool, POOLINGS)
        if POOLINGS[pool]:
            layers["pool"] = POOLINGS[pool](window)
            size //= window
        if size < 1:
            raise UserError(
                f"model.filters={spec.filters}: the map vanishes in block {number}; "
                f"use fewer blocks, model.padding=same, less pooling, or a larger data.size"
            )
        if spec.dropout:
            layers["dropout"] = nn.Dropout2d(spec.dropout)
        blocks[f"block{number}"] = nn.Sequential(layers)
        channels = width
    return build_chain(blocks)


def _list_per_block(key: str, value, count: int) -> list:
    """Return one value for each of ``count`` blocks."""
    values = value if isinstance(value, list) else [value] * count
    if len(values) != count:
        raise UserError(
            f"model.{key} has {len(values)} values for {count} blocks of model.filters; "
            f"give one value for all or one per block"
        )
    return values


def _resolve_padding(padding: str | int, kernel: int) -> int:
    """Return the pixels of padding on each side."""
    if padding == "valid":
        return 0
    if padding == "same":
        if kernel % 2 == 0:
            raise UserError(
                f"model.padding=same needs odd kernels, model.kernel_size is {kernel}; "
                f"use an odd one, or a number of pixels"
            )
        return kernel // 2
    return padding
