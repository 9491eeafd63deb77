"""What a filter looks for: its kernel, and the picture that excites it most.

Shapes: ``C`` channels, ``H W`` height and width, ``U`` units (channels of a layer) asked for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.explain.ascent import Climb, build_preconditioner, draw_moves, draw_start
from convlens.explain.layouts import find_module
from convlens.explain.mode import (
    chunks,
    device_of,
    dtype_of,
    explaining,
    fit_batch_to_cache,
    prepare_images,
)
from convlens.explain.receptive import find_probe
from convlens.explain.taps import Taps, record

# On a CPU pictures of more than so many pixels together climb slower than in smaller batches: what
# a layer leaves for the next no longer stays in the processor's cache (VGG16: 128 × 128 twice).
_CPU_PIXELS = 2**15

# Ready-made arguments of gradient_ascent. Jitter, zoom and rotation are Olah et al.'s, of a size
# that small canvases bear.
RECIPES = {
    "plain": {"smoothing": 0.0, "colours": False, "jitter": 0, "zoom": 0.0, "rotation": 0.0},
    "robust": {"smoothing": 1.0, "colours": True, "jitter": 2, "zoom": 0.1, "rotation": 5.0},
}


@dataclass(frozen=True, eq=False)
class FilterPictures:
    """Pictures that excite ``U`` units of one layer.

    Attributes:
        images: ``(U, C, h, w)`` in [0, 1], as large as the canvas.
        activations: ``(U,)`` mean of each unit's output over its own picture, as the layer gives
            it (low for a unit with sign -1).
        stuck: ``(U,)`` bool: the gradient was zero (or not finite) at every step, the picture
            is the noise it started from and shows nothing about the unit.
        units: the channel numbers, in the order of the pictures.
    """

    images: Tensor
    activations: Tensor
    stuck: Tensor
    units: tuple[int, ...]


def kernels(module: nn.Module) -> Tensor:
    """The kernels of a convolution as they are: ``(O, I, kh, kw)``, fp32, a copy.

    ``I`` is the number of input channels one kernel sees (input channels / groups).

    Raises:
        UserError: the module is not a two-dimensional convolution.
    """
    if not isinstance(module, nn.Conv2d):
        raise UserError(f"{type(module).__name__} has no kernels to show: choose a convolution")
    return module.weight.detach().to(torch.float32, copy=True)


def to_display(images: Tensor, *, mean: float = 0.5, spread: float = 0.2) -> Tensor:
    """Each picture brought to one brightness and contrast, for the eye: ``(N, C, H, W)`` in [0, 1].

    Args:
        images: ``(N, C, H, W)``, any range; kernels too.
        mean: brightness every picture gets.
        spread: its standard deviation; what lies beyond [0, 1] then is clipped.
    """
    dims = (1, 2, 3)
    centred = images - images.mean(dims, keepdim=True)
    deviation = centred.square().mean(dims, keepdim=True).sqrt()
    flat = deviation <= 1e-6
    scaled = torch.where(flat, torch.zeros_like(centred), centred / deviation.clamp_min(1e-12))
    return (scaled * spread + mean).clamp(0, 1)


def get_recipe(name: str) -> dict[str, Any]:
    """The arguments of :func:`gradient_ascent` that ``name`` stands for, a copy.

    ``plain`` is Erhan et al.'s ascent on pixels; ``robust`` climbs in the frequencies and colours
    of natural pictures, and finds what also excites when it is shifted, scaled and turned a little.

    Raises:
        UserError: neither of them.
    """
    if name not in RECIPES:
        raise UserError(f"no recipe {name!r} of filter pictures: {nearest(str(name), RECIPES)}")
    return dict(RECIPES[name])


def find_logits_layer(model: nn.Module, layers: Sequence[str], example: Tensor) -> str | None:
    """Which of the dense ``layers`` gives the network's output itself; None if none does.

    Args:
        layers: module paths; those that are not dense are passed over.
        example: ``(1, C, H, W)`` picture for one forward pass.

    Raises:
        UserError: a layer the network does not have.
    """
    dense = [name for name in layers if isinstance(find_module(model, name), nn.Linear)]
    with explaining(model), torch.no_grad(), record(model, dense) as taps:
        logits = taps.run(prepare_images(model, example[:1]))
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
) -> FilterPictures:
    """Pictures that maximise single units of a layer, by gradient ascent from grey.

    Picture ``u`` climbs the mean over space of channel ``u`` of the layer's output. Name the
    convolution or dense layer itself, not the activation behind it: half of the units are silent on
    grey, and through a ReLU a silent unit has no gradient. Each picture's gradient is brought to a
    root mean square of one, and the picture moves by ``step_size`` times that and is clipped to
    [0, 1], what the network takes. The forward pass stops at the layer, on a canvas not much larger
    than a unit sees.

    ``**get_recipe("robust")`` gives ``smoothing`` to ``rotation`` values that serve. With
    ``smoothing`` and ``colours`` the gradient is taken in the frequencies and colours of natural
    pictures, which keeps high-frequency noise from winning; with ``jitter``, ``zoom`` and
    ``rotation`` nothing wins that a small movement undoes: C. Olah, A. Mordvintsev,
    L. Schubert, *Feature Visualization*, Distill 2017,
    https://distill.pub/2017/feature-visualization. Plain ascent: D. Erhan et al., *Visualizing
    Higher-Layer Features of a Deep Network*, 2009.

    A unit's picture depends on ``seed`` and its own number, not on the other units asked for (up
    to rounding). No global random number is drawn, and the network stays as it is.

    Args:
        layer: path of a layer with output ``(B, U, h, w)`` or ``(B, U)``.
        units: channel numbers; None for all.
        size: side, or ``(H, W)``, of the pictures the network takes: the largest canvas.
        channels: colour channels the network takes.
        steps: of the ascent.
        step_size: mean change of a pixel in a step.
        seed: of the noise and the jitter.
        batch: pictures climbing at once, at most; None for all. On a CPU large ones climb in
            smaller batches, which is faster.
        noise: standard deviation of the start around grey.
        smoothing: exponent ``p``: the gradient's frequencies ``f`` are weighted by ``f ** -p``;
            0 is off, 1 gives patterns instead of noise.
        colours: decorrelate colours as natural pictures have them (three channels only).
        jitter: the picture is rolled by up to so many pixels before each step, and back after it.
        zoom: in each step the network sees the picture scaled by a factor drawn evenly from
            [1 - zoom, 1 + zoom], below 1.
        rotation: and turned by up to so many degrees; what turns in is the picture mirrored.
        signs: for each unit 1, or -1 to lower its output instead (the other class of a one-logit
            network); None: all 1.

    Raises:
        UserError: an unknown layer, or a unit the layer does not have.
    """
    picture = _grey(model, size, channels)
    with explaining(model), record(model, [layer], example=picture) as taps:
        units, canvas = _prepare(taps, layer, units, picture)
        start = draw_start(units, (channels, *canvas), noise, seed).to(picture)
        climb = Climb(
            taps,
            layer,
            step_size,
            draw_moves(steps, jitter, zoom, rotation, seed),
            build_preconditioner(picture.new_zeros(channels, *canvas), smoothing, colours),
        )
        start = (start + 0.5).clamp(0, 1)
        signs = picture.new_tensor(checked_signs(signs, units))
        batch = fit_batch_to_cache(batch or len(units), start, _CPU_PIXELS)
        done = [climb(start[part], units[part], signs[part]) for part in chunks(len(units), batch)]
    images, values, stuck = (torch.cat(pieces) for pieces in zip(*done, strict=True))
    return FilterPictures(images, values, stuck, tuple(units))


def _grey(model: nn.Module, size: int | tuple[int, int], channels: int) -> Tensor:
    """``(1, C, H, W)``: a picture of the largest canvas."""
    height, width = (size, size) if isinstance(size, int) else size
    device, dtype = device_of(model), dtype_of(model)
    return torch.full((1, channels, height, width), 0.5, dtype=dtype, device=device)


class AscentCost(NamedTuple):
    """What a layer's pictures will take: ``units`` of them climb at once, in ``seconds``."""

    seconds: float
    units: int

    def count_affordable(self, seconds: float) -> int:
        """How many pictures ``seconds`` suffice for: whole batches."""
        return int(seconds // self.seconds) * self.units


def estimate_ascent_cost(
    model: nn.Module,
    layer: str,
    units: int,
    *,
    size: int | tuple[int, int],
    channels: int,
    steps: int,
    batch: int | None = None,
) -> AscentCost:
    """What :func:`gradient_ascent` will take on this machine, from one timed forward pass.

    A step costs two and a half passes (measured on VGG16: 1.9 to 3.4). Some seconds of an early
    estimate are worth more than minutes found out afterwards.

    Args:
        units: how many pictures are wanted.
        size, channels, steps, batch: as for :func:`gradient_ascent`.

    Raises:
        UserError: an unknown layer.
    """
    picture = _grey(model, size, channels)
    with explaining(model), torch.no_grad(), record(model, [layer], example=picture) as taps:
        _, canvas = _prepare(taps, layer, None, picture)
        pictures = picture[..., : canvas[0], : canvas[1]]
        at_once = min(units, fit_batch_to_cache(batch or units, pictures, _CPU_PIXELS))
        pictures = pictures.repeat(at_once, 1, 1, 1)
        taps.run(pictures)  # warms up
        began = time.perf_counter()
        taps.run(pictures)
        if picture.device.type == "cuda":
            torch.cuda.synchronize(picture.device)
    return AscentCost(2.5 * (steps + 1) * (time.perf_counter() - began), at_once)


def _prepare(
    taps: Taps, layer: str, units: Sequence[int] | None, picture: Tensor
) -> tuple[list[int], tuple[int, int]]:
    """The units asked for, checked, and the canvas ``(h, w)`` they are painted on."""
    with torch.no_grad():
        probe = find_probe(taps, layer, picture)
    canvas = probe.canvas if probe else tuple(picture.shape[-2:])
    return checked_units(layer, units, taps.channels_first(layer).shape[1]), canvas


def checked_units(layer: str, units: Sequence[int] | None, known: int) -> list[int]:
    """The units asked for, None for all ``known`` of them; a UserError where there is no such."""
    units = list(range(known)) if units is None else [int(unit) for unit in units]
    if wrong := [unit for unit in units if not 0 <= unit < known]:
        raise UserError(f"layer {layer!r} has units 0 to {known - 1}, not {wrong[0]}")
    if not units:
        raise UserError(f"no unit of layer {layer!r} is requested; name some of 0 to {known - 1}")
    return units


def checked_signs(signs: Sequence[int] | None, units: Sequence[int]) -> list[int]:
    """1 or -1 for each unit; a ValueError for anything else."""
    signs = [1] * len(units) if signs is None else list(signs)
    if len(signs) != len(units) or any(sign not in (1, -1) for sign in signs):
        raise ValueError(f"signs are 1 or -1 for each of {len(units)} units, not {signs}")
    return signs
