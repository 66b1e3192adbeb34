"""From dataset folders to shards: geometry, filters, resuming, independence of workers."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipeline.boxes import xyxy_to_xywh
from data_pipeline.crop_tracks import (
    CropConfig,
    DropReport,
    FrameSource,
    crop_track,
    thin,
    view_window,
)
from data_pipeline.crops import search_window
from data_pipeline.preprocess import (
    PreprocessConfig,
    SourceConfig,
    _is_complete,
    describe,
    preprocess,
    write_shard,
)
from data_pipeline.shard_plans import make_plans, parse_source, read_tracks
from data_pipeline.shards import (
    ShardError,
    TrackChunk,
    decode,
    read_chunks,
    read_index,
    read_manifest,
)
from data_pipeline.storage import run_token
from data_pipeline.tracks import DatasetError, Track

BOX = np.array([60.0, 40.0, 100.0, 90.0])


def write_frame(path: Path, box: np.ndarray = BOX) -> Path:
    """A dark frame with a bright rectangle where the box is."""
    image = np.full((120, 160, 3), 20, np.uint8)
    left, top, right, bottom = np.maximum(box, 0).astype(int)
    image[top:bottom, left:right] = 220
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return path


def make_track(folder: Path, boxes: list[np.ndarray], *, is_still: bool = False) -> Track:
    return Track(
        dataset="got10k",
        video="fox",
        category="fox",
        image_files=tuple(
            write_frame(folder / f"{i}.jpg", np.nan_to_num(b)) for i, b in enumerate(boxes)
        ),
        boxes=np.stack(boxes),
        visible=np.ones(len(boxes), dtype=bool),
        frame_numbers=np.arange(len(boxes)) * 2,
        is_still=is_still,
    )


def crop(track: Track, config: CropConfig | None = None) -> tuple[list[TrackChunk], DropReport]:
    drops = DropReport()
    return list(crop_track(track, config or CropConfig(), FrameSource(), drops)), drops


def make_sources(root: Path) -> tuple[SourceConfig, ...]:
    """A GOT-10k folder of four videos and a COCO folder of three objects."""
    names = [f"video_{i}" for i in range(4)]
    for number, name in enumerate(names):
        boxes = [BOX + 2 * i + number for i in range(5)]
        for i, box in enumerate(boxes):
            write_frame(root / "got" / "train" / name / f"{i + 1:08d}.jpg", box)
        rows = [",".join(map(str, row)) for row in xyxy_to_xywh(np.stack(boxes)).tolist()]
        (root / "got" / "train" / name / "groundtruth.txt").write_text("\n".join(rows))
    (root / "got" / "train" / "list.txt").write_text("\n".join(names))
    write_frame(root / "coco" / "val" / "1.jpg")
    objects = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [60 + i, 40, 40, 50 if i else 2]}
        for i in range(3)
    ]
    content = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": objects,
        "categories": [{"id": 1, "name": "box"}],
    }
    (root / "coco" / "annotations").mkdir()
    (root / "coco" / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return (
        SourceConfig(reader="got10k", folder=root / "got", split="train"),
        SourceConfig(reader="coco", folder=root / "coco", split="val"),
    )


def bright_box(image: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(image[..., 0] > 120)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_every_crop_shows_the_target_where_its_box_says(tmp_path: Path) -> None:
    (chunk,), _ = crop(make_track(tmp_path, [BOX, BOX + 3]))
    for index in range(2):
        images = (chunk.centred_images[index], *chunk.view_images[index])
        boxes = (chunk.centred_boxes[index], *chunk.view_boxes[index])
        for jpeg, box in zip(images, boxes, strict=True):
            np.testing.assert_allclose(bright_box(decode(jpeg)), np.clip(box, 0, 263), atol=1.6)
    centers = (chunk.centred_boxes[:, :2] + chunk.centred_boxes[:, 2:]) / 2
    np.testing.assert_allclose(centers, 131.5, atol=1e-3)
    assert chunk.frame_numbers.tolist() == [0, 2]
    assert chunk.view_boxes.shape == (2, 2, 4)


def test_views_keep_to_their_bounds_and_fill_them() -> None:
    centred, rng = search_window(BOX), np.random.default_rng(0)
    boxes = np.stack([view_window(centred, CropConfig(), rng).to_crop(BOX) for _ in range(2000)])
    shifts = (boxes[:, :2] + boxes[:, 2:]) / 2 - 131.5
    before = centred.to_crop(BOX)
    scales = np.log((boxes[:, 2:] - boxes[:, :2]) / (before[2:] - before[:2]))
    for values, bound in ((shifts, 64.0), (scales, 0.18)):
        assert np.abs(values).max() <= bound + 1e-6
        assert (values.max(axis=0) > 0.98 * bound).all()
        assert (values.min(axis=0) < -0.98 * bound).all()
        assert abs(np.corrcoef(values.T)[0, 1]) < 0.06  # each axis by itself


def test_boxes_are_clipped_before_they_are_cut(tmp_path: Path) -> None:
    outside = np.array([-40.0, 20.0, 40.0, 60.0])
    (chunk,), _ = crop(make_track(tmp_path, [outside, outside]))
    size = chunk.centred_boxes[0, 2:] - chunk.centred_boxes[0, :2]
    np.testing.assert_allclose(size, 63.5, atol=1e-3)  # 40 x 40 px is left of 80 x 40


def test_filters_count_what_they_leave_out(tmp_path: Path) -> None:
    small = np.array([60.0, 40.0, 69.5, 90.0])
    leaving = np.array([-35.0, 20.0, 9.0, 60.0])
    missing = np.full(4, np.nan)
    track = make_track(tmp_path, [BOX, small, leaving, missing, BOX, BOX])
    track = replace(track, visible=np.array([True] * 5 + [False]))
    (chunk,), drops = crop(track)
    assert chunk.frame_numbers.tolist() == [0, 8]
    kept = {reason: count for reason, count in drops.reasons.items() if count}
    assert kept == {"box too small": 2, "no box": 1, "target invisible": 1}


def test_a_single_frame_is_kept_only_of_stills(tmp_path: Path) -> None:
    chunks, drops = crop(make_track(tmp_path, [BOX]))
    assert not chunks and drops.reasons["frame without a partner"] == 1
    (still,), _ = crop(make_track(tmp_path, [np.array([60.0, 40.0, 65.0, 90.0])], is_still=True))
    assert still.is_still and len(still.frame_numbers) == 1
    assert not crop(make_track(tmp_path, [np.array([60.0, 40.0, 63.5, 90.0])], is_still=True))[0]


def test_long_tracks_become_chunks_of_nearly_equal_length(tmp_path: Path) -> None:
    chunks, _ = crop(make_track(tmp_path, [BOX] * 9), CropConfig(frames_per_chunk=4))
    assert [len(chunk.frame_numbers) for chunk in chunks] == [3, 3, 3]
    assert [chunk.chunk for chunk in chunks] == [0, 1, 2]
    assert [c.frame_numbers.tolist() for c in chunks] == [[0, 6, 12], [2, 8, 14], [4, 10, 16]]


def test_the_chunks_of_a_stretch_reach_over_all_of_it(tmp_path: Path) -> None:
    track = make_track(tmp_path, [BOX] * 20)
    track.image_files[3].write_bytes(b"broken")
    config = CropConfig(frames_per_chunk=2, on_broken_image="skip")
    chunks, drops = crop(track, config)
    assert [c.frame_numbers.tolist() for c in chunks] == [
        *([0, 10], [2, 12], [4, 14], [8, 18]),  # the partner of the broken frame is left out
        *([20, 30], [22, 32], [24, 34], [26, 36], [28, 38]),
    ]
    assert [c.chunk for c in chunks] == [0, 1, 2, *range(4, 10)]
    assert drops.reasons["frame without a partner"] == 1


def test_thinning_keeps_frame_numbers(tmp_path: Path) -> None:
    track = thin(make_track(tmp_path, [BOX] * 7), 3)
    assert track.frame_numbers.tolist() == [0, 6, 12]
    assert [path.name for path in track.image_files] == ["0.jpg", "3.jpg", "6.jpg"]


def test_views_differ_between_frames_views_and_seeds(tmp_path: Path) -> None:
    track = make_track(tmp_path, [BOX, BOX])
    (chunk,), _ = crop(track)
    (again,), _ = crop(track)
    (other,), _ = crop(track, CropConfig(seed=1))
    np.testing.assert_array_equal(chunk.view_boxes, again.view_boxes)
    assert chunk.view_images == again.view_images
    assert len(np.unique(chunk.view_boxes.reshape(4, 4), axis=0)) == 4
    assert not np.isclose(chunk.view_boxes, other.view_boxes).any()


def test_broken_image(tmp_path: Path) -> None:
    track = make_track(tmp_path, [BOX] * 4)
    track.image_files[1].write_bytes(b"broken")
    with pytest.raises(DatasetError, match=r"1\.jpg"):
        crop(track)
    (chunk,), drops = crop(track, CropConfig(on_broken_image="skip"))
    assert chunk.frame_numbers.tolist() == [0, 4, 6]
    assert drops.reasons["broken image"] == 1
    assert "1.jpg" in drops.broken_images[0]


def test_a_folder_is_complete_while_its_shards_are_as_asked_for(tmp_path: Path) -> None:
    output = str(tmp_path / "shards")
    config = PreprocessConfig(sources=make_sources(tmp_path), output=output, min_shards=2)
    skipping = replace(config, crops=CropConfig(on_broken_image="skip"))
    broken = tmp_path / "got/train/video_1/00000003.jpg"
    content = broken.read_bytes()
    broken.write_bytes(b"no image")
    with closing(make_plans(config)) as plans:

        def write(crops: CropConfig) -> None:
            for plan in plans:
                write_shard(plan, output, crops)

        write(skipping.crops)
        assert not _is_complete(skipping, plans), "no manifest yet"
        (tmp_path / "shards" / "manifest.json").write_text("{}")
        assert _is_complete(skipping, plans)
        assert not _is_complete(config, plans), "none may be left out now"
        broken.write_bytes(content)
        write(config.crops)
        assert _is_complete(config, plans) and _is_complete(skipping, plans)
        (tmp_path / "shards" / plans.shards[0]).unlink()
        assert not _is_complete(config, plans)
        write(config.crops)
        (tmp_path / "shards" / plans.shards[0]).write_bytes(b"damaged")
        assert not _is_complete(config, plans)


def test_a_shard_that_left_images_out_is_no_answer_where_none_may_be(tmp_path: Path) -> None:
    config = PreprocessConfig(sources=make_sources(tmp_path), output="unused", min_shards=1)
    (plan,) = make_plans(config)
    broken = tmp_path / "got/train/video_1/00000003.jpg"
    content = broken.read_bytes()
    broken.write_bytes(b"no image")
    output, skipping = str(tmp_path / "shards"), CropConfig(on_broken_image="skip")
    written = write_shard(plan, output, skipping)
    assert write_shard(plan, output, skipping) == 0 < written
    with pytest.raises(DatasetError, match=r"00000003\.jpg"):
        write_shard(plan, output, CropConfig())
    broken.write_bytes(content)
    assert write_shard(plan, output, CropConfig()) == written + 3
    assert write_shard(plan, output, skipping) == 0, "nothing is missing from it"


def test_plans_are_stable_and_complete(tmp_path: Path) -> None:
    config = PreprocessConfig(sources=make_sources(tmp_path), output="unused", min_shards=3)
    plans = make_plans(config)
    assert plans[0].fingerprint == make_plans(config)[0].fingerprint
    names = [track.name for plan in plans for track in plan.tracks]
    assert sorted(names) == sorted(
        [f"got10k/video_{i}" for i in range(4)] + ["coco/1", "coco/1.1", "coco/1.2"]
    )
    stills = [plan.shard for plan in plans for track in plan.tracks if track.dataset == "coco"]
    assert len(set(stills)) == 1  # one image, one shard
    many = make_plans(replace(config, max_shard_bytes=100_000))
    assert len({plan.shard for plan in many}) > len(plans)
    reseeded = replace(config, crops=CropConfig(seed=1))
    assert make_plans(reseeded)[0].fingerprint != plans[0].fingerprint


def test_plans_read_their_tracks_from_disk(tmp_path: Path, monkeypatch: object) -> None:
    monkeypatch.setattr("data_pipeline.track_spool._IN_MEMORY_BYTES", 100)
    config = PreprocessConfig(sources=make_sources(tmp_path), output="unused", min_shards=3)
    plans = make_plans(config)
    assert plans._spool._file._rolled
    assert [plan.shard for plan in plans] == plans.shards
    read = {track.name: track for track in read_tracks(config)}
    for track in [track for plan in reversed(list(plans)) for track in plan.tracks]:
        its = read.pop(track.name)
        assert track.image_files == its.image_files and track.category == its.category
        np.testing.assert_array_equal(track.boxes, its.boxes)
    assert not read
    plans.close()
    with pytest.raises(ValueError, match="closed file"):
        plans[0]


def test_a_shard_is_kept_only_if_its_plan_is_the_same(tmp_path: Path) -> None:
    output = str(tmp_path / "shards")
    config = PreprocessConfig(sources=make_sources(tmp_path), output=output, min_shards=1)
    (plan,) = make_plans(config)
    assert write_shard(plan, output, config.crops) == 66
    assert write_shard(plan, output, config.crops) == 0
    assert write_shard(replace(plan, fingerprint="other"), output, config.crops) == 66


def test_the_same_source_twice_is_refused(tmp_path: Path) -> None:
    sources = make_sources(tmp_path)
    with pytest.raises(DatasetError, match="got10k/video_0: each track once expected, got 2"):
        make_plans(PreprocessConfig(sources=(sources[0], sources[0]), output="unused"))


@pytest.mark.parametrize(
    "text", ["", "got10k", "got10k:/data", "got10k:/data:train:x", "a:b:c:1:2", "mnist:/data:train"]
)
def test_a_source_that_does_not_parse(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|must be one of"):
        parse_source(text)


def test_parse_source() -> None:
    expected = SourceConfig(reader="got10k", folder=Path("/d"), split="train", frame_step=3)
    assert parse_source("got10k:/d:train:3") == expected
    assert parse_source("otb:/d:").split == ""


@pytest.mark.parametrize(
    "make",
    [
        lambda: CropConfig(num_views=0),
        lambda: CropConfig(jpeg_quality=101),
        lambda: CropConfig(frames_per_chunk=0),
        lambda: CropConfig(view_scale=-0.1),
        lambda: CropConfig(min_box_px=0.0),
        lambda: PreprocessConfig(sources=(), output="x"),
        lambda: SourceConfig(reader="got10k", folder=Path(), frame_step=0),
    ],
)
def test_wrong_values_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="got"):
        make()


def all_rows(output: str) -> list[tuple[object, ...]]:
    """Every row of a folder, in the order of its index."""
    rows = []
    for entry in read_index(output).to_pylist():
        chunk = read_chunks(output, entry["shard"], entry["row_group"])[entry["row_in_group"]]
        assert (chunk.video, chunk.target) == (entry["video"], entry["target"])
        rows.append((entry["shard"], chunk.video, chunk.target, chunk.chunk, chunk.view_images))
    return rows


@pytest.mark.ray
def test_a_killed_run_goes_on_to_the_same_rows(tmp_path: Path, ray_session: None) -> None:
    sources = make_sources(tmp_path)
    first = PreprocessConfig(sources=sources, output=str(tmp_path / "first"), min_shards=3)
    report = preprocess(first)
    counts = report.manifest.counts
    assert (counts["got10k"].frames, counts["got10k"].images) == (20, 60)
    assert (counts["coco"].tracks, counts["coco"].videos) == (2, 1)
    assert report.dropped == {"box too small": 1}
    assert report.images_written == 66
    assert cv2.imread(str(tmp_path / "first" / "contact_sheet.jpg")) is not None

    # As a kill leaves it: one shard whole, one cut short, one half-written, no manifest.
    second = replace(first, output=f"file://{tmp_path}/second")
    plans = make_plans(second)
    write_shard(plans[0], second.output, second.crops)
    folder = tmp_path / "second"
    (folder / plans[1].shard).write_bytes((folder / plans[0].shard).read_bytes()[:-20])
    machine, process, start = run_token().split("-")
    ended = f"{machine}-{process}-{int(start) - 1}"
    (folder / f".{plans[1].shard}.{ended}.{'0' * 32}").write_bytes(b"half")
    resumed = preprocess(second)
    assert resumed.manifest == report.manifest
    assert 0 < resumed.images_written < 66
    assert all_rows(second.output) == all_rows(first.output)
    assert not list(folder.glob(".*"))

    again = preprocess(second)
    assert again.images_written == 0 and again.manifest == read_manifest(second.output)
    with pytest.raises(ShardError, match="holds those of other sources or settings"):
        preprocess(replace(second, crops=CropConfig(seed=9)))


@pytest.mark.ray
def test_a_broken_image_ends_the_run_unless_it_is_to_be_left_out(
    tmp_path: Path, ray_session: None
) -> None:
    sources = make_sources(tmp_path)
    broken = [tmp_path / f"got/train/video_{i}/00000003.jpg" for i in (1, 2)]
    for path in broken:
        path.write_bytes(b"no image")
    config = PreprocessConfig(sources=sources, output=str(tmp_path / "shards"), min_shards=3)
    with pytest.raises(DatasetError, match=r"00000003\.jpg: does not decode .*8 bytes.*Download"):
        preprocess(config)
    assert not (tmp_path / "shards" / "manifest.json").exists()
    report = preprocess(replace(config, crops=CropConfig(on_broken_image="skip")))
    assert report.manifest.counts["got10k"].frames == 18
    assert report.dropped == {"broken image": 2, "box too small": 1}
    assert sorted(message.partition(":")[0] for message in report.broken_images) == [
        str(path) for path in broken
    ]
    told = describe(report)
    assert "frames left out, broken image: 2" in told
    assert all(f"left out as broken: {path}: does not decode" in told for path in broken)
