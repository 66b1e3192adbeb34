"""Episodes: support zooms, boxes under augmentation, stacking."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.crops import zooms
from data_pipeline.episodes import (
    NO_AUGMENTATION,
    AugmentationConfig,
    PairOrigin,
    Sample,
    make_episode,
    mirror,
    occlude,
    recolor,
    stack,
)

CENTRED_BOX = np.array([99.0, 89.0, 164.0, 174.0])
QUERY_BOX = np.array([40.0, 60.0, 120.0, 110.0])
EVERYTHING = AugmentationConfig(flip_video=1.0, gray=1.0, blur=1.0, occlusion=1.0)

corners = st.tuples(*[st.floats(10, 120)] * 2, *[st.floats(140, 250)] * 2).map(np.array)


def marked(box: np.ndarray) -> Sample:
    """Noise in the dark with a bright rectangle exactly on a box of whole pixels."""
    image = np.random.default_rng(0).integers(0, 60, (263, 263, 3), dtype=np.uint8)
    left, top, right, bottom = box.astype(int)
    image[top:bottom, left:right] = 230
    return Sample(image, box)


def box_of_marking(image: np.ndarray) -> np.ndarray:
    """The box of what is brighter than half."""
    rows, columns = np.nonzero(image.mean(axis=2) > 145)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=float)


def episode(config: AugmentationConfig, *, same: bool = True, still: bool = False, seed: int = 0):
    rng = np.random.default_rng(seed)
    samples = marked(CENTRED_BOX), marked(QUERY_BOX)
    origin = PairOrigin("got10k", "same_target" if same else "any_other", still, 3 if same else -1)
    return make_episode(*samples, origin=origin, config=config, rng=rng)


def test_without_augmentation_the_pair_stands_as_it_is() -> None:
    found = episode(NO_AUGMENTATION)
    images, boxes = zooms(marked(CENTRED_BOX).image, CENTRED_BOX)
    np.testing.assert_array_equal(found.support_images, images)
    np.testing.assert_allclose(found.support_boxes, boxes)
    np.testing.assert_array_equal(found.support_images[1], marked(CENTRED_BOX).image)
    np.testing.assert_allclose(found.support_boxes[1], CENTRED_BOX)
    np.testing.assert_array_equal(found.query_images[0], marked(QUERY_BOX).image)
    np.testing.assert_array_equal(found.query_boxes[0], QUERY_BOX)
    assert found.query_present.tolist() == [True]


def test_support_zooms_by_the_papers_factor_about_the_centre() -> None:
    boxes = episode(NO_AUGMENTATION).support_boxes
    sizes, centers = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    np.testing.assert_allclose(sizes[1:] / sizes[:-1], 1.08)
    np.testing.assert_allclose(centers, 131.5)


@pytest.mark.parametrize("seed", range(5))
def test_support_boxes_follow_shift_scale_and_mirror(seed: int) -> None:
    config = replace(NO_AUGMENTATION, support_shift_px=4.0, support_scale=0.02, flip_video=1.0)
    found = episode(config, seed=seed)
    for image, box in zip(found.support_images, found.support_boxes, strict=True):
        np.testing.assert_allclose(box_of_marking(image), box, atol=1.0)
    moved = found.support_boxes[1] - mirror(marked(CENTRED_BOX)).box
    assert 0 < np.abs(moved).max() < 4 + 0.02 * 60


@pytest.mark.parametrize("seed", range(5))
def test_query_box_survives_every_augmentation(seed: int) -> None:
    found = episode(replace(EVERYTHING, occlusion=0.0), seed=seed)
    np.testing.assert_allclose(found.query_boxes[0], [263 - 120, 60, 263 - 40, 110])
    np.testing.assert_allclose(box_of_marking(found.query_images[0]), found.query_boxes[0], atol=1)
    assert np.ptp(found.query_images[0].astype(int), axis=2).max() == 0, "gray"


def test_absent_query_is_marked() -> None:
    assert episode(EVERYTHING, same=False).query_present.tolist() == [False]


def test_stills_and_videos_have_their_own_share_of_mirrors() -> None:
    config = replace(NO_AUGMENTATION, flip_video=0.0, flip_still=1.0)
    np.testing.assert_array_equal(episode(config).query_boxes[0], QUERY_BOX)
    np.testing.assert_allclose(episode(config, still=True).query_boxes[0][[0, 2]], [143, 223])


def test_the_generator_decides_everything() -> None:
    one, same, other = (episode(EVERYTHING, seed=seed) for seed in (1, 1, 2))
    for first, second in zip(one, same, strict=True):
        np.testing.assert_array_equal(first, second)
    assert (one.query_images != other.query_images).any()


@given(box=corners)
@settings(max_examples=25, deadline=None)
def test_mirror_is_its_own_inverse(box: np.ndarray) -> None:
    sample = Sample(marked(QUERY_BOX).image, box)
    once, twice = mirror(sample), mirror(mirror(sample))
    np.testing.assert_allclose(twice.box, box)
    np.testing.assert_array_equal(twice.image, sample.image)
    assert (once.box[2:] > once.box[:2]).all()
    np.testing.assert_allclose(once.box[2:] - once.box[:2], box[2:] - box[:2])


whole = st.tuples(*[st.integers(75, 105)] * 2, *[st.integers(150, 190)] * 2).map(np.array)


def edges(profile: np.ndarray, half: float) -> tuple[float, float]:
    """Where a row of pixels rises above and falls below a value, between pixels' centres."""
    inside = np.flatnonzero(profile > half)
    first, last = inside[0], inside[-1]
    rise = (half - profile[first - 1]) / (profile[first] - profile[first - 1])
    fall = (profile[last] - half) / (profile[last] - profile[last + 1])
    return first - 0.5 + rise, last + 0.5 + fall


@given(box=whole, seed=st.integers(0, 1000), flip=st.sampled_from([0.0, 1.0]))
@settings(max_examples=40, deadline=None)
def test_boxes_are_exact_under_mirror_zoom_and_shift(
    box: np.ndarray, seed: int, flip: float
) -> None:
    """The rectangle's edges in the image; sampled pixels give them to a quarter of a pixel."""
    image = np.full((263, 263, 3), 20, np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 220
    sample = Sample(image, box.astype(float))
    config = replace(NO_AUGMENTATION, support_shift_px=20.0, support_scale=0.15, flip_video=flip)
    origin = PairOrigin("got10k", "same_target", False, 1)
    found = make_episode(
        sample, sample, origin=origin, config=config, rng=np.random.default_rng(seed)
    )
    images = [*found.support_images, *found.query_images]
    for picture, its_box in zip(images, [*found.support_boxes, *found.query_boxes], strict=True):
        x, y = ((its_box[:2] + its_box[2:]) / 2).astype(int)
        left, right = edges(picture[y, :, 0].astype(float), 120.0)
        top, bottom = edges(picture[:, x, 0].astype(float), 120.0)
        np.testing.assert_allclose([left, top, right, bottom], its_box, atol=0.25)


@given(box=corners, seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_a_patch_hides_a_part_of_the_box_and_nothing_else(box: np.ndarray, seed: int) -> None:
    image = np.zeros((263, 263, 3), np.uint8)
    image[:100] = 90
    before = image.copy()
    found = occlude(image, box, np.random.default_rng(seed))
    np.testing.assert_array_equal(image, before)
    rows, columns = np.nonzero((found != image).any(axis=2))
    left, top, right, bottom = box
    assert len(rows) > 0
    assert left - 1 <= columns.min() and columns.max() <= right + 1
    assert top - 1 <= rows.min() and rows.max() <= bottom + 1
    assert len(rows) < 0.3 * (right - left) * (bottom - top)


def test_recolor_is_bounded_and_keeps_gray_gray() -> None:
    gray = np.full((8, 8, 3), 100, np.uint8)
    rng = np.random.default_rng(0)
    values = np.array([recolor(gray, 0.2, rng)[0, 0] for _ in range(200)]).astype(float)
    assert np.ptp(values, axis=1).max() == 0, "saturation leaves gray alone"
    assert values.std() > 5
    assert np.abs(values - 100).max() <= 0.2 * 127.5 + 0.2 * 27.5 + 1
    np.testing.assert_array_equal(recolor(gray, 0.0, rng), gray)


def test_stack_adds_an_axis_and_needs_an_episode() -> None:
    batch = stack([episode(EVERYTHING, seed=seed) for seed in range(2)])
    assert batch.support_images.shape == (2, 3, 263, 263, 3)
    assert batch.query_present.shape == (2, 1)
    with pytest.raises(ValueError, match="at least one episode"):
        stack([])


@pytest.mark.parametrize(
    ("field", "value"), [("blur", 1.5), ("flip_still", -0.1), ("support_scale", -1.0)]
)
def test_config_refuses(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        AugmentationConfig(**{field: value})
