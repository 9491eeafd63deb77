"""Natural-looking grounds of the drawn images: meadow, sand, sea, wood and others.

Legend: H = W = size in pixels. Colours are in 0..1.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

# A ground: its colours from dark to light, how fast fine detail fades (spectral slope), how
# elongated the grain is, and the grain's direction (radians; None = any).
_GROUNDS = (
    ("1f3314 35561f 4f7a2b 7fa043 b7c468", 1.3, 3.0, math.pi / 2),  # meadow
    ("1d2018 3a3b22 5b5a2f 7d6f3c a08a55", 1.3, 1.0, None),  # forest floor
    ("3a1d10 6b3415 a3561d c98a2e e0b85a", 1.5, 1.0, None),  # autumn leaves
    ("8a7452 b3986b cdb58a dfcda6 efe3c6", 1.4, 1.6, None),  # sand
    ("0d2f45 17506b 2b7a92 63a9b5 b5d8d6", 1.7, 4.0, 0.0),  # sea
    ("3f78b5 6fa0d0 9fc3e2 d2e3ef f7f8f6", 2.1, 1.8, 0.0),  # sky with clouds
    ("2e3033 55585b 7d7f80 a5a5a1 cbc9c2", 1.5, 1.0, None),  # stone
    ("2a1a12 4b3122 6f4d36 957153 b89a7a", 1.5, 7.0, None),  # wood
    ("8fa3b5 b4c4d1 d3dde4 e9eef1 fbfcfc", 1.9, 1.2, None),  # snow
    ("2f2a3d 554468 82648f b08fb0 d8c3cf", 1.4, 1.5, None),  # heather
    ("2b2a4a 5b4468 a8626f e29a72 f6d29a", 2.1, 3.5, 0.0),  # dusk
)


@lru_cache(maxsize=len(_GROUNDS))
def build_ramp(ground: int) -> np.ndarray:
    """Return a colour table (1024, 3) through the colours of a ground, dark to light."""
    stops = np.array([list(bytes.fromhex(code)) for code in _GROUNDS[ground][0].split()]) / 255
    at = np.linspace(0, len(stops) - 1, 1024)
    return np.stack([np.interp(at, np.arange(len(stops)), stop) for stop in stops.T], axis=1)


def draw_noise(rng, size: int, slope: float, stretch: float = 1, angle: float = 0) -> np.ndarray:
    """Return noise (H, W), spectrum 1/f**slope, elongated along ``angle``, standard deviation 1."""
    fy, fx = np.fft.fftfreq(size, 1 / size)[:, None], np.fft.rfftfreq(size, 1 / size)
    along = (fx * math.cos(angle) + fy * math.sin(angle)) * stretch
    across = fy * math.cos(angle) - fx * math.sin(angle)
    spectrum = rng.standard_normal((2, size, len(fx)))
    spectrum /= (1 + along * along + across * across) ** (slope / 2)
    spectrum[:, 0, 0] = 0
    field = np.fft.irfft2(spectrum[0] + 1j * spectrum[1], (size, size))
    return field / field.std()


def _draw_ground(rng, size: int) -> np.ndarray:
    """Return a natural surface (H, W, 3)."""
    kind = rng.integers(len(_GROUNDS))
    _, slope, stretch, angle = _GROUNDS[kind]
    grain = rng.uniform(0, math.pi) if angle is None else angle
    tone = draw_noise(rng, size, slope, stretch, grain) * rng.uniform(0.08, 0.18)
    tone += rng.uniform(0.35, 0.65)
    return build_ramp(kind)[np.clip(tone * 1023, 0, 1023).astype(np.intp)]


def draw_background(rng, size: int) -> np.ndarray:
    """Return a ground (H, W, 3), or two with a ragged border: shore, horizon, edge of a path."""
    image = _draw_ground(rng, size)
    if rng.random() < 0.4:
        angle, place = rng.uniform(0, 2 * math.pi), rng.uniform(-0.25, 0.25)
        x = (np.arange(size) + 0.5) / size - 0.5
        border = x * math.cos(angle) + x[:, None] * math.sin(angle) - place
        border += 0.05 * draw_noise(rng, size, 1.8)
        image += (_draw_ground(rng, size) - image) * np.clip(0.5 + border * 25, 0, 1)[..., None]
    return image
