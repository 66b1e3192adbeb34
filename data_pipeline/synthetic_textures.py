"""Procedural textures: noise, stripes, checks, blobs, rings and gradients in strong colours."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from numpy.random import Generator

NUM_FAMILIES = 6
"""Kinds of pattern that `texture` knows."""


def palette(rng: Generator, hue: float | None = None) -> Float[ndarray, "3 3"]:
    """Three RGB colours: one strong hue, a shade of it, and a contrasting accent."""
    hue = rng.uniform(0, 180) if hue is None else hue
    hues = np.array([hue, hue + rng.uniform(-12, 12), hue + rng.uniform(50, 130)]) % 180
    saturation = rng.uniform([120, 80, 60], [255, 230, 255])
    value = rng.uniform([150, 40, 90], [250, 130, 255])
    hsv = np.stack([hues, saturation, value], axis=1).astype(np.uint8)[None]
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0].astype(np.float64)


def octaves(rng: Generator, height: int, width: int, coarsest: int) -> Float[ndarray, "h w"]:
    """Noise summed over octaves, within [0, 1]; ``coarsest`` cells along the width at first."""
    field = np.zeros((height, width), np.float32)
    for octave in range(4):
        cells = coarsest * 2**octave
        grid = rng.random((max(2, cells * height // width), cells), dtype=np.float32)
        field += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.55**octave
    low, high = np.percentile(field, (2, 98))
    return np.clip((field - low) / max(high - low, 1e-6), 0, 1)


def pattern(rng: Generator, height: int, width: int, family: int, scale: float) -> ndarray:
    """A field in [0, 1]: noise, stripes, checks, blobs, rings or a gradient."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32) / width
    angle = rng.uniform(0, np.pi)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    waves = rng.uniform(2.0, 5.0) * scale
    wobble = 0.12 / scale * octaves(rng, height, width, max(2, int(2 * scale)))
    if family == 0:
        return octaves(rng, height, width, max(2, int(3 * scale)))
    if family == 1:
        return 0.5 + 0.5 * np.tanh(4 * np.sin(2 * np.pi * waves * (along + wobble)))
    if family == 2:
        checks = np.sin(2 * np.pi * waves * (along + wobble)) * np.sin(2 * np.pi * waves * across)
        return 0.5 + 0.5 * np.tanh(8 * checks)
    if family == 3:
        return 1 / (1 + np.exp(-18 * (octaves(rng, height, width, max(3, int(4 * scale))) - 0.55)))
    if family == 4:
        distance = np.hypot(columns - rng.uniform(0.2, 0.8), rows - rng.uniform(0.1, 0.6))
        return 0.5 + 0.5 * np.sin(2 * np.pi * waves * (distance + wobble))
    return np.clip(0.5 + along - along.mean() + 2 * wobble - 0.1, 0, 1)


def texture(
    rng: Generator,
    height: int,
    width: int,
    colors: Float[ndarray, "3 3"],
    family: int,
    scale: float = 1.0,
) -> UInt8[ndarray, "height width 3"]:
    """A texture in three colours: a pattern between two of them, patches of the third, grain."""
    blend = pattern(rng, height, width, family, scale)[..., None]
    accent = pattern(rng, height, width, int(rng.integers(NUM_FAMILIES)), 0.7 * scale)[..., None]
    accent = np.clip(3 * accent - 2.1, 0, 1)
    grain = 0.75 + 0.5 * octaves(rng, height, width, max(4, int(10 * scale)))[..., None]
    color = colors[0] * (1 - blend) + colors[1] * blend
    color = (color * (1 - accent) + colors[2] * accent) * grain
    return np.clip(color, 0, 255).astype(np.uint8)
