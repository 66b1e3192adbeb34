"""Synthetic videos: hard enough, solvable, reproducible, and written whole."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import boxes as box_ops
from data_pipeline.crops import CROP_SIZE_PX, search_window
from data_pipeline.readers import synthetic
from data_pipeline.readers.synthetic import SyntheticConfig, render_dataset, render_video
from data_pipeline.synthetic_objects import body, draw_look, look_alike, place
from data_pipeline.synthetic_scenes import draw
from data_pipeline.tracks import DatasetError, read_image

CONFIG = SyntheticConfig()
SMALL = SyntheticConfig(num_train_videos=3, num_val_videos=2, frames_per_video=4, seed=5)


@pytest.fixture(scope="module")
def evaluation_videos() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return [render_video(CONFIG, seed) for seed in synthetic.video_seeds(CONFIG, "val")]


def test_a_box_that_never_moves_fails(
    evaluation_videos: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> None:
    thresholds = np.linspace(0, 1, 21)
    scores = []
    for _, boxes, _ in evaluation_videos:
        overlaps = box_ops.iou(np.repeat(boxes[:1], len(boxes), axis=0), boxes)
        scores.append(np.mean(overlaps[:, None] > thresholds))
    assert np.mean(scores) < 0.25
    assert max(scores) < 0.5


def test_motion_stays_within_the_crop(
    evaluation_videos: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> None:
    steps = []
    for _, boxes, _ in evaluation_videos:
        for before, after in pairwise(boxes):
            in_crop = search_window(before).to_crop(after)
            steps.append(np.hypot(*((in_crop[:2] + in_crop[2:]) / 2 - CROP_SIZE_PX / 2)))
    assert max(steps) <= CONFIG.max_step_in_crop_px
    assert max(steps) > 0.8 * CONFIG.max_step_in_crop_px  # there are jumps
    assert 5 < np.median(steps) < 20


def test_targets_are_seen_and_large_enough(
    evaluation_videos: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> None:
    for frames, boxes, visible in evaluation_videos:
        assert frames.shape == (CONFIG.frames_per_video, CONFIG.height_px, CONFIG.width_px, 3)
        assert visible[0] and visible.mean() > 0.5
        assert (boxes[:, 2:] - boxes[:, :2]).min() >= 10
        assert box_ops.has_area(boxes).all()
        assert (boxes >= 0).all() and (boxes[:, 2] <= 320).all() and (boxes[:, 3] <= 240).all()


def test_size_and_shape_change(
    evaluation_videos: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> None:
    sizes = np.stack([boxes[:, 2:] - boxes[:, :2] for _, boxes, _ in evaluation_videos])
    areas, aspects = sizes.prod(axis=2), sizes[..., 0] / sizes[..., 1]
    assert np.median(areas.max(axis=1) / areas.min(axis=1)) > 1.3
    assert np.median(aspects.max(axis=1) / aspects.min(axis=1)) > 1.15
    assert aspects.min() < 0.6 and aspects.max() > 1.6


def test_boxes_are_tight() -> None:
    """What is drawn of an object fills its outline's box to within a pixel."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        outlines, axes = body(5, rng, draw_look(rng), 50.0)
        white = np.full((96, 96, 3), 255, np.uint8)
        item = place(white, outlines, axes, np.full((5, 2), 100.3))
        for index in range(5):
            frame = np.zeros((200, 200, 3), np.uint8)
            draw(frame, item, index)
            rows, columns = np.nonzero(frame[..., 0] > 127)
            drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            tight = [*item.outlines[index].min(axis=0), *item.outlines[index].max(axis=0)]
            # Sharp corners cover less than half of their outermost pixels.
            np.testing.assert_allclose(drawn, tight, atol=3.0)
            assert np.abs(np.subtract(drawn, tight)).mean() < 1.2


def test_a_look_alike_differs_in_color_or_texture() -> None:
    rng = np.random.default_rng(0)
    shared_shape = 0
    for _ in range(200):
        look = draw_look(rng)
        other = look_alike(rng, look)
        distance = abs((look.hue - other.hue + 90) % 180 - 90)
        assert distance >= 35 or other.family != look.family
        shared_shape += other.radii is look.radii
    assert 60 < shared_shape < 120


def test_the_same_seed_gives_the_same_video() -> None:
    first, second = render_video(SMALL, 7), render_video(SMALL, 7)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0], render_video(SMALL, 8)[0])


def test_train_and_val_share_no_seed() -> None:
    config = SyntheticConfig(num_train_videos=5000, num_val_videos=5000)
    train, val = (set(synthetic.video_seeds(config, split)) for split in ("train", "val"))
    assert len(train) == len(val) == 5000
    assert not train & val
    longer = synthetic.video_seeds(replace(config, num_train_videos=5001), "train")
    assert longer[:5000] == synthetic.video_seeds(config, "train")


def test_fingerprint_covers_the_config() -> None:
    assert synthetic.fingerprint(SMALL) != synthetic.fingerprint(replace(SMALL, noise_level=1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames_per_video": 0}, "frames_per_video must be at least 1, got 0"),
        ({"max_distractors": 0}, "max_distractors"),
        ({"num_val_videos": -1}, "num_val_videos"),
        ({"min_target_px": 70.0}, "min_target_px <= max_target_px"),
        ({"max_target_px": 100.0}, "a third"),
        ({"max_step_in_crop_px": 0.0}, "positive"),
        ({"occluder_probability": 1.5}, "occluder_probability"),
        ({"jpeg_quality": 0}, "jpeg_quality"),
    ],
)
def test_wrong_values_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticConfig(**change)


@pytest.mark.ray
def test_render_dataset_reads_back_and_goes_on(tmp_path: Path, ray_session: None) -> None:
    folder = tmp_path / "videos"
    render_dataset(folder, SMALL)
    tracks = list(synthetic.read(folder, "train"))
    assert [track.name for track in tracks] == [f"synthetic/train_{i:06d}" for i in range(3)]
    assert len(list(synthetic.read(folder, "val"))) == 2
    frames, boxes, visible = render_video(SMALL, synthetic.video_seeds(SMALL, "train")[1])
    np.testing.assert_allclose(tracks[1].boxes, boxes, atol=2e-4)
    np.testing.assert_array_equal(tracks[1].visible, visible)
    difference = read_image(tracks[1].image_files[2]).astype(int) - frames[2]
    assert np.abs(difference).mean() < 6  # JPEG

    _interrupt(folder)
    kept = tracks[0].image_files[0].stat().st_mtime_ns
    render_dataset(folder, SMALL)
    assert len(list(synthetic.read(folder, "train"))) == 3
    assert tracks[0].image_files[0].stat().st_mtime_ns == kept
    assert not list(folder.glob("*/.*"))
    with pytest.raises(DatasetError, match="videos of this config expected"):
        render_dataset(folder, replace(SMALL, seed=6))


def _interrupt(folder: Path) -> None:
    """Leaves the folder as a killed run would: a video gone, another half-written, no list."""
    (folder / "train" / "train_000002").rename(folder / "train" / ".train_000002.0123")
    (folder / "train" / "list.txt").unlink()
    marker = folder / synthetic.MARKER
    marker.write_text(marker.read_text().replace('"complete": true', '"complete": false'))


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="holds other files"):
        render_dataset(tmp_path, SMALL)
