"""A row of a shard: a part of one track as crops."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from data_pipeline.look_alikes import look_alikes, moved
from data_pipeline.manifest import ShardError


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackChunk:
    """A row: up to 64 frames of one track, each as a centred crop and several moved views."""

    dataset: str
    """Which reader it came from."""

    video: str
    """The video's (or image's) name, unique within the dataset."""

    target: str
    """Which target of the video."""

    category: str
    """The object's class; empty where the dataset names none."""

    is_still: bool
    """An object in a single image: it pairs with itself."""

    chunk: int
    """Which part of the track, from 0."""

    frame_numbers: Int[ndarray, "frames"]
    """Position of each frame in the original video."""

    centred_images: tuple[bytes, ...]
    """Per frame, the JPEG of the crop about the box."""

    centred_boxes: Float[ndarray, "frames 4"]
    """The box in the centred crop, xyxy, pixels."""

    view_images: tuple[tuple[bytes, ...], ...]
    """Per frame, the JPEGs of the moved and scaled views."""

    view_boxes: Float[ndarray, "frames views 4"]
    """The box in each view, xyxy, pixels; it may reach outside."""

    other_boxes: tuple[Float[ndarray, "_ 4"], ...] = ()
    """Per frame, other objects of the target's category, in the centred crop's pixels or outside
    it; empty where the shard does not say (schema version 1)."""

    def __post_init__(self) -> None:
        counts = {
            "frame_numbers": len(self.frame_numbers),
            "centred_images": len(self.centred_images),
            "centred_boxes": len(self.centred_boxes),
            "view_images": len(self.view_images),
            "view_boxes": len(self.view_boxes),
        }
        if self.other_boxes:
            counts["other_boxes"] = len(self.other_boxes)
        views = {len(images) for images in self.view_images} | {self.view_boxes.shape[1]}
        if len(set(counts.values())) != 1 or len(views) != 1 or not len(self.frame_numbers):
            raise ShardError(
                f"{self.dataset}/{self.video}, chunk {self.chunk}: at least one frame and an entry "
                f"per frame and view expected everywhere, got {counts} and views {sorted(views)}. "
                "Run data_pipeline/preprocess.py again into a new folder."
            )

    @property
    def num_look_alikes(self) -> int:
        """Moved views that show a look-alike."""
        shown = [frame for frame, others in enumerate(self.other_boxes) if len(others)]
        views = range(self.view_boxes.shape[1])
        return sum(len(self.look_alikes(frame, view)) > 0 for frame in shown for view in views)

    def look_alikes(self, frame: int, view: int) -> Float[ndarray, "alike 4"]:
        """The look-alikes that a frame's moved view shows, in its pixels; none where unknown."""
        if not self.other_boxes:
            return np.zeros((0, 4), np.float32)
        target = self.view_boxes[frame, view]
        return look_alikes(
            moved(self.other_boxes[frame], self.centred_boxes[frame], target), target
        )
