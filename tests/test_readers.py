"""Readers of datasets, on small folders in each dataset's true layout."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipeline.readers import READERS, got10k, otb
from data_pipeline.tracks import DatasetError, Track


def write_images(folder: Path, count: int, first: int = 1, digits: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = np.full((24, 32, 3), 90, np.uint8)
    for number in range(first, first + count):
        cv2.imwrite(str(folder / f"{number:0{digits}d}.jpg"), image)


def make_got10k(root: Path) -> Path:
    for name in ("video_a", "video_b"):
        folder = root / "train" / name
        write_images(folder, 3)
        (folder / "groundtruth.txt").write_text("1.0,2.0,10.0,8.0\n2,2,10,8\n3,2,10,8\n")
        (folder / "absence.label").write_text("0\n1\n0\n")
        (folder / "cover.label").write_text("8\n8\n0\n")
        (folder / "meta_info.ini").write_text("[METAINFO]\nurl: 100%\nobject_class: red fox\n")
    (root / "train" / "list.txt").write_text("video_b\nvideo_a")
    return root


def make_coco(root: Path) -> Path:
    write_images(root / "train2017", 2, digits=12)
    objects = [
        {"id": 7, "image_id": 2, "category_id": 18, "bbox": [1, 2, 10, 8], "iscrowd": 0},
        {"id": 8, "image_id": 2, "category_id": 18, "bbox": [0, 0, 30, 20], "iscrowd": 1},
        {"id": 9, "image_id": 1, "category_id": 1, "bbox": [4.5, 2, 6, 8], "iscrowd": 0},
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in (1, 2)],
        "annotations": objects,
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    return root


def make_otb(root: Path) -> Path:
    write_images(root / "Coke" / "img", 3, digits=4)
    (root / "Coke" / "groundtruth_rect.txt").write_text("10,20,5,6\r\n11\t20\t5\t6\n0 0  0 0\n")
    write_images(root / "Jogging" / "img", 2, digits=4)
    (root / "Jogging" / "groundtruth_rect.1.txt").write_text("1,1,5,6\n2,2,5,6")
    (root / "Jogging" / "groundtruth_rect.2.txt").write_text("9,9,5,6\n8,8,5,6\n")
    return root


MAKERS = {"got10k": make_got10k, "coco": make_coco, "otb": make_otb}
SPLITS = {"got10k": "train", "coco": "train2017", "otb": ""}


def read(name: str, folder: Path) -> list[Track]:
    return list(READERS[name](folder, SPLITS[name]))


def test_got10k(tmp_path: Path) -> None:
    tracks = read("got10k", make_got10k(tmp_path))
    assert [track.name for track in tracks] == ["got10k/video_b", "got10k/video_a"]
    track = tracks[0]
    assert track.category == "red fox"
    assert track.boxes[0].tolist() == [1, 2, 11, 10]
    assert track.visible.tolist() == [True, False, False]
    assert [path.name for path in track.image_files][:2] == ["00000001.jpg", "00000002.jpg"]
    assert track.frame_numbers.tolist() == [0, 1, 2]


def test_got10k_labels_may_be_missing(tmp_path: Path) -> None:
    make_got10k(tmp_path)
    for name in ("absence.label", "cover.label", "meta_info.ini"):
        (tmp_path / "train" / "video_b" / name).unlink()
    track = read("got10k", tmp_path)[0]
    assert track.visible.all()
    assert track.category == ""


def test_got10k_test_split_knows_the_first_box_only(tmp_path: Path) -> None:
    make_got10k(tmp_path)
    (tmp_path / "train").rename(tmp_path / "test")
    (tmp_path / "test" / "video_b" / "groundtruth.txt").write_text("1,2,10,8\n")
    track = next(got10k.read(tmp_path, "test"))
    assert np.isnan(track.boxes[1:]).all()
    assert track.visible.tolist() == [True, False, False]


def test_coco(tmp_path: Path) -> None:
    tracks = read("coco", make_coco(tmp_path))
    assert [(track.target, track.category) for track in tracks] == [("9", "person"), ("7", "dog")]
    assert all(track.is_still and len(track) == 1 for track in tracks)
    assert tracks[0].boxes.tolist() == [[4.5, 2, 10.5, 10]]
    assert tracks[0].image_files[0] == tmp_path / "train2017" / "000000000001.jpg"


def test_otb(tmp_path: Path) -> None:
    coke, first, second = read("otb", make_otb(tmp_path))
    assert coke.boxes[:2].tolist() == [[9, 19, 14, 25], [10, 19, 15, 25]]
    assert np.isnan(coke.boxes[2]).all()
    assert coke.visible.tolist() == [True, True, False]
    assert (first.name, second.name) == ("otb/Jogging.1", "otb/Jogging.2")
    assert second.boxes[0].tolist() == [8, 8, 13, 14]


@pytest.mark.parametrize(
    ("name", "num_images", "last"), [("Diving", 231, 215), ("Football1", 81, 74)]
)
def test_otb_leaves_out_what_the_official_range_does(
    tmp_path: Path, name: str, num_images: int, last: int
) -> None:
    (tmp_path / name / "img").mkdir(parents=True)
    for number in range(1, num_images + 1):
        (tmp_path / name / "img" / f"{number:04d}.jpg").touch()
    (tmp_path / name / "groundtruth_rect.txt").write_text("5,5,9,9\n" * last)
    (track,) = otb.read(tmp_path)
    assert len(track) == last
    assert track.image_files[-1].name == f"{last:04d}.jpg"


@pytest.mark.parametrize("num_boxes", [471, 770])
def test_otb_range_that_starts_late(tmp_path: Path, num_boxes: int) -> None:
    """David's images start at 300; its boxes come for those frames, or for all."""
    images = tmp_path / "David" / "img"
    images.mkdir(parents=True)
    for number in range(1, 771):
        (images / f"{number:04d}.jpg").touch()
    offset = 771 - num_boxes
    rows = [f"{number},1,9,9\n" for number in range(offset, 771)]
    (tmp_path / "David" / "groundtruth_rect.txt").write_text("".join(rows))
    (track,) = otb.read(tmp_path)
    assert (track.frame_numbers[0], track.frame_numbers[-1]) == (299, 769)
    assert track.image_files[0].name == "0300.jpg"
    assert track.boxes[0, 0] == 299 and track.boxes[-1, 0] == 769


@pytest.mark.parametrize("name", MAKERS)
def test_readers_open_no_image(tmp_path: Path, name: str) -> None:
    MAKERS[name](tmp_path)
    for image in tmp_path.rglob("*.jpg"):
        image.write_bytes(b"")
    assert read(name, tmp_path)


def remove(pattern: str) -> Callable[[Path], None]:
    return lambda root: [path.unlink() for path in root.glob(pattern)] and None


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_text(text) and None


def edit_coco(change: Callable[[dict[str, list[dict[str, object]]]], object]) -> object:
    def apply(root: Path) -> None:
        path = root / "annotations" / "instances_train2017.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


FAULTS = {
    "got10k: no list": ("got10k", remove("train/list.txt"), r"list\.txt"),
    "got10k: empty list": ("got10k", write("train/list.txt", "\n"), r"list\.txt.*empty"),
    "got10k: video not there": ("got10k", write("train/list.txt", "gone"), "gone.*there is none"),
    "got10k: path in list": ("got10k", write("train/list.txt", "../x"), r"list\.txt.*'\.\./x'"),
    "got10k: no images": ("got10k", remove("train/video_b/*.jpg"), "video_b.*none found"),
    "got10k: no boxes": (
        "got10k",
        remove("train/video_b/groundtruth.txt"),
        "groundtruth.*expected",
    ),
    "got10k: image missing": (
        "got10k",
        remove("train/video_b/*2.jpg"),
        r"groundtruth.*images expected \(2\), got 3",
    ),
    "got10k: box missing": (
        "got10k",
        write("train/video_b/groundtruth.txt", "1,2,3,4\n"),
        r"images expected \(3\), got 1",
    ),
    "got10k: wrong delimiter": (
        "got10k",
        write("train/video_b/groundtruth.txt", "1,2,3,4\n1;2;3;4\n1,2,3,4\n"),
        "line 2.*commas.*1;2;3;4",
    ),
    "got10k: three numbers": (
        "got10k",
        write("train/video_b/groundtruth.txt", "1,2,3\n" * 3),
        "line 1: four numbers",
    ),
    "got10k: labels too few": ("got10k", write("train/video_b/cover.label", "8\n"), "cover.label"),
    "got10k: labels no numbers": (
        "got10k",
        write("train/video_b/absence.label", "0\nno\n0\n"),
        "absence.label.*whole number",
    ),
    "got10k: broken ini": (
        "got10k",
        write("train/video_b/meta_info.ini", "object_class: fox\n"),
        "meta_info.ini.*METAINFO",
    ),
    "coco: no annotations": ("coco", remove("annotations/*"), "instances_train2017.json.*expected"),
    "coco: no JSON": (
        "coco",
        write("annotations/instances_train2017.json", "{"),
        "instances_train2017.json: JSON expected",
    ),
    "coco: a list": (
        "coco",
        write("annotations/instances_train2017.json", "[]"),
        "JSON object.*got a list",
    ),
    "coco: other JSON": (
        "coco",
        write("annotations/instances_train2017.json", "{}"),
        "'images', 'annotations' and 'categories'",
    ),
    "coco: image missing": ("coco", remove("train2017/*1.jpg"), "000000000001.jpg.*there is none"),
    "coco: unknown image": (
        "coco",
        edit_coco(lambda c: c["annotations"][0].update(image_id=99)),
        "fit each other.*99",
    ),
    "coco: unknown category": (
        "coco",
        edit_coco(lambda c: c["annotations"][2].update(category_id=99)),
        "known category_id.*99",
    ),
    "coco: bbox of three": (
        "coco",
        edit_coco(lambda c: c["annotations"][2].update(bbox=[1, 2, 3])),
        "four numbers.*object 9",
    ),
    "otb: no boxes": ("otb", remove("Coke/groundtruth_rect.txt"), "groundtruth_rect.*no such file"),
    "otb: empty boxes": ("otb", write("Coke/groundtruth_rect.txt", "\n"), "rect.txt.*empty"),
    "otb: image missing": ("otb", remove("Coke/img/0002.jpg"), r"images expected \(2\), got 3"),
    "otb: bad row": (
        "otb",
        write("Coke/groundtruth_rect.txt", "1,2,3,4\n1,2,x,4\n1,2,3,4\n"),
        "line 2: four numbers",
    ),
    "otb: unknown file": (
        "otb",
        write("Coke/groundtruth_rect_old.txt", "1,2,3,4\n"),
        "groundtruth_rect_old.txt",
    ),
    "otb: range not there": (
        "otb",
        lambda root: (root / "Coke").rename(root / "David") and None,
        "300 to 770 expected.*471 are missing",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_the_file_and_what_to_do(tmp_path: Path, fault: str) -> None:
    name, spoil, message = FAULTS[fault]
    MAKERS[name](tmp_path)
    spoil(tmp_path)
    with pytest.raises(DatasetError, match=f"(?s){message}") as raised:
        read(name, tmp_path)
    text = str(raised.value)
    assert str(tmp_path) in text
    assert text.endswith((".", "it again.")) and "expected" in text


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("exists", [True, False])
def test_missing_and_empty_folders(tmp_path: Path, name: str, exists: bool) -> None:
    folder = tmp_path / "nothing"
    if exists:
        folder.mkdir()
    with pytest.raises(DatasetError, match=r"nothing.*expected"):
        read(name, folder)
