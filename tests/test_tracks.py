"""Tracks and the frames they name."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipeline.tracks import (
    DatasetError,
    ImageFiles,
    Track,
    VideoFrame,
    count_frames,
    read_image,
)


def make_track(num_images: int = 2, target: str = "0", **fields: object) -> Track:
    return Track(
        dataset="got10k",
        video="cat",
        target=target,
        image_files=(Path("1.jpg"),) * num_images,
        boxes=np.zeros((2, 4)),
        visible=np.ones(2, dtype=bool),
        frame_numbers=np.arange(2),
        **fields,
    )


def write_video(path: Path, num_frames: int) -> Path:
    """Frame ``i`` is grey with value 20 i."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(num_frames):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()
    return path


def test_name_tells_targets_apart() -> None:
    assert make_track().name == "got10k/cat"
    assert make_track(target="2").name == "got10k/cat.2"
    assert len(make_track()) == 2


def test_counts_must_agree() -> None:
    with pytest.raises(DatasetError, match=r"got10k/cat.*'image_files': 3"):
        make_track(num_images=3)


def test_a_part_of_a_track_has_part_of_everything() -> None:
    flags = np.array([False, True])
    track = make_track(tags={"occlusion": flags}, polygons=np.zeros((2, 4, 2)))[1:]
    assert len(track) == len(track.polygons) == 1
    assert track.frame_numbers.tolist() == [1]
    assert track.tags["occlusion"].tolist() == [True]


def test_images_of_a_folder_are_paths_when_asked_for() -> None:
    files = ImageFiles(Path("/videos/cat"), ("1.jpg", "2.jpg", "3.jpg"))
    paths = [Path(f"/videos/cat/{number}.jpg") for number in (1, 2, 3)]
    assert list(files) == paths and len(files) == 3
    assert files[-1] == paths[2] and paths[1] in files
    assert files[::2] == ImageFiles(files.folder, ("1.jpg", "3.jpg"))
    assert replace(make_track(), image_files=files[:2]).frame_names == ["1.jpg", "2.jpg"]
    assert make_track().frame_names == ["1.jpg", "1.jpg"]


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


@pytest.mark.parametrize("order", [range(6), (4, 1, 1, 5, 0)])
def test_frames_of_a_video_in_any_order(tmp_path: Path, order: range | tuple[int, ...]) -> None:
    video = write_video(tmp_path / "clip.avi", 6)
    for number in order:
        image = read_image(VideoFrame(video, number))
        assert image.shape == (48, 64, 3)
        assert abs(float(image.mean()) - 20 * number) < 3


def test_video_that_ends_early_or_does_not_open(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi", 3)
    with pytest.raises(DatasetError, match=r"clip\.avi: at least 5 frames.*ends after 3"):
        read_image(VideoFrame(video, 4))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DatasetError, match=r"text\.mp4: a video that OpenCV can open expected"):
        read_image(VideoFrame(tmp_path / "text.mp4", 0))


@pytest.mark.parametrize("expected", [3, 4])
def test_frames_are_counted_where_the_header_disagrees(tmp_path: Path, expected: int) -> None:
    assert count_frames(write_video(tmp_path / "clip.avi", 3), expected) == 3


def test_frames_of_a_video_have_names() -> None:
    frame = VideoFrame(Path("/videos/clip.mp4"), 12)
    assert (frame.name, str(frame)) == ("clip.mp4#12", "/videos/clip.mp4#12")
    assert frame.parent == Path("/videos")
