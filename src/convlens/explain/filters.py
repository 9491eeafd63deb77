"""What a filter responds to: its kernel, and the image that excites it most.

Shapes: ``C`` channels, ``H W`` height and width, ``U`` requested units (channels of a layer).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.explain.ascent import Ascent, build_preconditioner, draw_moves, draw_noise
from convlens.explain.layouts import find_module
from convlens.explain.mode import (
    chunks,
    device_of,
    dtype_of,
    explaining,
    image_size,
    prepare_images,
    wait_for,
)
from convlens.explain.outputs import unwrap_output
from convlens.explain.receptive import find_probe
from convlens.explain.taps import Taps, record

# On a CPU, larger batches than this many pixels are slower than small ones: a layer's output no
# longer stays in the processor's cache for the next layer (VGG16: more than two images of 128 ×
# 128).
_CPU_PIXELS = 2**15

# by network, layer and shape of the image: the canvas, which takes a pass for each size tried
_CANVASES: WeakKeyDictionary[
    nn.Module, WeakKeyDictionary[nn.Module, dict[torch.Size, tuple[int, int]]]
] = WeakKeyDictionary()

# Ready-made arguments of gradient_ascent. Jitter, zoom and rotation are those of Olah et al.,
# reduced to suit small canvases.
RECIPES = {
    "plain": {"smoothing": 0.0, "colours": False, "jitter": 0, "zoom": 0.0, "rotation": 0.0},
    "robust": {"smoothing": 1.0, "colours": True, "jitter": 2, "zoom": 0.1, "rotation": 5.0},
}


@dataclass(frozen=True, eq=False)
class FilterPictures:
    """Images that excite ``U`` units of one layer.

    Attributes:
        images: ``(U, C, h, w)`` in [0, 1], as large as the canvas.
        activations: ``(U,)`` mean of each unit's output over its own image, as the layer returns
            it (low for a unit with sign -1).
        stuck: ``(U,)`` bool: the gradient was zero (or not finite) at every step, so the image is
            still the initial noise and shows nothing about the unit.
        units: the channel numbers, in the order of the images.
        steps: ``(U,)`` int64, the number of steps taken, which ``proceed`` may have limited.
    """

    images: Tensor
    activations: Tensor
    stuck: Tensor
    units: tuple[int, ...]
    steps: Tensor


def kernels(module: nn.Module) -> Tensor:
    """Return a copy of a convolution's kernels, ``(O, I, kh, kw)``, fp32.

    ``I`` is the number of input channels that one kernel sees (input channels / groups).

    Raises:
        UserError: if the module is not a two-dimensional convolution.
    """
    if not isinstance(module, nn.Conv2d):
        raise UserError(f"{type(module).__name__} has no kernels to show: choose a convolution")
    return module.weight.detach().to(torch.float32, copy=True)


def to_display(images: Tensor, *, mean: float = 0.5, spread: float = 0.2) -> Tensor:
    """Scale each image to the same brightness and contrast, ``(N, C, H, W)`` in [0, 1].

    Args:
        images: ``(N, C, H, W)``, images or kernels of any range.
        mean: mean value of each result.
        spread: standard deviation of each result; values beyond [0, 1] are clipped.
    """
    dims = (1, 2, 3)
    centred = images - images.mean(dims, keepdim=True)
    deviation = centred.square().mean(dims, keepdim=True).sqrt()
    flat = deviation <= 1e-6
    scaled = torch.where(flat, torch.zeros_like(centred), centred / deviation.clamp_min(1e-12))
    return (scaled * spread + mean).clamp(0, 1)


def get_recipe(name: str) -> dict[str, Any]:
    """Return ready-made arguments of ``convlens.explain.gradient_ascent``.

    ``plain`` is the pixel ascent of Erhan et al. ``robust`` ascends in the frequencies and colours
    of natural images, and finds patterns that still excite the unit when they are slightly shifted,
    scaled and rotated.

    Raises:
        UserError: if ``name`` is neither of them.
    """
    if name not in RECIPES:
        raise UserError(f"no recipe {name!r} for filter pictures: {nearest(str(name), RECIPES)}")
    return dict(RECIPES[name])


def find_logits_layer(model: nn.Module, layers: Sequence[str], example: Tensor) -> str | None:
    """Return which of the dense ``layers`` returns the logits themselves; None if none does.

    Args:
        model: the network.
        layers: module paths; layers that are not dense are ignored.
        example: ``(1, C, H, W)`` image for one forward pass.

    Raises:
        UserError: if the network does not have one of the layers.
    """
    dense = [name for name in layers if isinstance(find_module(model, name), nn.Linear)]
    with explaining(model), torch.no_grad(), record(model, dense) as taps:
        logits = unwrap_output(taps.run(prepare_images(model, example[:1])))
        return next(
            (n for n in reversed(dense) if n in taps and torch.equal(taps[n], logits)), None
        )


def gradient_ascent(
    model: nn.Module,
    layer: str,
    units: Sequence[int] | None,
    *,
    size: int | tuple[int, int],
    channels: int,
    steps: int,
    step_size: float,
    seed: int,
    batch: int | None = None,
    noise: float = 0.01,
    smoothing: float = 0.0,
    colours: bool = False,
    jitter: int = 0,
    zoom: float = 0.0,
    rotation: float = 0.0,
    signs: Sequence[int] | None = None,
    proceed: Callable[[], int] | None = None,
) -> FilterPictures:
    """Find images that maximise single units of a layer, by gradient ascent from grey.

    The objective is the mean of the unit's channel in the layer's output over all positions: of
    tokens, over all patches, without class token and registers. Name the
    convolution or dense layer itself, not the activation after it: half of the units are inactive
    on grey, and an inactive unit has no gradient through a ReLU. In each step the gradient is
    scaled to a root mean square of one, the image moves by ``step_size`` times that and is clipped
    to [0, 1]. The forward pass stops at the layer, on a canvas that is not much larger than the
    unit's receptive field.

    ``**get_recipe("robust")`` sets ``smoothing``, ``colours``, ``jitter``, ``zoom`` and
    ``rotation`` to useful values. ``smoothing`` and ``colours`` take the gradient in the
    frequencies and colours of natural images, which suppresses high-frequency noise. ``jitter``,
    ``zoom`` and ``rotation`` suppress patterns that work only in one exact position: C. Olah, A.
    Mordvintsev, L. Schubert, *Feature Visualization*, Distill 2017,
    https://distill.pub/2017/feature-visualization. Plain ascent: D. Erhan et al., *Visualizing
    Higher-Layer Features of a Deep Network*, 2009.

    A unit's image depends on ``seed`` and its channel number, but not on the other units (up to
    rounding). The global random state and the network stay as they were.

    Args:
        model: the network.
        layer: path of a layer with maps ``(B, U, h, w)``, tokens or features ``(B, U)``.
        units: channel numbers; None for all.
        size: side, or ``(H, W)``, of the network's input images: the largest canvas.
        channels: number of the network's input channels.
        steps: number of steps.
        step_size: root mean square of a pixel's change in one step.
        seed: seed of the noise and the moves.
        batch: maximum number of images in a batch; None for all. See ``choose_batch``.
        noise: standard deviation of the initial noise around grey.
        smoothing: exponent ``p``: the gradient's frequencies ``f`` are weighted by ``f ** -p``;
            0 is off, 1 gives patterns instead of noise.
        colours: weight the colours by how they vary in natural images (three channels only).
        jitter: largest number of pixels by which the image is rolled before each step, and back
            after it.
        zoom: below 1. In each step the network sees the image scaled by a factor drawn uniformly
            from [1 - zoom, 1 + zoom].
        rotation: largest angle, in degrees, by which the image is rotated in each step; the corners
            are filled by reflection.
        signs: 1 for each unit, or -1 to lower its output instead (the other class of a one-logit
            network); None for 1 everywhere.
        proceed: how many steps may begin before it is asked again; 0 or False ends the ascent, and
            True is one step. It is asked after the very first step and before each later batch,
            when the device has done all that it was told. The images are then what they are after
            the steps taken, and units whose batch was not begun are missing. None to take all
            steps, without waiting for the device.

    Raises:
        UserError: if the layer is unknown, or does not have one of the units.
    """

    def may_proceed() -> int:
        if proceed is None:
            return steps
        wait_for(example.device)
        return proceed()

    example = _make_grey(model, size, channels)
    with explaining(model), record(model, [layer], example=example) as taps:
        units, canvas = _prepare(model, taps, layer, units, example)
        start = draw_noise(units, (channels, *canvas), noise, seed).to(example)
        ascent = Ascent(
            taps,
            layer,
            step_size,
            draw_moves(steps, jitter, zoom, rotation, seed),
            build_preconditioner(example.new_zeros(channels, *canvas), smoothing, colours),
            may_proceed,
        )
        start = (start + 0.5).clamp(0, 1)
        unit_signs = example.new_tensor(check_signs(signs, units))
        channel = torch.tensor(units, device=example.device)
        results: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        batch = choose_batch(len(units), canvas, example.device.type, batch)
        for part in chunks(len(units), batch):
            allowed = may_proceed() if results else 1
            if not allowed:
                break
            results.append(ascent(start[part], channel[part], unit_signs[part], allowed))
    images, values, stuck, taken = (torch.cat(pieces) for pieces in zip(*results, strict=True))
    return FilterPictures(images, values, stuck, tuple(units[: len(images)]), taken)


def choose_batch(units: int, canvas: tuple[int, int], device: str, limit: int | None = None) -> int:
    """Return how many images gradient ascent takes in a batch.

    An accelerator takes all units of a layer at once. A CPU takes as many as its cache holds, the
    same number on any CPU, so that the images are the same bits.

    Args:
        units: number of images.
        canvas: ``(h, w)`` of an image.
        device: type of the device, such as ``cpu`` or ``cuda``.
        limit: maximum number of images in a batch, for what memory allows; None for no limit.

    >>> choose_batch(64, (150, 150), "cuda"), choose_batch(64, (150, 150), "cuda", 16)
    (64, 16)
    >>> choose_batch(64, (32, 32), "cpu"), choose_batch(64, (300, 300), "cpu")
    (32, 1)
    """
    most = units if limit is None else min(units, limit)
    return most if device != "cpu" else min(most, max(1, _CPU_PIXELS // (canvas[0] * canvas[1])))


def _make_grey(model: nn.Module, size: int | tuple[int, int], channels: int) -> Tensor:
    """Return a grey image of the largest canvas, ``(1, C, H, W)``."""
    height, width = (size, size) if isinstance(size, int) else size
    device, dtype = device_of(model), dtype_of(model)
    return torch.full((1, channels, height, width), 0.5, dtype=dtype, device=device)


def estimate_step_seconds(
    model: nn.Module,
    layer: str,
    units: int,
    *,
    size: int | tuple[int, int],
    channels: int,
    batch: int | None = None,
) -> float:
    """Estimate the seconds of a step of ``gradient_ascent`` for one unit, from one timed pass.

    A step costs as much as two and a half forward passes (measured on VGG16: 1.9 to 3.4).

    Args:
        model: the network.
        layer: as for ``convlens.explain.gradient_ascent``.
        units: number of images; the pass is timed for one batch of them.
        size: as for ``convlens.explain.gradient_ascent``.
        channels: as for ``convlens.explain.gradient_ascent``.
        batch: as for ``convlens.explain.gradient_ascent``.

    Raises:
        UserError: if the layer is unknown.
    """
    example = _make_grey(model, size, channels)
    with explaining(model), torch.no_grad(), record(model, [layer], example=example) as taps:
        _, canvas = _prepare(model, taps, layer, None, example)
        count = choose_batch(units, canvas, example.device.type, batch)
        images = example[..., : canvas[0], : canvas[1]].repeat(count, 1, 1, 1)
        taps.run(images)  # warms up
        wait_for(example.device)
        start = time.perf_counter()
        taps.run(images)
        wait_for(example.device)
    return 2.5 * (time.perf_counter() - start) / count


def _prepare(
    model: nn.Module, taps: Taps, layer: str, units: Sequence[int] | None, example: Tensor
) -> tuple[list[int], tuple[int, int]]:
    """Return the checked units, and the size ``(h, w)`` of the canvas for their images."""
    count = taps.channels_first(layer).shape[1]
    by_module = _CANVASES.setdefault(model, WeakKeyDictionary())
    known = by_module.setdefault(find_module(model, layer), {})
    if example.shape not in known:
        with torch.no_grad():
            probe = find_probe(taps, layer, example)
            known[example.shape] = probe.canvas if probe else image_size(example)
    return check_units(layer, units, count), known[example.shape]


def check_units(layer: str, units: Sequence[int] | None, known: int) -> list[int]:
    """Return the units as a list; None means all ``known`` units.

    Raises:
        UserError: if the layer does not have one of the units, or no unit is given.
    """
    units = list(range(known)) if units is None else [int(unit) for unit in units]
    if wrong := [unit for unit in units if not 0 <= unit < known]:
        raise UserError(f"layer {layer!r} has units 0 to {known - 1}, not {wrong[0]}")
    if not units:
        raise UserError(f"no units of layer {layer!r} given: choose from 0 to {known - 1}")
    return units


def check_signs(signs: Sequence[int] | None, units: Sequence[int]) -> list[int]:
    """Return 1 or -1 for each unit.

    Raises:
        ValueError: for any other value, or another number of signs.
    """
    signs = [1] * len(units) if signs is None else list(signs)
    if len(signs) != len(units) or any(sign not in (1, -1) for sign in signs):
        raise ValueError(f"signs must be 1 or -1 for each of {len(units)} units, got {signs}")
    return signs
