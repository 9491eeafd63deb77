"""Shapes: the embedded data set, procedural images with a mask of the object in each.

One or two objects (disc, triangle, square, ...) of random colour, texture, size, angle and position
are on a natural-looking ground among leaves, twigs, pebbles and shards. Everything is drawn from
signed distances, which give smooth edges, relief, shadows and masks at any image size.

Legend: N images, H = W = size in pixels, C channels; (h, w) is the window in which a thing is
drawn. Lengths are in image widths, colours in 0..1. Arithmetic is float64, because sines and
exponentials differ between processors in their last bit and the images must not.
"""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue

import numpy as np

from convlens.data.index.generators import make_generator
from convlens.data.sources.grounds import build_ramp, draw_background, draw_noise
from convlens.data.sources.outlines import CLASS_NAMES, OUTLINES, outline_litter

VERSION = 1  # of the drawing: raise it when the images of a seed change, to rebuild caches
SIZES = (16, 256)  # smallest and largest image, pixels
_REACH = (0.25, 0.36)  # half the extent of an object
_REACH_OF_TWO = (0.17, 0.23)  # the same if there are two objects
_CONTRAST = 0.38  # least contrast between an object and the ground below it
_LITTER = (4, 8)  # fewest and most distractors
_CHUNK = 100  # images that a child process draws at a time
_WORTH_CHILDREN = 500 * 64 * 64  # pixels: threshold above which starting children pays
_LUMA = np.array([0.299, 0.587, 0.114])

# Distractors, too elongated or broken to pass for objects, and the grounds they come from.
_CLUTTER = {"twig": (7, 7, 1), "leaf": (0, 1, 2, 2), "pebble": (3, 6), "shard": (3, 4, 9, 10)}


def _find_window(size: int, x: float, y: float, reach: float, angle: float):
    """Return the slices within ``reach`` of (x, y), and u, v there: offsets rotated by angle."""
    edges = [(math.floor((at - reach) * size), math.ceil((at + reach) * size)) for at in (y, x)]
    spans = tuple(slice(max(0, low), min(size, high)) for low, high in edges)
    rows, columns = ((np.arange(span.start, span.stop) + 0.5) / size for span in spans)
    down, right = (rows - y)[:, None], columns - x
    cosine, sine = math.cos(angle), math.sin(angle)
    return spans, right * cosine + down * sine, down * cosine - right * sine


def _paint(region: np.ndarray, distance: np.ndarray, colour: np.ndarray, size: int, relief, lift):
    """Paint a thing and its shadow into ``region`` (h, w, 3); return its cover (h, w) in 0..1.

    Light comes from the upper left: edges that face it gain the fraction ``relief``; the shadow
    falls ``lift`` to the lower right.
    """
    cover = np.clip(0.5 - distance * size, 0, 1)
    step = max(1, round(lift * size))
    shadow = 0.45 * np.clip(0.5 - distance[:-step, :-step] / (1.5 * lift), 0, 1)
    region[step:, step:] *= 1 - shadow[..., None]
    light = np.ones_like(distance)
    facing = (distance[:-1, :-1] - distance[1:, 1:]) * size
    light[1:, 1:] += relief * facing * np.clip(1 + distance[1:, 1:] / 0.05, 0, 1)
    region += (colour * light[..., None] - region) * cover[..., None]
    return cover


def _draw_litter(rng, image: np.ndarray, x: float, y: float, length: float, kind: str):
    """Draw a distractor at (x, y) of ``image``; return its slices and its cover there."""
    size, grounds = len(image), _CLUTTER[kind]
    spans, u, v = _find_window(size, x, y, 0.6 * length + 2 / size, rng.uniform(0, 2 * math.pi))
    distance = outline_litter(kind, u, v, length, rng.random())
    colour = build_ramp(grounds[rng.integers(len(grounds))])[rng.integers(150, 920)]
    # Light the halves differently: the midrib of a leaf, the curvature of a stone.
    colour = colour * (1 + 0.2 * np.clip(v * (25 / length), -1, 1))[..., None]
    return spans, _paint(image[spans], distance, colour, size, 0.12, 0.01)


def _choose_colours(rng, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two colours (3,) for an object, both lighter or both darker than ``ground``."""
    candidates = rng.random((16, 3))
    apart = candidates - ground
    lighter = apart @ _LUMA
    contrast = np.abs(lighter) + 0.5 * np.sqrt((apart * apart).mean(axis=1))
    good = np.flatnonzero(contrast >= min(_CONTRAST, contrast.max()))
    # One lighter and one darker, mixed by the texture, would blend into the ground.
    alike = good[np.sign(lighter[good]) == np.sign(lighter[good[0]])]
    return candidates[alike[0]], candidates[alike[-1]]


def _draw_texture(rng, u: np.ndarray, v: np.ndarray, first, second) -> np.ndarray:
    """Return an object's skin (h, w, 3): plain, striped, dotted, checked, shaded or mottled."""
    kind, pitch, turn = rng.integers(6), rng.uniform(4, 7), rng.uniform(0, math.pi)
    p, q = u * math.cos(turn) + v * math.sin(turn), v * math.cos(turn) - u * math.sin(turn)
    cells = tuple(np.clip(w * 12 + 16, 0, 31).astype(np.intp) for w in (p, q))
    mix = (
        lambda: np.zeros_like(p),
        lambda: 0.5 + 1.5 * np.sin(1.5 * pitch * p),
        lambda: 2.5 * np.cos(pitch * p) * np.cos(pitch * q) - 0.6,
        lambda: 0.5 + 3 * np.sin(pitch * p) * np.sin(pitch * q),
        lambda: 0.5 + 0.6 * p,
        lambda: 0.4 + 0.35 * draw_noise(rng, 32, 1.4)[cells],
    )[kind]()
    return first + (second - first) * np.clip(mix, 0, 1)[..., None]


def _draw_object(rng, image: np.ndarray, name: str, place=None, earlier=()) -> np.ndarray:
    """Draw the object ``name`` inside ``image``; return how visible it is, (H, W) in 0..1.

    Args:
        rng: the generator of the image.
        image: (H, W, 3), changed in place.
        name: of the class.
        place: half the extent, x and y of the object; None to draw them.
        earlier: how visible other objects are; changed where this one and its twigs cover them.
    """
    size, reach = len(image), rng.uniform(*_REACH) if place is None else place[0]
    squeeze = rng.uniform(0.85, 1, size=2)
    x, y = _draw_position(rng, reach) if place is None else place[1:]
    spans, u, v = _find_window(size, x, y, reach * 1.25 + 2 / size, rng.uniform(0, 2 * math.pi))
    u, v = u / (reach * squeeze[0]), v / (reach * squeeze[1])
    distance = OUTLINES[name](u, v) * (reach * squeeze.min())
    skin = _draw_texture(rng, u, v, *_choose_colours(rng, image[spans].mean(axis=(0, 1))))
    visible = np.zeros((size, size))
    visible[spans] = _paint(image[spans], distance, skin, size, 0.3, 0.025)
    for other in earlier:
        other *= 1 - visible
    # Up to two twigs may cross it, as grass and branches do in photographs.
    for _ in range(rng.integers(3)):
        at = rng.uniform((x - reach, y - reach), (x + reach, y + reach))
        where, cover = _draw_litter(rng, image, *at, rng.uniform(0.15, 0.3), "twig")
        for each in (visible, *earlier):
            each[where] *= 1 - cover
    return visible


def _draw_position(rng, reach: float) -> np.ndarray:
    """Return x and y of an object that is inside the image."""
    return rng.uniform(1.06 * reach + 0.01, 0.99 - 1.06 * reach, size=2)


def _draw_two(rng, image: np.ndarray, classes: tuple[int, int]) -> np.ndarray:
    """Draw two objects that do not touch; return (H, W) uint8, 1 + the class at a pixel, or 0."""
    reaches = rng.uniform(*_REACH_OF_TWO, size=2)
    first, second = (_draw_position(rng, reach) for reach in reaches)
    while math.dist(first, second) < 1.06 * reaches.sum() + 0.02:
        first, second = (_draw_position(rng, reach) for reach in reaches)
    drawn: list[np.ndarray] = []
    for number, reach, place in zip(classes, reaches, (first, second), strict=True):
        drawn.append(_draw_object(rng, image, CLASS_NAMES[number], (reach, *place), drawn))
    objects = np.zeros(image.shape[:2], np.uint8)
    for number, visible in zip(classes, drawn, strict=True):
        objects[visible >= 0.5] = 1 + number
    return objects


def _choose_two(index: int, classes: int, seed: int, stream: int) -> tuple[int, int]:
    """Return the two different classes of an image."""
    first = index % classes
    step = 1 + int(make_generator(seed, stream, index, 3).integers(classes - 1))
    return first, (first + step) % classes


def _draw_one(
    index: int, size: int, channels: int, classes: int, seed: int, stream: int, objects: int
):
    """Return image ``index`` of a stream, (H, W, C) uint8, and its mask, (H, W) bool.

    With two objects, the second result is uint8: 1 + the class at each pixel, or 0.
    """
    rng = make_generator(seed, stream, index)
    image = draw_background(rng, size)
    for _ in range(rng.integers(*_LITTER, endpoint=True)):
        kind = list(_CLUTTER)[rng.integers(len(_CLUTTER))]
        _draw_litter(rng, image, *rng.random(2), rng.uniform(0.1, 0.26), kind)
    if objects == 1:
        mask = _draw_object(rng, image, CLASS_NAMES[index % classes]) >= 0.5
    else:
        mask = _draw_two(rng, image, _choose_two(index, classes, seed, stream))
    image *= rng.uniform(0.88, 1.12)  # exposure, then the grain of a sensor
    image += rng.normal(0, rng.uniform(0.003, 0.02), size=(size, size, 1))
    if channels == 1:
        image = (image @ _LUMA)[..., None]
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), mask


def draw_shapes(
    count: int, *, size: int, channels: int, classes: int, seed: int, stream: int, objects: int
) -> dict[str, np.ndarray]:
    """Draw ``count`` images, in about two milliseconds each at 64 pixels on one core.

    Image i has class ``i % classes`` and is a pure function of (seed, stream, i, size, channels,
    classes, objects): the number of images and of processes changes nothing. Small sets are drawn
    in this process, large ones on all cores.

    Args:
        count: number of images, at least 1.
        size: height and width in pixels, within ``SIZES``.
        channels: 3 for colour, 1 for grey (the luma of the same image).
        classes: number of classes, the first ones of ``CLASS_NAMES``, 2 to 12.
        seed: any whole number from 0.
        stream: separates drawings of one seed: 0 training, 1 validation, 2 test.
        objects: 1, or 2 of different classes.

    Returns:
        ``images`` (N, H, W, C) uint8; ``labels`` (N,) int64, indices into ``CLASS_NAMES``;
        ``masks`` (N, H, W) bool, True on the pixels where an object is visible. With two objects
        also ``present`` (N, K) bool, the classes of each image, and ``objects`` (N, H, W) uint8,
        1 + the class of the object that is visible at a pixel, or 0.
    """
    workers = (os.cpu_count() or 1) if count * size * size >= _WORTH_CHILDREN else 1
    images = np.empty((count, size, size, channels), np.uint8)
    masks = np.empty(images.shape[:3], bool if objects == 1 else np.uint8)
    settings = (size, channels, classes, seed, stream, objects)
    jobs = [(at, min(at + _CHUNK, count), settings) for at in range(0, count, _CHUNK)]
    chunks = map(_draw_chunk, jobs) if workers <= 1 else _draw_in_children(workers, jobs)
    for (start, stop, _), chunk in zip(jobs, chunks, strict=True):
        images[start:stop], masks[start:stop] = chunk
    drawn = {"images": images, "labels": np.arange(count) % classes, "masks": masks > 0}
    if objects == 1:
        return drawn
    return drawn | {"present": list_classes(count, classes, seed, stream), "objects": masks}


def list_classes(count: int, classes: int, seed: int, stream: int) -> np.ndarray:
    """Return the classes of images with two objects, (N, K) bool; see ``draw_shapes``."""
    present = np.zeros((count, classes), bool)
    for index in range(count):
        present[index, list(_choose_two(index, classes, seed, stream))] = True
    return present


def _draw_chunk(job: tuple[int, int, tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Return images and masks start..stop-1 of ``job`` = (start, stop, settings)."""
    start, stop, settings = job
    images, masks = zip(*(_draw_one(index, *settings) for index in range(start, stop)), strict=True)
    return np.stack(images), np.stack(masks)


def _draw_in_children(workers: int, jobs: list[tuple]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ``_draw_chunk`` of each job, in order, from child processes that run this file.

    multiprocessing would import the caller's main module in each child, and with it torch, which
    takes seconds, or it would fork a process in which torch has threads running.
    """
    idle: SimpleQueue[subprocess.Popen] = SimpleQueue()

    def fetch(job: tuple) -> tuple[np.ndarray, np.ndarray]:
        child = idle.get()
        try:
            pickle.dump(job, child.stdin)
            child.stdin.flush()
            return pickle.load(child.stdout)
        finally:
            idle.put(child)  # even a dead one: the next job then fails instead of waiting

    # One thread of linear algebra per child: the children are the parallelism.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command, pipe = [sys.executable, "-P", __file__], subprocess.PIPE
    with ExitStack() as stack:
        for _ in range(min(workers, len(jobs))):
            child = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)
            idle.put(stack.enter_context(child))
        yield from stack.enter_context(ThreadPoolExecutor(idle.qsize())).map(fetch, jobs)


if __name__ == "__main__":  # in a child: read jobs, write drawn chunks, until the pipe closes
    while sys.stdin.buffer.peek(1):
        pickle.dump(_draw_chunk(pickle.load(sys.stdin.buffer)), sys.stdout.buffer)
        sys.stdout.buffer.flush()
