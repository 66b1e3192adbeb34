"""What moves in synthetic videos: looks, outlines that turn, grow and deform, look-alikes."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from numpy.random import Generator

from data_pipeline.synthetic_textures import NUM_FAMILIES, palette, texture

TEXTURE_SIDE_PX = 96
NUM_OUTLINE_POINTS = 48


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """What an object looks like at rest."""

    hue: float
    """OpenCV's half degrees, 0..180."""

    family: int
    """Kind of texture."""

    radii: Float[ndarray, "points"]
    """Radius of the outline at each angle."""

    drift: Float[ndarray, "points"]
    """How the radii change when the object deforms."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneObject:
    """One object: its surface and its outline in every frame."""

    surface: UInt8[ndarray, "side side 3"]
    """Its texture, in its own frame of reference."""

    outlines: Float[ndarray, "frames points 2"]
    """In the image, pixels."""

    surface_to_image: Float[ndarray, "frames 2 3"]
    """Affine map from the surface's pixels to the image's."""


def draw_look(rng: Generator) -> Look:
    """A random ellipse, rectangle, polygon, star or blob with a random surface."""
    angles = np.arange(NUM_OUTLINE_POINTS) * 2 * np.pi / NUM_OUTLINE_POINTS
    kind = rng.integers(5)
    if kind == 0:
        radii = np.ones_like(angles)
    elif kind == 1:
        radii = 1 / np.maximum(np.abs(np.cos(angles)), np.abs(np.sin(angles)))
    elif kind == 2:
        sector = 2 * np.pi / rng.integers(3, 7)
        radii = np.cos(sector / 2) / np.cos(angles % sector - sector / 2)
    elif kind == 3:
        radii = 1 + rng.uniform(0.2, 0.4) * np.cos(rng.integers(3, 7) * angles)
    else:
        orders, phases = np.arange(2, 6)[:, None], rng.uniform(0, 2 * np.pi, (4, 1))
        waves = rng.normal(0, 0.28, (4, 1)) / orders**0.5 * np.cos(orders * angles + phases)
        radii = np.maximum(1 + waves.sum(axis=0), 0.35)
    drift = 0.12 * np.cos(2 * angles + rng.uniform(0, 6)) + 0.08 * np.cos(3 * angles)
    family = int(rng.integers(NUM_FAMILIES))
    return Look(hue=float(rng.uniform(0, 180)), family=family, radii=radii, drift=drift)


def look_alike(rng: Generator, look: Look) -> Look:
    """A look that shares shape and texture (another colour), or the colour, or nothing."""
    other = draw_look(rng)
    far_hue = float((look.hue + rng.uniform(40, 140)) % 180)
    far_family = int((look.family + rng.integers(1, NUM_FAMILIES)) % NUM_FAMILIES)
    kind = rng.random()
    if kind < 0.45:
        return Look(hue=far_hue, family=look.family, radii=look.radii, drift=look.drift)
    if kind < 0.75:
        return Look(hue=look.hue, family=far_family, radii=other.radii, drift=other.drift)
    return Look(hue=far_hue, family=far_family, radii=other.radii, drift=other.drift)


def surface(rng: Generator, look: Look) -> UInt8[ndarray, "side side 3"]:
    return texture(rng, TEXTURE_SIDE_PX, TEXTURE_SIDE_PX, palette(rng, look.hue), look.family)


def wave(count: int, rng: Generator) -> Float[ndarray, "frames"]:
    """A smooth curve within [-1, 1]: the mean of three slow sines."""
    periods, phases = rng.uniform(50, 150, 3), rng.uniform(0, 2 * np.pi, 3)
    return np.sin(2 * np.pi * np.arange(count)[:, None] / periods + phases).mean(axis=1)


def rotations(angles: Float[ndarray, "frames"]) -> Float[ndarray, "frames 2 2"]:
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=-2)


def body(
    count: int, rng: Generator, look: Look, size_px: float
) -> tuple[Float[ndarray, "frames points 2"], Float[ndarray, "frames 2 2"]]:
    """Outlines centred on their own box, and the maps from the object's unit axes to the image.

    The object turns, grows and shrinks, changes its aspect and its shape, all smoothly.
    """
    angles = np.arange(NUM_OUTLINE_POINTS) * 2 * np.pi / NUM_OUTLINE_POINTS
    radii = look.radii + look.drift * wave(count, rng)[:, None]
    local = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[..., None]
    turns = rng.choice([0.0, rng.uniform(0, 2 * np.pi)]) + rng.uniform(0.2, 0.9) * wave(count, rng)
    stretch = np.exp(rng.normal(0, 0.16) + 0.1 * wave(count, rng))
    axes = rotations(turns) * np.stack([stretch, 1 / stretch], axis=1)[:, None, :]
    outlines = np.einsum("fij,fpj->fpi", axes, local)
    growth = wave(count, rng)
    factors = np.exp(0.3 * (growth - growth[0])) * size_px / np.ptp(outlines[0], axis=0).mean()
    outlines -= (outlines.max(axis=1) + outlines.min(axis=1))[:, None] / 2
    return outlines * factors[:, None, None], axes * factors[:, None, None]


def place(
    surface: UInt8[ndarray, "side side 3"],
    outlines: Float[ndarray, "frames points 2"],
    axes: Float[ndarray, "frames 2 2"],
    path: Float[ndarray, "frames 2"],
) -> SceneObject:
    """A body put on its path; the surface spans 1.5 units of its axes to each side."""
    linear = axes * (3 / TEXTURE_SIDE_PX)
    offsets = path - linear.sum(axis=2) * (TEXTURE_SIDE_PX / 2)
    return SceneObject(
        surface=surface,
        outlines=outlines + path[:, None],
        surface_to_image=np.concatenate([linear, offsets[..., None]], axis=2),
    )
