"""Episodes: a pair of crops as a few-shot task, three zooms to learn from and one query (Sec. 3).

Pure NumPy and OpenCV; every draw comes from the generator that is passed in. Shift and scale were
drawn when the shard was written, where they saw true pixels; here comes what needs none.

Shapes: P pairs, S = 3 support images, Q = 1 query image.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from data_pipeline.boxes import clip
from data_pipeline.crops import CROP_SIZE_PX, ZOOM_FACTOR, cut, mean_color, zoom_window


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """What is drawn anew each time a pair is loaded. Not in the paper; PySiamTracking's values."""

    support_shift_px: float = 4.0
    """Largest shift of the support crop, each way, before it is zoomed."""

    support_scale: float = 0.02
    """Largest |log| of the support crop's random scale."""

    flip_video: float = 0.1
    """Share of pairs from videos that are mirrored, support and query together."""

    flip_still: float = 0.25
    """Share of pairs from still images that are mirrored."""

    color: float = 0.2
    """Largest relative change of brightness, contrast and saturation of the query; the support's
    is a quarter of it."""

    gray: float = 0.01
    """Share of queries in black and white."""

    blur: float = 0.1
    """Share of queries that are blurred."""

    occlusion: float = 0.1
    """Share of queries with a patch of the mean colour over part of the target."""

    def __post_init__(self) -> None:
        shares = ("flip_video", "flip_still", "gray", "blur", "occlusion")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, got {getattr(self, name)}")
        for name in ("support_shift_px", "support_scale", "color"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


NO_AUGMENTATION = AugmentationConfig(
    support_shift_px=0.0,
    support_scale=0.0,
    flip_video=0.0,
    flip_still=0.0,
    color=0.0,
    gray=0.0,
    blur=0.0,
    occlusion=0.0,
)
"""For validation: every pair as it stands in the shard."""


class Sample(NamedTuple):
    """A crop and the target's box in it."""

    image: UInt8[ndarray, "263 263 3"]
    box: Float[ndarray, "4"]


PairKind = Literal["same_target", "same_category", "any_other"]
"""What the two images of a pair have in common."""


class PairOrigin(NamedTuple):
    """Where the two images of a pair come from."""

    dataset: str
    """Of the first image."""

    kind: PairKind
    """But for ``same_target``, the query is all background."""

    is_still: bool
    """The first image is a still."""

    frame_distance: int
    """Original frames between the two images; -1 where they show two targets."""

    shows_look_alike: bool = False
    """The query shows its target and, beside it, another object of the same category."""


class Episode(NamedTuple):
    """One task: learn the target from the support, find it in the query."""

    support_images: UInt8[ndarray, "S 263 263 3"]
    support_boxes: Float[ndarray, "S 4"]
    query_images: UInt8[ndarray, "Q 263 263 3"]
    query_boxes: Float[ndarray, "Q 4"]
    query_present: Bool[ndarray, "Q"]
    """False where the query shows another object: everything in it is background."""
    origin: PairOrigin


class EpisodeBatch(NamedTuple):
    """P episodes, stacked."""

    support_images: UInt8[ndarray, "P S 263 263 3"]
    support_boxes: Float[ndarray, "P S 4"]
    query_images: UInt8[ndarray, "P Q 263 263 3"]
    query_boxes: Float[ndarray, "P Q 4"]
    query_present: Bool[ndarray, "P Q"]
    origins: tuple[PairOrigin, ...] = ()
    """Of each pair; none where the images come from no shards."""


def stack(episodes: list[Episode]) -> EpisodeBatch:
    """A batch of episodes.

    Raises:
        ValueError: there are none.
    """
    if not episodes:
        raise ValueError("a batch needs at least one episode, got none")
    *arrays, origins = zip(*episodes, strict=True)
    return EpisodeBatch._make([*(np.stack(field) for field in arrays), origins])


def make_episode(
    centred: Sample,
    query: Sample,
    *,
    origin: PairOrigin,
    config: AugmentationConfig,
    rng: np.random.Generator,
) -> Episode:
    """A pair of crops as an episode.

    Args:
        centred: the first image's crop, the target in its middle.
        query: the second image's crop, the target somewhere in it.
        origin: where both come from.
        config: the augmentation.
        rng: all randomness.
    """
    flip = rng.random() < (config.flip_still if origin.is_still else config.flip_video)
    if flip:
        centred, query = mirror(centred), mirror(query)
    support_images, support_boxes = _support(centred, config, rng)
    query = _augment_query(query, config, rng)
    return Episode(
        support_images,
        support_boxes,
        query.image[None],
        query.box[None],
        np.array([origin.kind == "same_target"]),
        origin,
    )


def _support(
    centred: Sample, config: AugmentationConfig, rng: np.random.Generator
) -> tuple[UInt8[ndarray, "S 263 263 3"], Float[ndarray, "S 4"]]:
    """The crop, slightly shifted, scaled and recoloured, zoomed by 1/1.08, 1 and 1.08."""
    shift_x, shift_y = rng.uniform(-1, 1, 2) * config.support_shift_px
    scale = float(np.exp(rng.uniform(-1, 1) * config.support_scale))
    image = recolor(centred.image, config.color / 4, rng)
    border = mean_color(image)
    windows = [
        zoom_window(scale * zoom, (shift_x, shift_y))
        for zoom in (1 / ZOOM_FACTOR, 1.0, ZOOM_FACTOR)
    ]
    images = np.stack([cut(image, window, border) for window in windows])
    return images, np.stack([window.to_crop(centred.box) for window in windows])


def _augment_query(query: Sample, config: AugmentationConfig, rng: np.random.Generator) -> Sample:
    """Colour, blur and an occluding patch; the box stays."""
    image = recolor(query.image, config.color, rng)
    if rng.random() < config.gray:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < config.blur:
        image = cv2.GaussianBlur(image, (0, 0), sigmaX=float(rng.uniform(0.5, 2.5)))
    if rng.random() < config.occlusion:
        image = occlude(image, query.box, rng)
    return Sample(image, query.box)


def mirror(sample: Sample) -> Sample:
    """The crop and its box, left and right exchanged."""
    left, top, right, bottom = sample.box
    box = np.array([CROP_SIZE_PX - right, top, CROP_SIZE_PX - left, bottom], sample.box.dtype)
    return Sample(np.ascontiguousarray(sample.image[:, ::-1]), box)


def recolor(
    image: UInt8[ndarray, "height width 3"], strength: float, rng: np.random.Generator
) -> UInt8[ndarray, "height width 3"]:
    """The image with brightness, contrast and saturation changed by up to ``strength`` each."""
    brightness, contrast, saturation = rng.uniform(-strength, strength, 3)
    if strength == 0:
        return image
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    gain = (1 + contrast) * (1 + saturation)
    offset = 127.5 * (brightness - contrast)
    return cv2.addWeighted(image, gain, gray, (1 + contrast) - gain, offset)


def occlude(
    image: UInt8[ndarray, "263 263 3"], box: Float[ndarray, "4"], rng: np.random.Generator
) -> UInt8[ndarray, "263 263 3"]:
    """The crop with a patch of its mean colour, a fifth to a half of the box each way."""
    side = float(CROP_SIZE_PX)
    left, top, right, bottom = clip(box, width=side, height=side)
    width, height = (right - left, bottom - top) * rng.uniform(0.2, 0.5, 2)
    x, y = rng.uniform([left, top], [max(right - width, left), max(bottom - height, top)])
    result = image.copy()
    corner = (round(x), round(y)), (round(x + width), round(y + height))
    cv2.rectangle(result, *corner, color=mean_color(image), thickness=-1)
    return result
