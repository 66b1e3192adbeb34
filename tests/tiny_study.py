"""The smallest base of a study: a training takes seconds of work, beside what Ray Train takes."""

from dataclasses import replace

from data_pipeline.sampling import SamplingConfig
from data_pipeline.synthetic_scenes import SyntheticConfig
from eval_jobs.pipeline import EvaluationConfig, PipelineConfig
from meta_train.detectors.backbone import BackboneConfig
from meta_train.detectors.fcos import FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import NetworkConfig
from meta_train.train_config import ScalingConfig, ValidationConfig
from meta_train.train_presets import QUICKSTART_TRAINING

SLIM = NetworkConfig(
    backbone=BackboneConfig(width=2, weights="random"), head=HeadConfig(hidden_channels=4)
)
BASE = PipelineConfig(
    train=replace(
        QUICKSTART_TRAINING,
        detector=FcosConfig(network=SLIM),
        outer_loop=replace(
            QUICKSTART_TRAINING.outer_loop, num_epochs=1, iterations_per_epoch=6, batch_pairs=2
        ),
        sampling=SamplingConfig(val_fraction=0.3),
        validation=ValidationConfig(num_pairs=2, batch_pairs=2),
        scaling=ScalingConfig(cpus_per_worker=1),
        checkpoint_every=2,
        log_every=1,
    ),
    synthetic=SyntheticConfig(
        num_train_videos=24,
        num_val_videos=6,
        frames_per_video=5,
        width_px=160,
        height_px=120,
        max_target_px=38.0,
    ),
    evaluation=EvaluationConfig(references=False),
)
