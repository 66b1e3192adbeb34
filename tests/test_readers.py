"""Readers of datasets, on small folders in each dataset's true layout."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.crop_tracks import CropConfig, DropReport, FrameSource, crop_track
from data_pipeline.readers import LAYOUTS, READERS, got10k, otb, vot
from data_pipeline.readers.annotations import ANY_DELIMITER, find_images, read_rows
from data_pipeline.readers.lasot_videos import TEST_VIDEOS, TRAINING_VIDEOS
from data_pipeline.tracks import DatasetError, Track, VideoFrame, read_image

NAMES = sorted(set(READERS) - {"synthetic"})


SPELLINGS = "1 -2.5 +3 .5 4. 007 1e3 2.5E-7 nan NaN -inf Infinity 1e400 0.1 9007199254740993"
SPELLINGS += " 123.456 1_000 123456789.123456789 2.2250738585072011e-308 5e-324 -0"


@pytest.fixture
def read(make_dataset: Callable[[str, Path], str], tmp_path: Path) -> Callable[[str], list[Track]]:
    """Makes a small dataset and reads it."""

    def make_and_read(name: str) -> list[Track]:
        return list(READERS[name](tmp_path, make_dataset(name, tmp_path)))

    return make_and_read


def test_got10k(read: Callable[[str], list[Track]]) -> None:
    tracks = read("got10k")
    assert [track.name for track in tracks] == ["got10k/video_b", "got10k/video_a"]
    track = tracks[0]
    assert track.category == "red fox"
    assert track.boxes[0].tolist() == [1, 2, 11, 10]
    assert track.visible.tolist() == [True, False, False]
    assert [path.name for path in track.image_files][:2] == ["00000001.jpg", "00000002.jpg"]
    assert track.frame_numbers.tolist() == [0, 1, 2]


def test_got10k_labels_may_be_missing(
    make_dataset: Callable[[str, Path], str], tmp_path: Path
) -> None:
    make_dataset("got10k", tmp_path)
    for name in ("absence.label", "cover.label", "meta_info.ini"):
        (tmp_path / "train" / "video_b" / name).unlink()
    track = next(got10k.read(tmp_path))
    assert track.visible.all()
    assert track.category == ""


def test_got10k_val_is_scored_by_cover_alone(
    make_dataset: Callable[[str, Path], str], tmp_path: Path
) -> None:
    make_dataset("got10k", tmp_path)
    (tmp_path / "train").rename(tmp_path / "val")
    assert next(got10k.read(tmp_path, "val")).visible.tolist() == [True, True, False]
    (tmp_path / "val" / "video_b" / "cover.label").unlink()
    assert next(got10k.read(tmp_path, "val")).visible.tolist() == [True, False, True]


def test_got10k_test_split_knows_the_first_box_only(
    make_dataset: Callable[[str, Path], str], tmp_path: Path
) -> None:
    make_dataset("got10k", tmp_path)
    (tmp_path / "train").rename(tmp_path / "test")
    (tmp_path / "test" / "video_b" / "groundtruth.txt").write_text("1,2,10,8\n")
    track = next(got10k.read(tmp_path, "test"))
    assert np.isnan(track.boxes[1:]).all()
    assert track.visible.tolist() == [True, False, False]


def test_coco(read: Callable[[str], list[Track]], tmp_path: Path) -> None:
    tracks = read("coco")
    assert [(track.target, track.category) for track in tracks] == [("9", "person"), ("7", "dog")]
    assert all(track.is_still and len(track) == 1 for track in tracks)
    assert tracks[0].boxes.tolist() == [[4.5, 2, 10.5, 10]]
    assert tracks[0].image_files[0] == tmp_path / "train2017" / "000000000001.jpg"


def test_trackingnet(read: Callable[[str], list[Track]], tmp_path: Path) -> None:
    tracks = read("trackingnet")
    assert [track.name for track in tracks] == [f"trackingnet/video{n}_0" for n in range(12)]
    assert [path.name for path in tracks[3].image_files] == [f"{n}.jpg" for n in range(11)]
    assert tracks[3].boxes[10].tolist() == [10.5, 2, 20.5, 10]
    assert tracks[3].visible.all()
    (hidden,) = READERS["trackingnet"](tmp_path, "test")
    assert hidden.boxes[0].tolist() == [3, 4, 13, 12]
    assert hidden.visible.tolist() == [True, False]
    chosen = READERS["trackingnet"](tmp_path, "TRAIN_11,TRAIN_0")
    assert [track.video for track in chosen] == ["video11_0", "video0_0"]


def test_lasot(read: Callable[[str], list[Track]], tmp_path: Path) -> None:
    tracks = read("lasot")
    assert [track.name for track in tracks] == ["lasot/cat-2", "lasot/cat-10", "lasot/dog-4"]
    assert tracks[0].category == "cat"
    assert tracks[0].boxes[0].tolist() == [2, 4, 12, 12]
    assert tracks[0].visible.tolist() == [True, False, False, True]
    (test_track,) = READERS["lasot"](tmp_path, "test")
    assert test_track.name == "lasot/dog-7"


def test_lasot_says_how_many_videos_are_missing(
    read: Callable[[str], list[Track]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read("lasot")
    assert "3 of 1120 videos" in caplog.text


def test_lasot_test_set_without_categories(
    make_dataset: Callable[[str, Path], str], tmp_path: Path
) -> None:
    make_dataset("lasot", tmp_path)
    (track,) = READERS["lasot"](tmp_path / "dog", "test")
    assert track.video == "dog-7"


def test_official_lists_of_lasot() -> None:
    assert (len(TRAINING_VIDEOS), len(TEST_VIDEOS)) == (1120, 280)
    assert len({*TRAINING_VIDEOS, *TEST_VIDEOS}) == 1400
    assert {"airplane-1", "zebra-17", "rubicCube-14"} <= set(TEST_VIDEOS)


def test_vot(read: Callable[[str], list[Track]]) -> None:
    ball, ant = read("vot")
    assert (ball.name, ant.name) == ("vot/ball", "vot/ant")
    assert ball.polygons is not None and ball.polygons[0].tolist() == [
        [3, 4],
        [13, 4],
        [13, 14],
        [3, 14],
    ]
    assert ball.boxes[0].tolist() == [3, 4, 14, 15]
    assert {name: flags.tolist() for name, flags in ball.tags.items()} == {
        "occlusion": [False, True, False],
        "size_change": [False, False, False],
    }
    assert ball.attributes == ("occlusion",)
    assert ant.polygons is None
    assert ant.boxes[0].tolist() == [3, 4, 13, 15]


def test_box_around_a_turned_square_keeps_its_area() -> None:
    square = np.array([[[8.0, 4.0], [12.0, 8.0], [8.0, 12.0], [4.0, 8.0]]])
    ((x1, y1, x2, y2),) = vot.box_around(square)
    assert (x2 - x1 - 1) * (y2 - y1 - 1) == pytest.approx(32)
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((8.5, 8.5))
    assert np.isnan(vot.box_around(np.full((1, 4, 2), np.nan))).all()


def test_own_videos(read: Callable[[str], list[Track]], tmp_path: Path) -> None:
    first, second, walk = read("own_videos")
    assert [track.name for track in (first, second, walk)] == [
        "own_videos/race.1",
        "own_videos/race.2",
        "own_videos/walk",
    ]
    assert first.image_files == tuple(VideoFrame(tmp_path / "race.avi", n) for n in range(3))
    assert read_image(first.image_files[2]).shape == (48, 64, 3)
    assert second.boxes[0].tolist() == [20, 3, 30, 11]
    assert [path.name for path in walk.image_files] == [f"{n}.jpg" for n in range(1, 12)]
    assert walk.visible.tolist() == [False, *[True] * 9, False]


def test_own_videos_in_sub_folders(
    make_dataset: Callable[[str, Path], str], tmp_path: Path
) -> None:
    make_dataset("own_videos", tmp_path / "val")
    assert LAYOUTS["own_videos"].find_splits(tmp_path) == ("val",)
    assert len(list(READERS["own_videos"](tmp_path, "val"))) == 3


def test_otb(read: Callable[[str], list[Track]]) -> None:
    coke, first, second = read("otb")
    assert coke.boxes[:2].tolist() == [[9, 9, 14, 15], [10, 9, 15, 15]]
    assert np.isnan(coke.boxes[2]).all()
    assert coke.visible.tolist() == [True, True, False]
    assert (first.name, second.name) == ("otb/Jogging.1", "otb/Jogging.2")
    assert second.boxes[0].tolist() == [8, 8, 13, 14]


def test_otb_empty_target_is_none(make_dataset: Callable[[str, Path], str], tmp_path: Path) -> None:
    """Human4 is shipped with an empty first file; its second is the one that is evaluated."""
    make_dataset("otb", tmp_path)
    (tmp_path / "Jogging" / "groundtruth_rect.1.txt").write_text("")
    assert [track.name for track in otb.read(tmp_path)] == ["otb/Coke", "otb/Jogging.2"]


def make_sequence(root: Path, name: str, numbers: range, num_boxes: int, digits: int = 4) -> None:
    """A sequence of empty images, and boxes whose x is the number of their row."""
    (root / name / "img").mkdir(parents=True)
    for number in numbers:
        (root / name / "img" / f"{number:0{digits}d}.jpg").touch()
    rows = [f"{row},1,9,9\n" for row in range(1, num_boxes + 1)]
    (root / name / "groundtruth_rect.txt").write_text("".join(rows))


@pytest.mark.parametrize(
    ("name", "numbers", "num_boxes", "first", "last"),
    [
        ("Diving", range(1, 232), 215, 1, 215),
        ("football1", range(1, 82), 74, 1, 74),
        ("David", range(1, 771), 471, 300, 770),
        ("Tiger1", range(1, 355), 354, 6, 354),
        ("BLURCAR3", range(3, 360), 357, 3, 359),
        ("BlurCar1", range(247, 989), 742, 247, 988),
        ("BlurCar4", range(18, 398), 380, 18, 397),
        ("Freeman3", range(1, 461), 460, 1, 460),
        ("Freeman4", range(1, 284), 283, 1, 283),
        ("Coke", range(1, 6), 5, 1, 5),
    ],
)
def test_otb_official_frame_ranges(
    tmp_path: Path, name: str, numbers: range, num_boxes: int, first: int, last: int
) -> None:
    """Images or boxes beyond the range are left out; boxes come for the range, or for all."""
    make_sequence(tmp_path, name, numbers, num_boxes)
    (track,) = otb.read(tmp_path)
    assert len(track) == last - first + 1
    assert (track.image_files[0].name, track.image_files[-1].name) == (
        f"{first:04d}.jpg",
        f"{last:04d}.jpg",
    )
    assert (track.frame_numbers[0], track.frame_numbers[-1]) == (first - 1, last - 1)
    skipped = first - 1 if num_boxes > len(track) else 0
    assert track.boxes[:, 0].tolist() == list(range(skipped, skipped + len(track)))


def test_otb_names_of_five_digits(tmp_path: Path) -> None:
    make_sequence(tmp_path, "Board", range(1, 12), 11, digits=5)
    (track,) = otb.read(tmp_path)
    assert track.image_files[10].name == "00011.jpg"


@pytest.mark.parametrize("separator", [",", "\t", " ", ", ", " , ", "  "])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\n\n"])
def test_numbers_are_read_to_the_last_digit(tmp_path: Path, separator: str, line_end: str) -> None:
    fields = SPELLINGS.split()
    rows = [fields[start : start + 4] for start in range(len(fields) - 3)]
    random = np.random.default_rng(0).normal(0, 300, (50, 4)).tolist()
    rows += [list(map(repr, row)) for row in random]
    path = tmp_path / "boxes.txt"
    for lines in (rows, [row for row in rows if "1_000" not in row]):
        path.write_text(line_end.join(map(separator.join, lines)) + line_end, newline="")
        read = read_rows(path, "x,y,w,h", delimiter=ANY_DELIMITER)
        assert read.tobytes() == np.array([[float(x) for x in row] for row in lines]).tobytes()
        read[0] = 0.0  # the reader's own: nothing else holds it


@pytest.mark.parametrize("delimiter", [",", ANY_DELIMITER])
@pytest.mark.parametrize("row", ["1,2,3", "1,2,3,4,5", "1,,3,4", "1,2,3,x", "1,2 3,4,5", "1,2,3,"])
def test_a_wrong_row_is_named(tmp_path: Path, row: str, delimiter: str) -> None:
    path = tmp_path / "boxes.txt"
    for number, lines in ((1, [row, "1,2,3,4"]), (3, ["1,2,3,4", "", row]), (1, [row])):
        path.write_text("\n".join(lines))
        with pytest.raises(DatasetError, match=rf"boxes\.txt, line {number}: four numbers.*{row}"):
            read_rows(path, "x,y,w,h", delimiter=delimiter)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10.jpg", "2.jpg"], ["2.jpg", "10.jpg"]),
        (["0010.jpg", "0002.jpg", "0100.jpg"], ["0002.jpg", "0010.jpg", "0100.jpg"]),
        (["b1.PNG", "a2.jpg", ".c3.jpg", "Thumbs.db"], ["a2.jpg", "b1.PNG"]),
    ],
)
def test_images_come_in_the_order_of_their_numbers(
    tmp_path: Path, names: list[str], expected: list[str]
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert list(find_images(tmp_path)) == [tmp_path / name for name in expected]


@pytest.mark.parametrize("name", NAMES)
def test_readers_open_no_image(
    make_dataset: Callable[[str, Path], str], tmp_path: Path, name: str
) -> None:
    split = make_dataset(name, tmp_path)
    for image in tmp_path.rglob("*.jpg"):
        image.write_bytes(b"")
    assert list(READERS[name](tmp_path, split))


@pytest.mark.parametrize("name", NAMES)
def test_layouts_are_told_apart(
    make_dataset: Callable[[str, Path], str], tmp_path: Path, name: str
) -> None:
    split = make_dataset(name, tmp_path)
    fitting = {other: layout.find_splits(tmp_path) for other, layout in LAYOUTS.items()}
    assert [other for other, splits in fitting.items() if splits] == [name]
    assert split in fitting[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exists", [True, False])
def test_missing_and_empty_folders(tmp_path: Path, name: str, exists: bool) -> None:
    folder = tmp_path / "nothing"
    if exists:
        folder.mkdir()
    assert LAYOUTS[name].find_splits(folder) == ()
    with pytest.raises(DatasetError, match=r"nothing.*expected"):
        list(READERS[name](folder, "train"))


def test_crops_leave_out_frames_in_which_lasot_sees_no_target(
    read: Callable[[str], list[Track]],
) -> None:
    drops = DropReport()
    (chunk,) = crop_track(read("lasot")[0], CropConfig(min_box_px=5.0), FrameSource(), drops)
    assert chunk.frame_numbers.tolist() == [0, 3]
    assert drops.reasons["target invisible"] == 2


def test_crops_come_from_video_files(read: Callable[[str], list[Track]]) -> None:
    config = CropConfig(min_box_px=5.0)
    (chunk,) = crop_track(read("own_videos")[0], config, FrameSource(), DropReport())
    assert chunk.frame_numbers.tolist() == [0, 1, 2]
