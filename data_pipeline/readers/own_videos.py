"""Your own videos: a video file or a folder of images, and beside it a text file of boxes.

::

    my_videos/
        dog.mp4     dog.txt
        walk/       walk.txt          walk/ holds 1.jpg, 2.jpg, ...
        race.avi    race.1.txt  race.2.txt      two targets in one video

A box file has one row ``x,y,w,h`` per frame: left, top, width and height in pixels, 0-based, with
commas, tabs or spaces between. ``nan,nan,nan,nan`` or ``0,0,0,0`` says that the target is not seen.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data_pipeline.boxes import xywh_to_xyxy
from data_pipeline.readers.annotations import (
    ANY_DELIMITER,
    VideoReader,
    expect_count,
    find_images,
    is_finite,
    is_image,
    natural_order,
    read_rows,
)
from data_pipeline.tracks import DatasetError, Frame, Track, VideoFrame, count_frames

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


def read(folder: Path, split: str = "", *, dataset: str = "own_videos") -> Iterator[Track]:
    """The tracks of a folder, by name. Decodes no frame; a video's header is asked for its length.

    Args:
        folder: the videos and their box files, as this module's text shows.
        split: a sub-folder of it, such as ``train`` and ``val``; empty for the folder itself.
        dataset: what the tracks call their dataset.

    Raises:
        DatasetError: a video has no box file or the reverse, a file does not parse, or boxes and
            frames do not count the same.
    """
    for video in list_videos(folder, split, dataset=dataset):
        yield from video()


def find_splits(folder: Path) -> tuple[str, ...]:
    """The folder itself (an empty name), or its sub-folders, where videos lie beside box files."""
    if not folder.is_dir():
        return ()
    if _holds_videos(folder):
        return ("",)
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    return tuple(path.name for path in inner if _holds_videos(path))


def list_videos(folder: Path, split: str, *, dataset: str = "own_videos") -> Iterator[VideoReader]:
    """The videos, each to be read when called."""
    root = folder / split
    if not root.is_dir():
        raise DatasetError(
            f"{root}: a folder of videos expected, there is none. Check the path and the split."
        )
    videos = _find_videos(root)
    if not videos:
        raise DatasetError(
            f"{root}: videos ({', '.join(VIDEO_SUFFIXES)}) or folders of images expected, each "
            "with a box file <name>.txt beside it, none found. Put them there."
        )
    box_files = _find_box_files(root, videos)
    for name, video in videos.items():
        yield partial(_read_video, name, video, box_files[name], dataset)


def _holds_videos(folder: Path) -> bool:
    """Whether some video of a folder has a box file beside it."""
    names = {path.stem for path in folder.glob("*.txt")}
    return bool(names) and any(names & {name, f"{name}.1"} for name in _find_videos(folder))


def _find_videos(root: Path) -> dict[str, Path]:
    """Video files and folders of images by name."""
    videos: dict[str, Path] = {}
    for path in sorted(root.iterdir(), key=natural_order):
        is_folder = path.is_dir() and any(is_image(entry.name) for entry in path.iterdir())
        if path.name.startswith(".") or not (is_folder or path.suffix.lower() in VIDEO_SUFFIXES):
            continue
        name = path.name if is_folder else path.stem
        if name in videos:
            raise DatasetError(
                f"{path}: one video of the name {name!r} expected, there is also "
                f"{videos[name].name}. Rename one of them and its box file."
            )
        videos[name] = path
    return videos


def _find_box_files(root: Path, videos: dict[str, Path]) -> dict[str, dict[str, Path]]:
    """The box files of each video, by target."""
    found: dict[str, dict[str, Path]] = {name: {} for name in videos}
    for path in sorted(root.glob("*.txt"), key=natural_order):
        numbered = re.fullmatch(r"(.+)\.([0-9]+)", path.stem)
        name, target = (path.stem, "0")
        if name not in videos and numbered:
            name, target = numbered[1], numbered[2]
        if name not in videos:
            raise DatasetError(
                f"{path}: a video {path.stem} (a video file or a folder of images) expected beside "
                "the box file, there is none. Add the video, or move the file elsewhere."
            )
        found[name][target] = path
    if missing := [name for name, files in found.items() if not files]:
        raise DatasetError(
            f"{root / missing[0]}.txt: a box file for {videos[missing[0]].name} expected, there is "
            f"none ({len(missing)} videos have none). Write one row x,y,w,h per frame into it, or "
            "move the video elsewhere."
        )
    return found


def _read_video(
    name: str, video: Path, box_files: dict[str, Path], dataset: str
) -> Iterator[Track]:
    frames: Sequence[Frame] = find_images(video) if video.is_dir() else ()
    for target, path in box_files.items():
        rows = read_rows(path, "x,y,w,h", delimiter=ANY_DELIMITER)
        if not video.is_dir():
            count = count_frames(video, expected=len(rows))
            frames = tuple(VideoFrame(video, number) for number in range(count))
        expect_count(path, len(rows), len(frames), "boxes")
        boxes = xywh_to_xyxy(np.where((rows == 0).all(axis=1, keepdims=True), np.nan, rows))
        yield Track(
            dataset=dataset,
            video=name,
            target=target,
            image_files=frames,
            boxes=boxes,
            visible=is_finite(boxes),
            frame_numbers=np.arange(len(frames)),
        )
