"""`Track`: one target through one video (or one object in one still image)."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray


class DatasetError(ValueError):
    """A dataset folder or file is not what its layout promises; the message says how to mend it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """One target through one video. Holds file names and boxes, never pixels.

    Raises:
        DatasetError: frames, boxes, flags and frame numbers do not count the same.
    """

    dataset: str
    """Which reader it came from, e.g. ``"got10k"``."""

    video: str
    """The video's (or image's) name, unique within the dataset."""

    target: str = "0"
    """Which target of the video; OTB's Jogging has ``"1"`` and ``"2"``."""

    category: str = ""
    """The object's class where the dataset names one; empty where it does not."""

    image_files: tuple[Path, ...]
    """One image per frame, in order."""

    boxes: Float[ndarray, "frames 4"]
    """Ground truth in the image, xyxy, pixels; NaN where a frame has none."""

    visible: Bool[ndarray, "frames"]
    """False where the target is absent, fully occluded or out of view."""

    frame_numbers: Int[ndarray, "frames"]
    """Position of each frame in the original video, so that frame distance survives thinning."""

    is_still: bool = False
    """An object in a single image (COCO): it pairs with itself."""

    attributes: tuple[str, ...] = ()
    """The benchmark's challenge tags, e.g. ``("occlusion",)``."""

    def __post_init__(self) -> None:
        counts = {
            "image_files": len(self.image_files),
            "boxes": len(self.boxes),
            "visible": len(self.visible),
            "frame_numbers": len(self.frame_numbers),
        }
        if len(set(counts.values())) != 1:
            raise DatasetError(
                f"{self.name}: one entry per frame expected everywhere, got {counts}"
            )

    @property
    def name(self) -> str:
        """``dataset/video`` or ``dataset/video.target``: how logs and result files call it."""
        suffix = "" if self.target == "0" else f".{self.target}"
        return f"{self.dataset}/{self.video}{suffix}"

    def __len__(self) -> int:
        return len(self.image_files)


def read_image(path: Path) -> UInt8[ndarray, "height width 3"]:
    """An image file as RGB.

    Raises:
        DatasetError: the file is missing or does not decode.
    """
    try:
        encoded = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); expected an image file. "
            "Restore it or remove its frame from the annotation."
        ) from error
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    if image is None:
        raise DatasetError(
            f"{path}: does not decode as an image ({encoded.size} bytes); "
            "expected JPEG or PNG. Download or convert it again."
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
