"""NaN is refused as a setting: it compares false with all, and so slips past ``x <= 0``."""

from math import nan
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.crop_tracks import CropConfig
from data_pipeline.episodes import AugmentationConfig
from data_pipeline.sampling import SamplingConfig
from data_pipeline.shard_plans import PreprocessConfig, SourceConfig
from data_pipeline.synthetic_scenes import SyntheticConfig
from eval_jobs.tracker_config import TrackerConfig
from eval_jobs.update_rule import DriftConfig
from meta_train.detectors.fcos import FcosConfig
from meta_train.detectors.retina import RetinaConfig
from meta_train.gamma_schedule import GammaConfig
from meta_train.kernel_rates import KernelRatesConfig
from meta_train.local_run import SliceConfig

SOURCES = (SourceConfig(reader="got10k", folder=Path()),)


@pytest.mark.parametrize(
    ("config_class", "settings", "names"),
    [
        (
            TrackerConfig,
            {},
            "min_score add_threshold penalty_strength distractor_ratio distractor_neighborhood "
            "window_weight shape_rate min_size_px",
        ),
        (DriftConfig, {}, "min_update_score rollback_factor pull_back"),
        (SliceConfig, {}, "minutes"),
        (PreprocessConfig, {"sources": SOURCES, "output": "x"}, "cpus_per_task"),
        (CropConfig, {}, "view_shift_px view_scale min_box_px min_still_box_px"),
        (GammaConfig, {}, "annealing_epochs"),
        (KernelRatesConfig, {}, "initial"),
        (
            FcosConfig,
            {},
            "central_fraction distance_std_px negatives_per_positive cls_weight reg_weight",
        ),
        (
            RetinaConfig,
            {},
            "anchor_px positive_iou negative_iou prior focusing center_std size_std cls_weight",
        ),
        (AugmentationConfig, {}, "support_shift_px support_scale color blur"),
        (SamplingConfig, {}, "val_fraction"),
        (SyntheticConfig, {}, "noise_level max_step_in_crop_px"),
    ],
)
def test_nan_is_refused(config_class: Any, settings: dict[str, Any], names: str) -> None:
    for name in names.split():
        with pytest.raises(ValueError, match=r"got .*nan"):
            config_class(**settings, **{name: nan})


def test_a_weight_of_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="dataset weights must not be negative"):
        SamplingConfig(dataset_weights={"coco": nan})
