"""Broken datasets: each fault is an error that says where, what was expected, and what to do."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.crop_tracks import CropConfig
from data_pipeline.preprocess import write_shard
from data_pipeline.readers import READERS
from data_pipeline.shard_plans import ShardPlan
from data_pipeline.shards import read_notes
from data_pipeline.tracks import DatasetError

Spoil = Callable[[Path], None]


def remove(pattern: str) -> Spoil:
    return lambda root: [path.unlink() for path in root.glob(pattern)] and None


def write(name: str, text: str) -> Spoil:
    return lambda root: (root / name).write_text(text) and None


def edit_coco(change: Callable[[dict[str, list[dict[str, object]]]], object]) -> Spoil:
    def apply(root: Path) -> None:
        path = root / "annotations" / "instances_train2017.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


FAULTS = {
    "got10k: no list": (
        "train/list.txt",
        remove("train/list.txt"),
        "with one video name per line expected, it cannot be read ([Errno 2] No such file",
    ),
    "got10k: empty list": (
        "train/list.txt",
        write("train/list.txt", "\n"),
        "at least one video name expected, the file is empty",
    ),
    "got10k: video not there": (
        "train/gone",
        write("train/list.txt", "gone"),
        "a folder of images expected, there is none",
    ),
    "got10k: path in list": (
        "train/list.txt",
        write("train/list.txt", "../x"),
        "plain folder names expected, got '../x'",
    ),
    "got10k: name too long for a file": (
        "train/list.txt",
        write("train/list.txt", "a" * 300),
        f"plain folder names expected, got '{'a' * 80}... (300 characters)'",
    ),
    "got10k: no images": (
        "train/video_b",
        remove("train/video_b/*.jpg"),
        "images (.jpg, .jpeg, .png) expected, none found",
    ),
    "got10k: no boxes": (
        "train/video_b/groundtruth.txt",
        remove("train/video_b/groundtruth.txt"),
        "with one x,y,w,h row per frame expected, it cannot be read ([Errno 2] No such file",
    ),
    "got10k: image missing": (
        "train/video_b/groundtruth.txt",
        remove("train/video_b/*2.jpg"),
        "as many boxes as images expected (2), got 3",
    ),
    "got10k: box missing": (
        "train/video_b/groundtruth.txt",
        write("train/video_b/groundtruth.txt", "1,2,3,4\n"),
        "as many boxes as images expected (3), got 1",
    ),
    "got10k: wrong delimiter": (
        "train/video_b/groundtruth.txt",
        write("train/video_b/groundtruth.txt", "1,2,3,4\n1;2;3;4\n1,2,3,4\n"),
        "four numbers 'x,y,w,h' with commas between expected, got '1;2;3;4'",
    ),
    "got10k: three numbers": (
        "train/video_b/groundtruth.txt",
        write("train/video_b/groundtruth.txt", "1,2,3\n" * 3),
        "four numbers 'x,y,w,h' with commas between expected, got '1,2,3'",
    ),
    "got10k: labels too few": (
        "train/video_b/cover.label",
        write("train/video_b/cover.label", "8\n"),
        "as many labels as images expected (3), got 1",
    ),
    "got10k: labels no numbers": (
        "train/video_b/absence.label",
        write("train/video_b/absence.label", "0\nno\n0\n"),
        "one whole number per line expected (invalid literal for int() with base 10: 'no')",
    ),
    "got10k: broken ini": (
        "train/video_b/meta_info.ini",
        write("train/video_b/meta_info.ini", "object_class: fox\n"),
        "ini file with a section [METAINFO] expected, got: File contains no section headers.",
    ),
    "got10k: an ini of which no line parses": (
        "train/video_b/meta_info.ini",
        write("train/video_b/meta_info.ini", "[METAINFO]\n" + "fox\n" * 2000),
        "ini file with a section [METAINFO] expected, got: Source contains parsing errors:",
    ),
    "coco: no annotations": (
        "annotations/instances_train2017.json",
        remove("annotations/*"),
        "COCO's annotation file expected, it cannot be read (No such file or directory)",
    ),
    "coco: no JSON": (
        "annotations/instances_train2017.json",
        write("annotations/instances_train2017.json", "{"),
        "JSON expected, it does not parse (Expecting property name enclosed in double quotes:",
    ),
    "coco: a list": (
        "annotations/instances_train2017.json",
        write("annotations/instances_train2017.json", "[]"),
        "a JSON object with COCO's instances expected, got a list",
    ),
    "coco: other JSON": (
        "annotations/instances_train2017.json",
        write("annotations/instances_train2017.json", "{}"),
        "that fit each other), got KeyError: 'categories'",
    ),
    "coco: nested without end": (
        "annotations/instances_train2017.json",
        write("annotations/instances_train2017.json", "[" * 100_000),
        "JSON expected, it does not parse (",
    ),
    "coco: number beyond floats": (
        "annotations/instances_train2017.json",
        edit_coco(lambda c: c["annotations"][2].update(bbox=[10**400, 2, 3, 4])),
        "a known category_id expected for 000000000001.jpg, got {'bbox': [",
    ),
    "coco: image in another folder": (
        "train2017/../annotations/x.jpg",
        edit_coco(lambda c: c["images"][0].update(file_name="../annotations/x.jpg")),
        "an image named by instances_train2017.json expected, there is none",
    ),
    "coco: image missing": (
        "train2017/000000000001.jpg",
        remove("train2017/*1.jpg"),
        "an image named by instances_train2017.json expected, there is none",
    ),
    "coco: unknown image": (
        "annotations/instances_train2017.json",
        edit_coco(lambda c: c["annotations"][0].update(image_id=99)),
        "that fit each other), got KeyError: 99",
    ),
    "coco: unknown category": (
        "annotations/instances_train2017.json",
        edit_coco(lambda c: c["annotations"][2].update(category_id=99)),
        "a known category_id expected for 000000000001.jpg, got {'bbox': [",
    ),
    "coco: bbox of three": (
        "annotations/instances_train2017.json",
        edit_coco(lambda c: c["annotations"][2].update(bbox=[1, 2, 3])),
        "four numbers [x, y, w, h] expected for object 9, got [1, 2, 3]",
    ),
    "otb: no boxes": (
        "Coke/groundtruth_rect.txt",
        remove("Coke/groundtruth_rect.txt"),
        "the sequence's boxes expected, there is no such file",
    ),
    "otb: empty boxes": (
        "Coke/groundtruth_rect.txt",
        write("Coke/groundtruth_rect.txt", "\n"),
        "one x,y,w,h row per frame expected, the file is empty",
    ),
    "otb: image missing": (
        "Coke/groundtruth_rect.txt",
        remove("Coke/img/0002.jpg"),
        "as many boxes as images expected (2), got 3",
    ),
    "otb: bad row": (
        "Coke/groundtruth_rect.txt",
        write("Coke/groundtruth_rect.txt", "1,2,3,4\n1,2,x,4\n1,2,3,4\n"),
        "with commas, tabs or spaces between expected, got '1,2,x,4'",
    ),
    "otb: unknown file": (
        "Coke/groundtruth_rect_old.txt",
        write("Coke/groundtruth_rect_old.txt", "1,2,3,4\n"),
        "groundtruth_rect.<number>.txt expected, got groundtruth_rect_old.txt",
    ),
    "otb: range not there": (
        "David/img",
        lambda root: (root / "Coke").rename(root / "David") and None,
        "images 300 to 770 expected (the official range of David), 471 are missing",
    ),
    "trackingnet: chunks missing": (
        ".",
        lambda root: shutil.rmtree(root / "TRAIN_7"),
        "the folders of 12 chunks expected, TRAIN_7 not there",
    ),
    "trackingnet: no annotation": (
        "TRAIN_3/anno",
        remove("TRAIN_3/anno/*.txt"),
        "annotation files <video>.txt expected, there are none",
    ),
    "trackingnet: zips not unpacked": (
        "TRAIN_3/frames",
        lambda root: shutil.rmtree(root / "TRAIN_3" / "frames"),
        "the folder of the videos' frames expected, there is none",
    ),
    "trackingnet: frames without annotation": (
        "TRAIN_3/anno/other.txt",
        lambda root: (root / "TRAIN_3" / "frames" / "other").mkdir(),
        "annotation for each folder of frames expected, 1 have none",
    ),
    "trackingnet: annotation without frames": (
        "TRAIN_3/frames/other",
        write("TRAIN_3/anno/other.txt", "1,2,3,4\n"),
        "a folder of images expected, there is none",
    ),
    "trackingnet: image missing": (
        "TRAIN_3/anno/video3_0.txt",
        remove("TRAIN_3/frames/video3_0/4.jpg"),
        "as many boxes as images expected (10), got 11",
    ),
    "trackingnet: wrong delimiter": (
        "TRAIN_0/anno/video0_0.txt",
        write("TRAIN_0/anno/video0_0.txt", "\n1 2 3 4\n"),
        "four numbers 'x,y,w,h' with commas between expected, got '1 2 3 4'",
    ),
    "lasot: no videos": (
        ".",
        lambda root: [shutil.rmtree(root / name) for name in ("cat", "dog")] and None,
        "videos of LaSOT's train list expected (<category>/<category>-<number>/img), none found",
    ),
    "lasot: unknown video": (
        "cat/cat-21",
        lambda root: (root / "cat" / "cat-2").rename(root / "cat" / "cat-21") and None,
        "one of LaSOT's 1,400 videos expected (airplane-1 to zebra-20), 1 are none of them",
    ),
    "lasot: video twice": (
        "cat/cat-2",
        lambda root: shutil.copytree(root / "cat" / "cat-2", root / "cat-2") and None,
        "each video once expected, it also lies in",
    ),
    "lasot: no flags": (
        "cat/cat-2/out_of_view.txt",
        remove("cat/cat-2/out_of_view.txt"),
        "flag (0 or 1) per frame expected, it cannot be read ([Errno 2] No such file",
    ),
    "lasot: flags too few": (
        "cat/cat-2/full_occlusion.txt",
        write("cat/cat-2/full_occlusion.txt", "0,1\n"),
        "as many flags as images expected (4), got 2",
    ),
    "lasot: flags no flags": (
        "cat/cat-2/full_occlusion.txt",
        write("cat/cat-2/full_occlusion.txt", "0,1,2,0\n"),
        "0 or 1 with commas between expected, got '2'",
    ),
    "lasot: box missing": (
        "cat/cat-2/groundtruth.txt",
        write("cat/cat-2/groundtruth.txt", "1,2,3,4\n"),
        "as many boxes as images expected (4), got 1",
    ),
    "vot: no list": (
        "list.txt",
        remove("list.txt"),
        "with one video name per line expected, it cannot be read ([Errno 2] No such file",
    ),
    "vot: path in list": (
        "list.txt",
        write("list.txt", "/etc\n"),
        "plain folder names expected, got '/etc'",
    ),
    "vot: region missing": (
        "ball/groundtruth.txt",
        write("ball/groundtruth.txt", "3,4,13,4,13,14,3,14\n"),
        "as many regions as images expected (3), got 1",
    ),
    "vot: six numbers": (
        "ball/groundtruth.txt",
        write("ball/groundtruth.txt", "1,2,3,4,5,6\n" * 3),
        "four numbers 'x1,y1,x2,y2,x3,y3,x4,y4' with commas between expected, got '1,2,3,4,5,6'",
    ),
    "vot: polygons and boxes": (
        "ball/groundtruth.txt",
        write("ball/groundtruth.txt", "3,4,13,4,13,14,3,14\n1,2,3,4\n1,2,3,4\n"),
        "eight numbers 'x1,y1,x2,y2,x3,y3,x4,y4' with commas between expected, got '1,2,3,4'",
    ),
    "vot: masks": (
        "ball/groundtruth.txt",
        write("ball/groundtruth.txt", "m10,10,5,5,3,4\n" * 3),
        "numbers 'x1,y1,x2,y2,x3,y3,x4,y4' with commas between expected, got 'm10,10,5,5,3,4'",
    ),
    "vot: tag is no flag": (
        "ball/occlusion.tag",
        write("ball/occlusion.tag", "0\nyes\n"),
        "tag 0 or 1 per line expected, got 'yes'",
    ),
    "vot: tags too many": (
        "ball/occlusion.tag",
        write("ball/occlusion.tag", "0\n" * 4),
        "at most 3 tags expected, one per image, got 4",
    ),
    "vot: images elsewhere": (
        "ball/sequence",
        write("ball/sequence", "channels.color=../../secret/%08d.jpg\n"),
        "channels.color within the sequence's folder expected, got '../../secret/%08d.jpg'",
    ),
    "vot: images in a folder of a name too long": (
        "ball/sequence",
        write("ball/sequence", f"channels.color={'a' * 300}/%08d.jpg\n"),
        f"within the sequence's folder expected, got '{'a' * 80}... (309 characters)'",
    ),
    "own_videos: no box file": (
        "walk.txt",
        remove("walk.txt"),
        "a box file for walk expected, there is none (1 videos have none)",
    ),
    "own_videos: no video": (
        "other.txt",
        write("other.txt", "1,2,3,4\n"),
        "file or a folder of images) expected beside the box file, there is none",
    ),
    "own_videos: name twice": (
        "race.mp4",
        write("race.mp4", ""),
        "one video of the name 'race' expected, there is also race.avi",
    ),
    "own_videos: box missing": (
        "walk.txt",
        write("walk.txt", "1,2,3,4\n"),
        "as many boxes as images expected (11), got 1",
    ),
    "own_videos: video shorter": (
        "race.2.txt",
        write("race.2.txt", "1,2,3,4\n" * 4),
        "as many boxes as images expected (3), got 4",
    ),
    "own_videos: no video inside": (
        "race.avi",
        write("race.avi", "text"),
        "a video that OpenCV can open expected, it cannot",
    ),
    "own_videos: no number": (
        "walk.txt",
        write("walk.txt", "1,2,x,4\n"),
        "with commas, tabs or spaces between expected, got '1,2,x,4'",
    ),
}


MESSAGE = re.compile(
    r"(?P<file>[^:]*?)(, line \d+)?: (?P<expected>.*?expected)(?P<came>\W.+?)\. "
    r"(Add|Check|Download|Extract|List|Mend|Move|Put|Remove|Rename|Restore|Rewrite|Unpack|Write) "
    r".+\.",
    re.DOTALL,
)
"""What every error says: where, what was expected, what came, and what to do."""


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_the_file_what_was_expected_what_came_and_what_to_do(
    make_dataset: Callable[[str, Path], str], tmp_path: Path, fault: str
) -> None:
    file, spoil, expected_and_came = FAULTS[fault]
    reader = fault.partition(":")[0]
    split = make_dataset(reader, tmp_path)
    spoil(tmp_path)
    with pytest.raises(DatasetError) as raised:
        list(READERS[reader](tmp_path, split))
    told = MESSAGE.fullmatch(str(raised.value))
    assert told is not None, raised.value
    assert Path(told["file"]) == tmp_path / file
    assert expected_and_came in told["expected"] + told["came"]
    assert len(told[0]) < 2000, "told to people"


@pytest.mark.parametrize("name", ["trackingnet", "lasot"])
def test_splits_that_there_are_none_of(
    make_dataset: Callable[[str, Path], str], tmp_path: Path, name: str
) -> None:
    make_dataset(name, tmp_path)
    with pytest.raises(DatasetError, match=r"split train.* expected, got .*(?i:valid)"):
        list(READERS[name](tmp_path, "valid"))


def test_a_shard_notes_the_broken_images_that_were_left_out_on_request(
    make_dataset: Callable[[str, Path], str], tmp_path: Path
) -> None:
    make_dataset("trackingnet", tmp_path / "data")
    broken = tmp_path / "data/TRAIN_3/frames/video3_0/7.jpg"
    broken.write_bytes(b"no image")
    tracks = tuple(READERS["trackingnet"](tmp_path / "data", "TRAIN_3"))
    plan = ShardPlan(shard="shard-00000.parquet", fingerprint="a plan", tracks=tracks)
    output = str(tmp_path / "shards")
    config = CropConfig(min_box_px=5.0, on_broken_image="skip")
    assert write_shard(plan, output, config) == 10 * (1 + config.num_views)
    notes = read_notes(output, plan.shard)
    assert notes["dropped"] == {"broken image": 1}
    assert [message.partition(":")[0] for message in notes["broken_images"]] == [str(broken)]
