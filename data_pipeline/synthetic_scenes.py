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
from data_pipeline.synthetic_objects import (
    Look,
    SceneObject,
    body,
    draw_look,
    look_alike,
    place,
    rotations,
    surface,
    wave,
)
from data_pipeline.synthetic_textures import NUM_FAMILIES, octaves, palette, texture

MIN_VISIBLE_FRACTION = 0.1


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """How many synthetic videos there are, and how hard they are."""

    num_train_videos: int = 200
    """Videos in the folder ``train``."""

    num_val_videos: int = 20
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

    min_distractors: int = 3
    """Fewest look-alikes of its target in a video."""

    max_distractors: int = 6
    """Most look-alikes of its target in a video."""

    occluder_probability: float = 0.4
    """Share of videos in which something passes in front of the target."""

    background_contrast: float = 0.55
    """Contrast of the background's texture; 1 is that of the objects."""

    noise_level: float = 5.0
    """Standard deviation of the sensor noise, in grey levels."""

    jpeg_quality: int = 95
    """Quality of the frames' JPEG files."""

    def __post_init__(self) -> None:
        for name in ("num_train_videos", "num_val_videos", "noise_level", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.frames_per_video < 1:
            raise ValueError(f"frames_per_video must be at least 1, got {self.frames_per_video}")
        if not 1 <= self.min_distractors <= self.max_distractors:
            raise ValueError(
                "1 <= min_distractors <= max_distractors expected, "
                f"got {self.min_distractors} and {self.max_distractors}"
            )
        largest = min(self.width_px, self.height_px) / 3
        if not 12 <= self.min_target_px <= self.max_target_px <= largest:
            raise ValueError(
                "12 <= min_target_px <= max_target_px <= a third of the frame's shorter side "
                f"({largest:.0f}) expected, got {self.min_target_px} and {self.max_target_px}"
            )
        if not self.max_step_in_crop_px > 0:
            raise ValueError(
                f"max_step_in_crop_px must be positive, got {self.max_step_in_crop_px}"
            )
        for name in ("occluder_probability", "background_contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must lie in 1..100, got {self.jpeg_quality}")


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
    look = draw_look(rng)
    size_px = float(rng.uniform(config.min_target_px, config.max_target_px))
    outlines, axes = body(config.frames_per_video, rng, look, size_px)
    path = _walk(config, rng, outlines.max(axis=1) - outlines.min(axis=1))
    target = place(surface(rng, look), outlines, axes, path)
    rivals = [
        _distractor(config, rng, look, path, size_px)
        for _ in range(rng.integers(config.min_distractors, config.max_distractors + 1))
    ]
    # Whoever starts beside the target stays behind it: the first frame must show the target.
    starts = [item.outlines[0].mean(axis=0) for item in rivals]
    distances = [float(np.hypot(*(start - path[0]))) for start in starts]
    is_in_front = [d > 1.5 * size_px and rng.random() < 0.25 for d in distances]
    behind = [item for item, front in zip(rivals, is_in_front, strict=True) if not front]
    in_front = [item for item, front in zip(rivals, is_in_front, strict=True) if front]
    if rng.random() < config.occluder_probability:
        in_front.append(_occluder(config, rng, path, size_px))
    frames = _film(config, rng, [*behind, target, *in_front])
    boxes = np.concatenate([target.outlines.min(axis=1), target.outlines.max(axis=1)], axis=1)
    boxes = box_ops.clip(boxes, width=float(config.width_px), height=float(config.height_px))
    return frames, boxes, _is_visible(config, target, in_front)


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
    own_look = look_alike(rng, look)
    size_px = target_size_px * float(np.exp(rng.normal(0, 0.2)))
    outlines, axes = body(count, rng, own_look, size_px)
    path = _walk(config, rng, outlines.max(axis=1) - outlines.min(axis=1))
    meeting, width = rng.uniform(0, count), rng.uniform(4, 10)
    nearness = np.exp(-(((np.arange(count) - meeting) / width) ** 2))[:, None]
    angle = rng.uniform(0, 2 * np.pi) + rng.uniform(-2, 2) * wave(count, rng)
    distance = rng.uniform(1.0, 1.7) * (target_size_px + size_px) / 2
    beside = target_path + distance * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return place(surface(rng, own_look), outlines, axes, path * (1 - nearness) + beside * nearness)


def _occluder(
    config: SyntheticConfig,
    rng: Generator,
    target_path: Float[ndarray, "frames 2"],
    target_size_px: float,
) -> SceneObject:
    """Something unlike the target that passes over a part of it, once."""
    count = config.frames_per_video
    look = draw_look(rng)
    outlines, axes = body(count, rng, look, target_size_px * rng.uniform(0.6, 1.0))
    meeting, angle = rng.uniform(0.3, 1.0) * count, rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(angle), np.sin(angle)])
    speed = target_size_px * rng.uniform(0.15, 0.3)
    along = (np.arange(count) - meeting)[:, None] * speed * direction
    aside = rng.uniform(-0.5, 0.5) * target_size_px * direction[::-1] * [-1, 1]
    return place(surface(rng, look), outlines, axes, target_path + along + aside)


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
    pan = frame / 4 * 0.8 * np.stack([wave(count, rng), wave(count, rng)], axis=1)
    zoom = 1 + 0.06 * wave(count, rng)
    linear = rotations(0.06 * wave(count, rng)) * zoom[:, None, None]
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
    gains = np.exp(0.25 * wave(count, rng))[:, None] * np.exp(
        0.08 * np.stack([wave(count, rng) for _ in range(3)], axis=1)
    )
    noise = rng.normal(0, config.noise_level, (height + 16, width + 16, 3)).astype(np.int16)
    for index in range(count):
        for item in objects:
            draw(frames[index], item, index)
        row, column = rng.integers(0, 16, 2)
        table = np.clip(np.arange(256)[:, None] * gains[index], 0, 255).astype(np.uint8)
        grains = noise[row : row + height, column : column + width]
        lit = cv2.LUT(frames[index], table[None])
        cv2.add(lit, grains, dst=frames[index], dtype=cv2.CV_8U)
    return frames


def draw(frame: UInt8[ndarray, "height width 3"], item: SceneObject, index: int) -> None:
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
