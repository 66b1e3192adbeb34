"""Procedural videos: textured, deforming objects over textured, panning backgrounds.

Not in the paper: the quickstart must run without a download. Every video holds look-alikes of its
target, from the same generator, so "the object in the middle" is no answer: only a tracker that
learned the target itself knows which one to follow.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from numpy.random import Generator

from data_pipeline import boxes as box_ops
from data_pipeline.crops import EXEMPLAR_SIZE_PX, context_size
from data_pipeline.synthetic_textures import NUM_FAMILIES, octaves, palette, texture

TEXTURE_SIDE_PX = 96
NUM_OUTLINE_POINTS = 48
MIN_VISIBLE_FRACTION = 0.1


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """How many synthetic videos there are, and how hard they are."""

    num_train_videos: int = 200
    """Videos in the folder ``train``."""

    num_val_videos: int = 24
    """Videos in the folder ``val``; none shares its seed with a training video."""

    frames_per_video: int = 30
    """Frames of each video."""

    seed: int = 0
    """All videos derive from it."""

    width_px: int = 320
    """Width of a frame."""

    height_px: int = 240
    """Height of a frame."""

    min_target_px: float = 30.0
    """Smallest mean size, (w + h) / 2, that a target starts with."""

    max_target_px: float = 62.0
    """Largest mean size, (w + h) / 2, that a target starts with."""

    max_step_in_crop_px: float = 40.0
    """Most that a target moves between frames, in pixels of the crop about its last box."""

    max_distractors: int = 3
    """Each video has from one to this many look-alikes of its target."""

    occluder_probability: float = 0.5
    """Share of videos in which something passes in front of the target."""

    background_contrast: float = 0.55
    """Contrast of the background's texture; 1 is that of the objects."""

    noise_level: float = 5.0
    """Standard deviation of the sensor noise, in grey levels."""

    jpeg_quality: int = 95
    """Quality of the frames' JPEG files."""

    def __post_init__(self) -> None:
        for name in ("num_train_videos", "num_val_videos", "noise_level", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("frames_per_video", "max_distractors"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        largest = min(self.width_px, self.height_px) / 3
        if not 12 <= self.min_target_px <= self.max_target_px <= largest:
            raise ValueError(
                "12 <= min_target_px <= max_target_px <= a third of the frame's shorter side "
                f"({largest:.0f}) expected, got {self.min_target_px} and {self.max_target_px}"
            )
        if self.max_step_in_crop_px <= 0:
            raise ValueError(
                f"max_step_in_crop_px must be positive, got {self.max_step_in_crop_px}"
            )
        for name in ("occluder_probability", "background_contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must lie in 1..100, got {self.jpeg_quality}")


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


def render_video(
    config: SyntheticConfig, video_seed: int
) -> tuple[
    UInt8[ndarray, "frames height width 3"], Float[ndarray, "frames 4"], Bool[ndarray, "frames"]
]:
    """One video: its frames (RGB), the target's boxes, and where the target is to be seen.

    A box is the tight one about the target's whole outline, also under an occluder, clipped to the
    image. Pure: the same config and seed give the same video.

    Args:
        config: size, length and difficulty.
        video_seed: of this video; `readers.synthetic.video_seeds` gives those of a dataset.
    """
    rng = np.random.default_rng(video_seed)
    look = _draw_look(rng)
    size_px = float(rng.uniform(config.min_target_px, config.max_target_px))
    outlines, axes = _body(config.frames_per_video, rng, look, size_px)
    path = _walk(config, rng, outlines.max(axis=1) - outlines.min(axis=1))
    target = _placed(_surface(rng, look), outlines, axes, path)
    rivals = [
        _distractor(config, rng, look, path, size_px)
        for _ in range(rng.integers(1, config.max_distractors + 1))
    ]
    # Whoever starts beside the target stays behind it: the first frame must show the target.
    starts = [item.outlines[0].mean(axis=0) for item in rivals]
    distances = [float(np.hypot(*(start - path[0]))) for start in starts]
    is_in_front = [d > 1.5 * size_px and rng.random() < 0.5 for d in distances]
    behind = [item for item, front in zip(rivals, is_in_front, strict=True) if not front]
    in_front = [item for item, front in zip(rivals, is_in_front, strict=True) if front]
    if rng.random() < config.occluder_probability:
        in_front.append(_occluder(config, rng, path, size_px))
    frames = _film(config, rng, [*behind, target, *in_front])
    boxes = np.concatenate([target.outlines.min(axis=1), target.outlines.max(axis=1)], axis=1)
    boxes = box_ops.clip(boxes, width=config.width_px, height=config.height_px)
    return frames, boxes, _is_visible(config, target, in_front)


def _draw_look(rng: Generator) -> Look:
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


def _look_alike(rng: Generator, look: Look) -> Look:
    """A look that shares shape and texture (another colour), or the colour, or nothing."""
    other = _draw_look(rng)
    far_hue = float((look.hue + rng.uniform(40, 140)) % 180)
    far_family = int((look.family + rng.integers(1, NUM_FAMILIES)) % NUM_FAMILIES)
    kind = rng.random()
    if kind < 0.45:
        return Look(hue=far_hue, family=look.family, radii=look.radii, drift=look.drift)
    if kind < 0.75:
        return Look(hue=look.hue, family=far_family, radii=other.radii, drift=other.drift)
    return Look(hue=far_hue, family=far_family, radii=other.radii, drift=other.drift)


def _surface(rng: Generator, look: Look) -> UInt8[ndarray, "side side 3"]:
    return texture(rng, TEXTURE_SIDE_PX, TEXTURE_SIDE_PX, palette(rng, look.hue), look.family)


def _wave(count: int, rng: Generator) -> Float[ndarray, "frames"]:
    """A smooth curve within [-1, 1]: the mean of three slow sines."""
    periods, phases = rng.uniform(25, 90, 3), rng.uniform(0, 2 * np.pi, 3)
    return np.sin(2 * np.pi * np.arange(count)[:, None] / periods + phases).mean(axis=1)


def _rotations(angles: Float[ndarray, "frames"]) -> Float[ndarray, "frames 2 2"]:
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=-2)


def _body(
    count: int, rng: Generator, look: Look, size_px: float
) -> tuple[Float[ndarray, "frames points 2"], Float[ndarray, "frames 2 2"]]:
    """Outlines centred on their own box, and the maps from the object's unit axes to the image.

    The object turns, grows and shrinks, changes its aspect and its shape, all smoothly.
    """
    angles = np.arange(NUM_OUTLINE_POINTS) * 2 * np.pi / NUM_OUTLINE_POINTS
    radii = look.radii + look.drift * _wave(count, rng)[:, None]
    local = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[..., None]
    turns = rng.choice([0.0, rng.uniform(0, 2 * np.pi)]) + rng.uniform(0.2, 0.9) * _wave(count, rng)
    stretch = np.exp(rng.normal(0, 0.16) + 0.1 * _wave(count, rng))
    axes = _rotations(turns) * np.stack([stretch, 1 / stretch], axis=1)[:, None, :]
    outlines = np.einsum("fij,fpj->fpi", axes, local)
    growth = _wave(count, rng)
    factors = np.exp(0.3 * (growth - growth[0])) * size_px / np.ptp(outlines[0], axis=0).mean()
    outlines -= (outlines.max(axis=1) + outlines.min(axis=1))[:, None] / 2
    return outlines * factors[:, None, None], axes * factors[:, None, None]


def _placed(
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


def _walk(
    config: SyntheticConfig, rng: Generator, sizes_px: Float[ndarray, "frames 2"]
) -> Float[ndarray, "frames 2"]:
    """Centres along a roaming path: smooth, with sudden jumps, turning back at the image's edge."""
    frame = np.array([config.width_px, config.height_px], dtype=np.float64)
    limits = 0.9 * config.max_step_in_crop_px * context_size(sizes_px) / EXEMPLAR_SIZE_PX
    pace, heading = rng.uniform(0.2, 0.6), rng.uniform(0, 2 * np.pi)
    path = [rng.uniform(0.25, 0.75, 2) * frame]
    for limit, size in zip(limits[:-1], sizes_px[1:], strict=True):
        heading += rng.normal(0, 0.35)
        length = pace * rng.uniform(0.5, 1.3)
        if rng.random() < 0.08:
            heading, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.0)
        step = length * limit * np.array([np.cos(heading), np.sin(heading)])
        outside = np.abs(path[-1] + step - frame / 2) > frame / 2 - 0.42 * size
        step = np.where(outside, np.sign(frame / 2 - path[-1]) * np.abs(step), step)
        heading = float(np.arctan2(step[1], step[0]))
        path.append(path[-1] + step)
    return np.stack(path)


def _distractor(
    config: SyntheticConfig,
    rng: Generator,
    look: Look,
    target_path: Float[ndarray, "frames 2"],
    target_size_px: float,
) -> SceneObject:
    """A look-alike that roams by itself and, for a while, passes close to the target."""
    count = config.frames_per_video
    own_look = _look_alike(rng, look)
    size_px = target_size_px * float(np.exp(rng.normal(0, 0.2)))
    outlines, axes = _body(count, rng, own_look, size_px)
    path = _walk(config, rng, outlines.max(axis=1) - outlines.min(axis=1))
    meeting, width = rng.uniform(0, count), rng.uniform(4, 10)
    nearness = np.exp(-(((np.arange(count) - meeting) / width) ** 2))[:, None]
    angle = rng.uniform(0, 2 * np.pi) + rng.uniform(-2, 2) * _wave(count, rng)
    distance = rng.uniform(0.7, 1.4) * (target_size_px + size_px) / 2
    beside = target_path + distance * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return _placed(
        _surface(rng, own_look), outlines, axes, path * (1 - nearness) + beside * nearness
    )


def _occluder(
    config: SyntheticConfig,
    rng: Generator,
    target_path: Float[ndarray, "frames 2"],
    target_size_px: float,
) -> SceneObject:
    """Something unlike the target that passes over a part of it, once."""
    count = config.frames_per_video
    look = _draw_look(rng)
    outlines, axes = _body(count, rng, look, target_size_px * rng.uniform(0.6, 1.0))
    meeting, angle = rng.uniform(0.3, 1.0) * count, rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(angle), np.sin(angle)])
    speed = target_size_px * rng.uniform(0.15, 0.3)
    along = (np.arange(count) - meeting)[:, None] * speed * direction
    aside = rng.uniform(-0.5, 0.5) * target_size_px * direction[::-1] * [-1, 1]
    return _placed(_surface(rng, look), outlines, axes, target_path + along + aside)


def _backgrounds(
    config: SyntheticConfig, rng: Generator
) -> UInt8[ndarray, "frames height width 3"]:
    """The background in every frame: regions of two textures, seen by a moving camera."""
    frame = np.array([config.width_px, config.height_px])
    width, height = (int(side) for side in frame * 3 // 4)  # half the canvas: it is smooth anyway
    first, second = (
        texture(rng, height, width, palette(rng), int(rng.integers(NUM_FAMILIES)), 1.6)
        for _ in range(2)
    )
    regions = octaves(rng, height, width, int(rng.integers(2, 5)))[..., None] > rng.uniform(0.4, 1)
    canvas = np.where(regions, first, second).astype(np.float32)
    mean = canvas.mean(axis=(0, 1))
    canvas = np.clip(mean + (canvas - mean) * config.background_contrast, 0, 255)
    canvas = cv2.resize(canvas.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    count = config.frames_per_video
    pan = frame / 4 * 0.8 * np.stack([_wave(count, rng), _wave(count, rng)], axis=1)
    zoom = 1 + 0.06 * _wave(count, rng)
    linear = _rotations(0.06 * _wave(count, rng)) * zoom[:, None, None]
    offsets = np.array([width, height]) + pan - linear @ (frame / 2)
    maps = np.concatenate([linear, offsets[..., None]], axis=2)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REFLECT_101
    size = (config.width_px, config.height_px)
    return np.stack([cv2.warpAffine(canvas, m, size, flags=flags, borderMode=border) for m in maps])


def _film(
    config: SyntheticConfig, rng: Generator, objects: list[SceneObject]
) -> UInt8[ndarray, "frames height width 3"]:
    """All frames: the objects, from back to front, under changing light, with noise."""
    frames = _backgrounds(config, rng)
    count, height, width, _ = frames.shape
    gains = np.exp(0.25 * _wave(count, rng))[:, None] * np.exp(
        0.08 * np.stack([_wave(count, rng) for _ in range(3)], axis=1)
    )
    noise = rng.normal(0, config.noise_level, (height + 16, width + 16, 3)).astype(np.int16)
    for index in range(count):
        for item in objects:
            _draw(frames[index], item, index)
        row, column = rng.integers(0, 16, 2)
        table = np.clip(np.arange(256)[:, None] * gains[index], 0, 255).astype(np.uint8)
        grains = noise[row : row + height, column : column + width]
        lit = cv2.LUT(frames[index], table[None])
        cv2.add(lit, grains, dst=frames[index], dtype=cv2.CV_8U)
    return frames


def _draw(frame: UInt8[ndarray, "height width 3"], item: SceneObject, index: int) -> None:
    """Paints one object into a frame that is being made (the one function that edits in place)."""
    height, width, _ = frame.shape
    outline = item.outlines[index]
    left, top = np.maximum(np.floor(outline.min(axis=0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 1, [width, height])
    if right <= left or bottom <= top:
        return
    region = frame[top:bottom, left:right]
    size = (int(right - left), int(bottom - top))
    to_region = item.surface_to_image[index] - np.array([[0, 0, left], [0, 0, top]])
    painted = cv2.warpAffine(
        item.surface, to_region, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    alpha = _mask(outline - [left, top], size).astype(np.float32) / 255
    region[:] = cv2.blendLinear(painted, region, alpha, 1 - alpha)


def _mask(outline: Float[ndarray, "points 2"], size: tuple[int, int]) -> UInt8[ndarray, "h w"]:
    """Coverage of each pixel by an outline, 0..255, anti-aliased."""
    mask = np.zeros(size[::-1], np.uint8)
    # fillPoly's coordinates count from pixel centres, in sixteenths of a pixel.
    points = np.rint((outline - 0.5) * 16).astype(np.int32)
    return cv2.fillPoly(mask, [points], 255, lineType=cv2.LINE_AA, shift=4)


def _is_visible(
    config: SyntheticConfig, target: SceneObject, in_front: list[SceneObject]
) -> Bool[ndarray, "frames"]:
    """True where at least a tenth of the target's outline lies in the image, uncovered."""
    frame = np.array([config.width_px, config.height_px])
    visible = []
    for index, outline in enumerate(target.outlines):
        corner = np.clip(np.floor(outline.min(axis=0)), 0, frame)
        width, height = (np.clip(np.ceil(outline.max(axis=0)), 0, frame) - corner).astype(int)
        seen = _mask(outline - corner, (int(width), int(height)))
        total = cv2.countNonZero(seen)
        for item in in_front:
            hidden = _mask(item.outlines[index] - corner, (int(width), int(height)))
            seen = cv2.bitwise_and(seen, cv2.bitwise_not(hidden))
        visible.append(cv2.countNonZero(seen) >= MIN_VISIBLE_FRACTION * total)
    return np.array(visible)
