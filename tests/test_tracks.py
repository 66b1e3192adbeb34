"""Tracks and the images they name."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipeline.tracks import DatasetError, Track, read_image


def make_track(num_images: int = 2, target: str = "0") -> Track:
    return Track(
        dataset="got10k",
        video="cat",
        target=target,
        image_files=(Path("1.jpg"),) * num_images,
        boxes=np.zeros((2, 4)),
        visible=np.ones(2, dtype=bool),
        frame_numbers=np.arange(2),
    )


def test_name_tells_targets_apart() -> None:
    assert make_track().name == "got10k/cat"
    assert make_track(target="2").name == "got10k/cat.2"
    assert len(make_track()) == 2


def test_counts_must_agree() -> None:
    with pytest.raises(DatasetError, match=r"got10k/cat.*'image_files': 3"):
        make_track(num_images=3)


def test_read_image_gives_rgb(tmp_path: Path) -> None:
    blue_green_red = np.zeros((4, 6, 3), np.uint8)
    blue_green_red[..., 2] = 200
    cv2.imwrite(str(tmp_path / "red.png"), blue_green_red)
    image = read_image(tmp_path / "red.png")
    assert image.shape == (4, 6, 3)
    assert image[0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_unreadable_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "frame.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"frame\.jpg.*expected"):
        read_image(path)
