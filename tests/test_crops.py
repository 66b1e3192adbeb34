"""The search window and the crops that it cuts."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from data_pipeline.crops import (
    CROP_SIZE_PX,
    CropWindow,
    context_size,
    cut,
    mean_color,
    search_window,
    zoom_window,
    zooms,
)

HALF = CROP_SIZE_PX / 2


def image_with_box(box: np.ndarray, height: int = 240, width: int = 320) -> np.ndarray:
    """A dark image with a bright rectangle at whole pixels."""
    image = np.full((height, width, 3), 20, np.uint8)
    left, top, right, bottom = box.astype(int)
    image[top:bottom, left:right] = 220
    return image


def measured_box(crop: np.ndarray) -> np.ndarray:
    """The bright rectangle's edges in a crop, to sub-pixel accuracy, from its soft borders."""
    coverage = (crop[..., 0].astype(float) - 20) / 200
    coverage[coverage < 0.1] = 0  # the border's colour is a little brighter
    columns, rows = coverage.max(axis=0), coverage.max(axis=1)
    edges = []
    for line in (columns, rows):
        inside = np.flatnonzero(line > 0.5)
        middle = int(inside.mean())
        edges.append((middle - line[:middle].sum(), middle + line[middle:].sum()))
    (left, right), (top, bottom) = edges
    return np.array([left, top, right, bottom])


def test_a_square_target_fills_63_5_px() -> None:
    box = np.array([40.0, 40.0, 60.0, 60.0])
    in_crop = search_window(box).to_crop(box)
    np.testing.assert_allclose(in_crop[2:] - in_crop[:2], 63.5)
    np.testing.assert_allclose((in_crop[:2] + in_crop[2:]) / 2, HALF)


def test_window_side_follows_the_formula() -> None:
    sizes = np.array([20.0, 60.0])
    assert context_size(sizes) == pytest.approx(np.sqrt((20 + 40) * (60 + 40)))
    window = search_window(np.array([0.0, 0.0, 20.0, 60.0]))
    np.testing.assert_allclose(window.size_px, np.sqrt(60 * 100) * 263 / 127)


@given(
    st.tuples(*[st.floats(-300, 300)] * 4),
    st.tuples(st.floats(-50, 400), st.floats(-50, 400)),
    st.tuples(st.floats(5, 900), st.floats(5, 900)),
)
def test_to_image_undoes_to_crop(
    box: tuple[float, ...], center: tuple[float, float], size: tuple[float, float]
) -> None:
    window = CropWindow(np.array(center), np.array(size))
    np.testing.assert_allclose(window.to_image(window.to_crop(np.array(box))), box, atol=1e-6)


@pytest.mark.parametrize(
    "box", [[100, 80, 140, 120], [10, 20, 90, 60], [200, 30, 230, 200], [0, 0, 30, 30]]
)
def test_pixels_and_boxes_agree(box: list[int]) -> None:
    """Where `to_crop` says the box is, the crop shows it: no half-pixel shift."""
    in_image = np.array(box, dtype=np.float64)
    window = search_window(in_image)
    crop = cut(image_with_box(in_image), window, border=(20.0, 20.0, 20.0))
    np.testing.assert_allclose(measured_box(crop), window.to_crop(in_image), atol=0.2)


def test_outside_the_image_is_its_mean_color() -> None:
    image = image_with_box(np.array([0.0, 0.0, 160.0, 240.0]))
    crop = cut(image, CropWindow(np.array([2000.0, 2000.0]), np.array([100.0, 100.0])))
    np.testing.assert_allclose(crop[0, 0], mean_color(image), atol=1)
    assert np.ptp(crop) == 0


def test_zooms_scale_the_box_about_the_centre() -> None:
    box = np.array([100.0, 110.0, 160.0, 150.0])
    images, boxes = zooms(image_with_box(box, CROP_SIZE_PX, CROP_SIZE_PX), box)
    sizes = boxes[:, 2:] - boxes[:, :2]
    np.testing.assert_allclose(sizes / sizes[1], [[1 / 1.08] * 2, [1] * 2, [1.08] * 2])
    np.testing.assert_allclose(boxes[1], box)
    for image, expected in zip(images, boxes, strict=True):
        np.testing.assert_allclose(measured_box(image), expected, atol=0.25)


def test_zoom_window_shifts_the_content() -> None:
    box = np.array([100.0, 110.0, 160.0, 150.0])
    window = zoom_window(1.25, shift_px=(7.0, -3.0))
    moved = (box - HALF) * 1.25 + HALF + np.array([7, -3, 7, -3])
    np.testing.assert_allclose(window.to_crop(box), moved)


@pytest.mark.parametrize("box", [[0, 0, 0, 5], [5, 5, 1, 9], [np.nan, 0, 1, 1]])
def test_a_box_without_area_has_no_window(box: list[float]) -> None:
    with pytest.raises(ValueError, match=r"box .* with area"):
        search_window(np.array(box, dtype=np.float64))


def test_a_zoom_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive, got 0"):
        zoom_window(0.0)
