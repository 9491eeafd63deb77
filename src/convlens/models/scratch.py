"""The ``scratch`` backbone: a plain chain of convolutions whose every knob is a config key."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from convlens.core.errors import UserError, nearest
from convlens.models.activation import activation_layer
from convlens.models.backbone import Backbone, sequential

POOLINGS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d, "none": None}


def scratch(
    *,
    channels: int,
    size: int,
    filters: list[int],
    kernel_size: int | list[int],
    stride: int | list[int],
    padding: str | int | list[str | int],
    activation: str,
    pooling: str | list[str],
    pool_size: int | list[int],
    batch_norm: bool,
    batch_norm_momentum: float,
    batch_norm_eps: float,
    dropout: float,
) -> Backbone:
    """``block1 … blockN``, each convolution, [batch norm], activation, [pooling], [dropout].

    Every argument but ``batch_norm*``, ``activation`` and ``dropout`` is one value for all
    blocks or a list with one value a block.

    Args:
        channels: of the pictures.
        size: height and width of the pictures in pixels, to tell early where a map would vanish.
        filters: output channels of each block's convolution; ``[]`` for no convolution at all.
        kernel_size: edge of the kernels in pixels.
        stride: step of the kernels in pixels.
        padding: ``valid`` (none), ``same`` (the map keeps its size at stride 1, and is
            ceil(n / stride) otherwise) or a number of pixels on each side.
        activation: name, see :mod:`convlens.models.activation`.
        pooling: ``max``, ``average`` or ``none``.
        pool_size: edge and step of the pooling window in pixels.
        batch_norm: normalise between convolution and activation (Ioffe & Szegedy 2015).
        batch_norm_momentum: weight of the new batch in the running statistics (Keras's 0.99 is
            0.01 here).
        batch_norm_eps: added to the variance.
        dropout: share of whole channels dropped after each block (Tompson et al. 2015).

    Returns:
        (B, channels, size, size) to the last block's map, (B, filters[-1], h, w).

    Raises:
        UserError: a value out of range, a list of another length, a map that would vanish.
    """
    count = len(filters)
    if any(not isinstance(value, int) or value < 1 for value in filters):
        raise UserError(f"model.filters={filters}: a list of channel counts above 0 is expected")
    if not 0 <= dropout < 1:
        raise UserError(f"model.dropout={dropout}: a share in [0, 1) is expected")
    knobs = zip(
        filters,
        _each("kernel_size", kernel_size, count),
        _each("stride", stride, count),
        _each("padding", padding, count),
        _each("pooling", pooling, count),
        _each("pool_size", pool_size, count),
        strict=True,
    )
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (width, kernel, step, pad, pool, window) in enumerate(knobs, start=1):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        pixels = _padding(pad, kernel)
        # a bias before batch norm would be subtracted again at once
        layers["conv"] = nn.Conv2d(channels, width, kernel, step, pixels, bias=not batch_norm)
        if batch_norm:
            layers["norm"] = nn.BatchNorm2d(width, batch_norm_eps, batch_norm_momentum)
        layers["activation"] = activation_layer(activation)
        size = (size + 2 * pixels - kernel) // step + 1
        if pool not in POOLINGS:
            raise UserError(f"model.pooling={pool}: {nearest(str(pool), POOLINGS)}")
        if POOLINGS[pool]:
            layers["pool"] = POOLINGS[pool](window)
            size //= window
        if size < 1:
            raise UserError(
                f"model.filters={filters}: nothing is left of the map after block {number}; use "
                f"fewer blocks, model.padding=same, less pooling, or a larger data.size"
            )
        if dropout:
            layers["dropout"] = nn.Dropout2d(dropout)
        blocks[f"block{number}"] = nn.Sequential(layers)
        channels = width
    return sequential(blocks)


def _each(key: str, value, count: int) -> list:
    """``value`` once for each of ``count`` blocks."""
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    if len(values) != count:
        raise UserError(
            f"model.{key} has {len(values)} values for {count} blocks of model.filters; "
            f"give one value for all or one for each"
        )
    if key in ("kernel_size", "stride", "pool_size") and any(
        not isinstance(number, int) or number < 1 for number in values
    ):
        raise UserError(f"model.{key}={value}: whole numbers above 0 are expected")
    return values


def _padding(padding: str | int, kernel: int) -> int:
    """Pixels on each side."""
    if padding == "valid":
        return 0
    if padding == "same":
        if kernel % 2 == 0:
            raise UserError(
                f"model.padding=same needs odd kernels, model.kernel_size is {kernel}; "
                f"use an odd one, or a number of pixels"
            )
        return kernel // 2
    if isinstance(padding, int) and padding >= 0:
        return padding
    raise UserError(f"model.padding={padding}: valid, same or a number of pixels is expected")
