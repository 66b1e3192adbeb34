"""Broken datasets: each fault is an error that says where, what was expected, and what to do."""

import json
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
    "got10k: no list": ("got10k", remove("train/list.txt"), r"list\.txt"),
    "got10k: empty list": ("got10k", write("train/list.txt", "\n"), r"list\.txt.*empty"),
    "got10k: video not there": ("got10k", write("train/list.txt", "gone"), "gone.*there is none"),
    "got10k: path in list": ("got10k", write("train/list.txt", "../x"), r"list\.txt.*'\.\./x'"),
    "got10k: name too long for a file": (
        "got10k",
        write("train/list.txt", "a" * 300),
        r"list\.txt: plain folder names expected",
    ),
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
    "coco: nested without end": (
        "coco",
        write("annotations/instances_train2017.json", "[" * 100_000),
        "instances_train2017.json: JSON expected",
    ),
    "coco: number beyond floats": (
        "coco",
        edit_coco(lambda c: c["annotations"][2].update(bbox=[10**400, 2, 3, 4])),
        "an object with id, bbox .*OverflowError",
    ),
    "coco: image in another folder": (
        "coco",
        edit_coco(lambda c: c["images"][0].update(file_name="../annotations/x.jpg")),
        r"annotations/x\.jpg: an image named by .* expected, there is none",
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
    "trackingnet: chunks missing": (
        "trackingnet",
        lambda root: shutil.rmtree(root / "TRAIN_7"),
        "12 chunks expected, TRAIN_7 not there.*name as split",
    ),
    "trackingnet: no annotation": (
        "trackingnet",
        remove("TRAIN_3/anno/*.txt"),
        r"TRAIN_3/anno: annotation files.*there are none",
    ),
    "trackingnet: zips not unpacked": (
        "trackingnet",
        lambda root: shutil.rmtree(root / "TRAIN_3" / "frames"),
        "TRAIN_3/frames.*Unpack",
    ),
    "trackingnet: frames without annotation": (
        "trackingnet",
        lambda root: (root / "TRAIN_3" / "frames" / "other").mkdir(),
        "anno/other.txt: an annotation.*1 have none",
    ),
    "trackingnet: annotation without frames": (
        "trackingnet",
        write("TRAIN_3/anno/other.txt", "1,2,3,4\n"),
        "frames/other: a folder of images expected",
    ),
    "trackingnet: image missing": (
        "trackingnet",
        remove("TRAIN_3/frames/video3_0/4.jpg"),
        r"video3_0.txt: as many boxes as images expected \(10\), got 11",
    ),
    "trackingnet: wrong delimiter": (
        "trackingnet",
        write("TRAIN_0/anno/video0_0.txt", "\n1 2 3 4\n"),
        "video0_0.txt, line 2: four numbers.*commas between expected, got '1 2 3 4'",
    ),
    "lasot: no videos": (
        "lasot",
        lambda root: [shutil.rmtree(root / name) for name in ("cat", "dog")] and None,
        "train list expected.*none found",
    ),
    "lasot: unknown video": (
        "lasot",
        lambda root: (root / "cat" / "cat-2").rename(root / "cat" / "cat-21") and None,
        "cat-21: one of LaSOT's 1,400 videos expected",
    ),
    "lasot: video twice": (
        "lasot",
        lambda root: shutil.copytree(root / "cat" / "cat-2", root / "cat-2") and None,
        "each video once expected, it also lies in",
    ),
    "lasot: no flags": (
        "lasot",
        remove("cat/cat-2/out_of_view.txt"),
        "out_of_view.txt: a text file with one flag",
    ),
    "lasot: flags too few": (
        "lasot",
        write("cat/cat-2/full_occlusion.txt", "0,1\n"),
        r"full_occlusion.txt: as many flags as images expected \(4\), got 2",
    ),
    "lasot: flags no flags": (
        "lasot",
        write("cat/cat-2/full_occlusion.txt", "0,1,2,0\n"),
        "full_occlusion.txt: flags 0 or 1.*got '2'",
    ),
    "lasot: box missing": (
        "lasot",
        write("cat/cat-2/groundtruth.txt", "1,2,3,4\n"),
        r"images expected \(4\), got 1",
    ),
    "vot: no list": ("vot", remove("list.txt"), r"list\.txt: a text file with one video name"),
    "vot: path in list": ("vot", write("list.txt", "/etc\n"), "plain folder names.*'/etc'"),
    "vot: region missing": (
        "vot",
        write("ball/groundtruth.txt", "3,4,13,4,13,14,3,14\n"),
        r"as many regions as images expected \(3\), got 1",
    ),
    "vot: six numbers": (
        "vot",
        write("ball/groundtruth.txt", "1,2,3,4,5,6\n" * 3),
        "line 1: eight or four numbers",
    ),
    "vot: polygons and boxes": (
        "vot",
        write("ball/groundtruth.txt", "3,4,13,4,13,14,3,14\n1,2,3,4\n1,2,3,4\n"),
        "line 2: eight numbers",
    ),
    "vot: masks": (
        "vot",
        write("ball/groundtruth.txt", "m10,10,5,5,3,4\n" * 3),
        "line 1: eight or four numbers.*'m10",
    ),
    "vot: tag is no flag": (
        "vot",
        write("ball/occlusion.tag", "0\nyes\n"),
        "occlusion.tag: one tag 0 or 1.*'yes'",
    ),
    "vot: tags too many": (
        "vot",
        write("ball/occlusion.tag", "0\n" * 4),
        "occlusion.tag: at most 3 tags expected.*got 4",
    ),
    "vot: images elsewhere": (
        "vot",
        write("ball/sequence", "channels.color=../../secret/%08d.jpg\n"),
        r"sequence: channels.color within.*got '\.\./\.\.",
    ),
    "vot: images in a folder of a name too long": (
        "vot",
        write("ball/sequence", f"channels.color={'a' * 300}/%08d.jpg\n"),
        "sequence: channels.color within",
    ),
    "own_videos: no box file": (
        "own_videos",
        remove("walk.txt"),
        r"walk.txt: a box file for walk expected.*none \(1 videos",
    ),
    "own_videos: no video": (
        "own_videos",
        write("other.txt", "1,2,3,4\n"),
        "other.txt: a video other .*expected beside",
    ),
    "own_videos: name twice": (
        "own_videos",
        write("race.mp4", ""),
        "race.mp4: one video of the name 'race' expected, there is also race.avi",
    ),
    "own_videos: box missing": (
        "own_videos",
        write("walk.txt", "1,2,3,4\n"),
        r"walk.txt: as many boxes as images expected \(11\), got 1",
    ),
    "own_videos: video shorter": (
        "own_videos",
        write("race.2.txt", "1,2,3,4\n" * 4),
        r"race.2.txt: as many boxes as images expected \(3\), got 4",
    ),
    "own_videos: no video inside": (
        "own_videos",
        write("race.avi", "text"),
        "race.avi: a video that OpenCV can open expected",
    ),
    "own_videos: no number": (
        "own_videos",
        write("walk.txt", "1,2,x,4\n"),
        "walk.txt, line 1: four numbers.*commas, tabs or spaces",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_the_file_and_what_to_do(
    make_dataset: Callable[[str, Path], str], tmp_path: Path, fault: str
) -> None:
    name, spoil, message = FAULTS[fault]
    split = make_dataset(name, tmp_path)
    spoil(tmp_path)
    with pytest.raises(DatasetError, match=f"(?s){message}") as raised:
        list(READERS[name](tmp_path, split))
    text = str(raised.value)
    assert str(tmp_path) in text
    assert text.endswith(".") and "expected" in text


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
