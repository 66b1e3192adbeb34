"""The training part of each preset, from a laptop's minutes to the paper's weeks."""

from collections.abc import Mapping
from dataclasses import replace

from meta_train.detectors import DETECTORS
from meta_train.detectors.backbone import BackboneConfig
from meta_train.detectors.fcos import FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import NetworkConfig
from meta_train.gamma_schedule import GammaConfig
from meta_train.train_config import OuterLoopConfig, TrainConfig, ValidationConfig

QUICKSTART_TRAINING = TrainConfig(
    detector=FcosConfig(
        network=NetworkConfig(
            backbone=BackboneConfig(width=16, weights="random"),
            head=HeadConfig(hidden_channels=32),
        ),
        distance_std_px=32.0,
        negatives_per_positive=10.0,
        cls_weight=8.0,
        reg_weight=1.0,
    ),
    gammas=GammaConfig(annealing_epochs=0.0),
    outer_loop=OuterLoopConfig(
        num_epochs=2,
        iterations_per_epoch=260,
        batch_pairs=4,
        second_order_from_epoch=2,
        learns="head",
        learning_rate=1e-3,
        rates_learning_rate=3e-4,
        decay_at=(0.6, 0.85),
    ),
    validation=ValidationConfig(num_pairs=64, batch_pairs=8),
    checkpoint_every=50,
    log_every=10,
)
"""Minutes on two cores, on synthetic videos: a slim backbone stays as random as it was drawn, and
the outer loop learns the heads and the rates. The loss weights are large and the distances coarse,
so that the inner rates have far to go in few steps."""

SMALL_TRAINING = TrainConfig(
    detector=FcosConfig(
        network=NetworkConfig(head=HeadConfig(hidden_channels=32)),
        negatives_per_positive=10.0,
        cls_weight=8.0,
        reg_weight=5.0,
    ),
    gammas=GammaConfig(annealing_epochs=2.0),
    outer_loop=OuterLoopConfig(
        num_epochs=4,
        iterations_per_epoch=500,
        batch_pairs=8,
        pairs_at_once=8,
        second_order_from_epoch=4,
        learning_rate=5e-4,
        backbone_learning_rate=1e-4,
        rates_learning_rate=3e-4,
        decay_at=(0.6, 0.85),
    ),
    validation=ValidationConfig(num_pairs=160, batch_pairs=8),
    checkpoint_every=100,
    log_every=10,
)
"""A small pool of real videos, on one GPU, or for days on a CPU. README says what it gives
there, and what else was tried."""


def with_each_detector(trainings: Mapping[str, TrainConfig]) -> dict[str, TrainConfig]:
    """The trainings, and each again with every other detector, at its defaults, on its network."""
    result = dict(trainings)
    for name, train in trainings.items():
        usual = train.detector
        for other in DETECTORS:
            if not isinstance(usual, other):
                detector = other(network=usual.network)
                result[f"{name}-{detector.kind}"] = replace(train, detector=detector)
    return result


TRAININGS = with_each_detector(
    {"quickstart": QUICKSTART_TRAINING, "small": SMALL_TRAINING, "paper": TrainConfig()}
)
"""Each preset's training by its name: ``quickstart``, ``quickstart-retina``, ..."""
