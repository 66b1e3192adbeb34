"""The checker of dataset folders: what it counts, what it finds, and its exit code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline import check_dataset as script
from data_pipeline.check_dataset import check_dataset
from data_pipeline.crop_tracks import CropConfig
from data_pipeline.dataset_checks import decode_video
from data_pipeline.dataset_report import EXAMPLES, describe
from data_pipeline.tracks import VideoFrame

MakeDataset = Callable[[str, Path], str]


def kinds(report: script.DatasetReport) -> dict[tuple[str, str], int]:
    (split,) = report.splits
    return dict(split.counts)


@pytest.fixture(autouse=True)
def small_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The boxes of these folders, of a few pixels, are not too small."""
    monkeypatch.setattr(script, "CROPS", CropConfig(min_box_px=4.0))


@pytest.mark.parametrize(
    ("name", "videos", "tracks", "frames", "visible", "images"),
    [
        ("coco", 2, 2, 2, 2, 2),
        ("got10k", 2, 2, 6, 2, 6),
        ("lasot", 3, 3, 12, 6, 12),
        ("otb", 2, 3, 7, 6, 5),
        ("own_videos", 2, 3, 17, 15, 14),
        ("trackingnet", 12, 12, 33, 33, 33),
        ("vot", 2, 2, 5, 5, 5),
    ],
)
def test_counts_of_a_sound_dataset(
    make_dataset: MakeDataset,
    tmp_path: Path,
    name: str,
    videos: int,
    tracks: int,
    frames: int,
    visible: int,
    images: int,
) -> None:
    make_dataset(name, tmp_path)
    report = check_dataset(tmp_path, deep=True)
    assert report.reader == name
    split = report.splits[0]
    assert (split.num_videos, split.num_tracks, split.num_frames) == (videos, tracks, frames)
    assert (split.num_visible, split.num_images) == (visible, images)
    assert split.image_sizes.total() == images
    if name == "got10k":  # as made, each video shows its target once
        assert set(split.counts) == {("warning", "too few usable frames")}
    else:
        assert not split.counts
        assert split.num_usable == visible
    assert report.is_usable
    assert "can be used" in describe(report)


def test_splits_are_found_and_hidden_boxes_are_no_fault(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    make_dataset("trackingnet", tmp_path)
    report = check_dataset(tmp_path)
    assert [split.split for split in report.splits] == ["train", "test"]
    assert report.splits[1].num_visible == 1
    assert not report.splits[1].counts


def boxes(*rows: str) -> Callable[[Path], None]:
    """Writes the boxes of TrackingNet's video of eleven frames, the last row repeated."""
    text = "\n".join([*rows, *[rows[-1]] * (11 - len(rows))])
    return lambda root: (root / "TRAIN_3/anno/video3_0.txt").write_text(text) and None


GOOD = "2,2,10,8"

FAULTS = {
    "broken image": (
        lambda root: (root / "TRAIN_3/frames/video3_0/7.jpg").write_bytes(b"x") and None,
        ("error", "unreadable image", 1),
        r"video3_0/7\.jpg: does not decode.*expected JPEG",
    ),
    "empty image": (
        lambda root: (root / "TRAIN_3/frames/video3_0/7.jpg").write_bytes(b"") and None,
        ("error", "unreadable image", 1),
        r"7\.jpg: does not decode as an image \(0 bytes\)",
    ),
    "image missing": (
        lambda root: (root / "TRAIN_3/frames/video3_0/7.jpg").unlink(),
        ("error", "files or annotation", 1),
        r"video3_0\.txt: as many boxes as images expected \(10\), got 11",
    ),
    "wrong delimiter": (
        boxes("1;2;3;4"),
        ("error", "files or annotation", 1),
        r"video3_0\.txt, line 1: four numbers.*commas",
    ),
    "negative width": (
        boxes("9,9,-4,5", GOOD),
        ("warning", "box without an area", 1),
        r"0\.jpg: boxes of positive width.*got x,y,w,h = 9,9,-4,5\. Mend",
    ),
    "width zero": (
        boxes(GOOD, "9,9,0,5", "9,9,0,5", GOOD),
        ("warning", "box without an area", 1),
        r"1\.jpg: boxes of positive.*\(2 frames like this\)",
    ),
    "outside": (
        boxes(GOOD, "40,2,10,8", GOOD),
        ("warning", "box outside the image", 1),
        r"1\.jpg: boxes that lie in the image expected.*got x,y,w,h = 40,2,10,8",
    ),
    "left of the image": (
        boxes("-12,2,10,8", GOOD),
        ("warning", "box outside the image", 1),
        "x,y,w,h = -12,2,10,8",
    ),
    "fractions": (
        boxes("0.1,0.2,0.3,0.4"),
        ("error", "box in fractions of the image", 1),
        "boxes in pixels expected.*Multiply",
    ),
    "no usable box in a video": (
        boxes("nan,nan,nan,nan"),
        ("warning", "too few usable frames", 1),
        "needs at least 2 frames with a usable box to give a pair, got 0 of 11",
    ),
    "many boxes outside": (
        boxes("40,2,10,8"),
        ("error", "boxes in another format", 1),
        "11 of 33 without an area or outside, 0 reaching out",
    ),
    "corners for sizes": (
        lambda root: (
            [
                path.write_text(path.read_text().replace("10,8", "40,20"))
                for path in root.glob("TRAIN_*/anno/*.txt")
            ]
            and None
        ),
        ("error", "boxes in another format", 1),
        "reaching out. Are they corners x1,y1,x2,y2",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(make_dataset: MakeDataset, tmp_path: Path, fault: str) -> None:
    spoil, (severity, kind, count), message = FAULTS[fault]
    make_dataset("trackingnet", tmp_path)
    spoil(tmp_path)
    report = check_dataset(tmp_path, splits=["train"], deep=True)
    assert kinds(report)[severity, kind] == count
    shown = [f.message for f in report.splits[0].findings if f.kind == kind]
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        raise AssertionError(shown[0])
    assert str(tmp_path) in shown[0]
    assert report.is_usable == all(severity != "error" for severity, _ in kinds(report))
    assert f"{severity}, {kind}: {count}" in describe(report)


def test_one_fault_hides_no_other(make_dataset: MakeDataset, tmp_path: Path) -> None:
    make_dataset("trackingnet", tmp_path)
    for number in range(12):
        (tmp_path / f"TRAIN_{number}/anno/video{number}_0.txt").write_text("1 2 3 4\n")
    report = check_dataset(tmp_path, splits=["train"])
    assert kinds(report)["error", "files or annotation"] == 12
    assert len(report.splits[0].findings) == EXAMPLES
    assert f"and {12 - EXAMPLES} more" in describe(report)


def test_boxes_too_small_for_preprocessing(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "CROPS", CropConfig())
    make_dataset("trackingnet", tmp_path)  # boxes of 8 px
    report = check_dataset(tmp_path, splits=["train"])
    assert kinds(report) == {("warning", "box too small"): 1} and report.is_usable
    assert "got 33 of 33 below that." in describe(report)
    boxes("2,2,10,8", "20,5,20,12", "2,2,20,12")(tmp_path)  # the second reaches out: 12 px stay
    report = check_dataset(tmp_path, splits=["train"])
    assert kinds(report) == {("warning", "box too small"): 1} and report.is_usable
    assert "got 23 of 33 below that" in describe(report)


def test_boxes_too_small_in_stills(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset("coco", tmp_path)  # boxes of 6 and 8 px
    monkeypatch.setattr(script, "CROPS", CropConfig(min_still_box_px=7.0))
    assert kinds(check_dataset(tmp_path)) == {("warning", "box too small"): 1}


def test_names_given_twice(make_dataset: MakeDataset, tmp_path: Path) -> None:
    make_dataset("got10k", tmp_path)
    (tmp_path / "train/list.txt").write_text("video_a\nvideo_b\nvideo_a\n")
    report = check_dataset(tmp_path)
    assert kinds(report)["error", "name given twice"] == 1
    assert "got 2 called got10k/video_a" in describe(report)


def test_one_image_of_each_video_unless_deep(make_dataset: MakeDataset, tmp_path: Path) -> None:
    make_dataset("trackingnet", tmp_path)
    (tmp_path / "TRAIN_3/frames/video3_0/7.jpg").write_bytes(b"x")
    report = check_dataset(tmp_path, splits=["train"])
    assert report.is_usable
    assert report.splits[0].image_sizes == {(32, 24): 12}
    assert "12 of 33 decoded (--deep decodes all)" in describe(report)


def test_processes_find_what_one_finds(make_dataset: MakeDataset, tmp_path: Path) -> None:
    make_dataset("own_videos", tmp_path)
    (tmp_path / "walk/5.jpg").write_bytes(b"x")
    alone = check_dataset(tmp_path, deep=True)
    together = check_dataset(tmp_path, deep=True, num_workers=1)
    assert describe(alone) == describe(together)
    assert not together.is_usable


def test_video_with_more_frames_than_boxes(make_dataset: MakeDataset, tmp_path: Path) -> None:
    make_dataset("own_videos", tmp_path)
    decoded = decode_video([VideoFrame(tmp_path / "race.avi", number) for number in range(2)])
    assert len(decoded.sizes) == 2
    assert "as many frames as rows in its box file expected (2), got 3" in decoded.faults[0]


def test_unknown_layout_shows_the_known_ones(make_dataset: MakeDataset, tmp_path: Path) -> None:
    make_dataset("got10k", tmp_path / "data")
    for folder, hint in ((tmp_path, "data is in"), (tmp_path / "data" / "train", "data is in")):
        report = check_dataset(folder)
        assert not report.is_usable
        text = describe(report)
        assert hint in text and "layout of got10k" in text
        assert "TRAIN_0/anno/<video>.txt" in text
    missing = check_dataset(tmp_path, reader="lasot")
    assert "the layout of lasot expected" in describe(missing)
    assert "there is none" in describe(check_dataset(tmp_path / "nowhere"))
    (tmp_path / "clip.mp4").touch()
    assert "folder expected, it is a file" in describe(check_dataset(tmp_path / "clip.mp4"))
    with pytest.raises(ValueError, match=r"reader must be one of coco.*got 'imagenet'"):
        check_dataset(tmp_path, reader="imagenet")
    with pytest.raises(ValueError, match=r"num_workers must be at least 0 .* got -1"):
        check_dataset(tmp_path, deep=True, num_workers=-1)


def test_an_unknown_split_shows_those_that_are_there(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    make_dataset("got10k", tmp_path)
    text = describe(check_dataset(tmp_path, splits=["tran"]))
    assert r"one of the splits that it holds expected (train), got 'tran'" in text


def test_a_folder_of_many_files_is_told_from_one_of_eight(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.txt").touch()
    assert "6.txt, 7.txt. Arrange" in describe(check_dataset(tmp_path))
    (tmp_path / "8.txt").touch()
    assert "6.txt, 7.txt, ... (9 entries). Arrange" in describe(check_dataset(tmp_path))


def test_exit_code(
    make_dataset: MakeDataset, tmp_path: Path, run_script: Callable[..., Any]
) -> None:
    make_dataset("own_videos", tmp_path)
    (tmp_path / "walk.txt").write_text("2,3,12,11\n" * 11)
    sound = run_script(Path(script.__file__), tmp_path, "--folder", str(tmp_path))
    assert sound.returncode == 0, sound.stderr
    assert "2 videos, 3 tracks, 17 frames" in sound.stdout
    (tmp_path / "walk.txt").write_text("1,2,3\n")
    broken = run_script(Path(script.__file__), tmp_path, "--folder", str(tmp_path))
    assert broken.returncode == 1
    assert "walk.txt, line 1: four numbers" in broken.stdout
