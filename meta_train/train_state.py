"""The learner as training changes it, and where it starts."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.clear_errors import shortened
from data_pipeline.stream import EpisodeStream
from meta_train import checkpoint as checkpoints
from meta_train.checkpoint import Checkpoint
from meta_train.collectives import broadcast_from_first
from meta_train.detectors.backbone import calibrate
from meta_train.kernel_rates import learned_names
from meta_train.learner import Learner, initial_learner
from meta_train.outer_step import MetaGradient, learned_weights
from meta_train.train_config import TrainConfig
from meta_train.validation import validation_stream


class TrainState:
    """The learner as it changes: leaf tensors that Adam steps on, and how many steps it took."""

    def __init__(self, config: TrainConfig, learner: Learner, iteration: int) -> None:
        outer = config.outer_loop
        self.iteration = iteration
        self._config = config
        self.learner = learner
        weight_names = learned_weights(learner.weights, outer.learns)
        heads = [name for name in weight_names if ".head." in name]
        backbone = [name for name in weight_names if ".head." not in name]
        rates = learned_names(config.rates, learner.rates) if outer.method == "maml" else []
        self._weights = {name: learner.weights[name] for name in heads + backbone}
        self._rates = {name: learner.rates[name] for name in rates}
        self._base_rates = [
            outer.learning_rate,
            outer.backbone_learning_rate,
            outer.rates_learning_rate,
        ]
        groups = [
            [self._weights[name] for name in heads],
            [self._weights[name] for name in backbone],
            list(self._rates.values()),
        ]
        self.adam = torch.optim.Adam(
            [{"params": g, "lr": r} for g, r in zip(groups, self._base_rates, strict=True)]
        )
        # On the device, so that no step waits for it.
        self._num_failures = torch.zeros((), dtype=torch.int64, device=learner.device)
        self._most_failures = self._num_failures

    @property
    def most_failures(self) -> int:
        """The most steps, one after another, that had no finite gradient."""
        return int(self._most_failures)

    @classmethod
    def start(
        cls,
        config: TrainConfig,
        stream: EpisodeStream,
        device: torch.device,
        *,
        resume: Path | None,
        init_from: Path | str | None,
    ) -> "TrainState":
        """From a checkpoint of this run, of another, or from nothing; alike on all workers."""
        # Not to the device at once: Adam counts its steps on the host, or each would wait for them.
        loaded = checkpoints.load(resume) if resume else None
        learner = loaded.learner if loaded else _first_learner(config, stream, init_from)
        learner = learner.to(device)
        learner = replace(
            learner,
            weights=broadcast_from_first(learner.weights),
            rates=broadcast_from_first(learner.rates),
        )
        state = cls(config, learner, loaded.iteration if loaded else 0)
        if loaded:
            state._restore_adam(loaded.optimizer, resume)
        return state

    def _restore_adam(self, content: dict[str, Any], source: Path | None) -> None:
        """Gives Adam the moments of a checkpoint, each of its tensor's shape."""
        try:
            self.adam.load_state_dict(content)
            shapes = [
                (moments[name].shape, tensor.shape)
                for tensor, moments in self.adam.state.items()
                for name in ("exp_avg", "exp_avg_sq")
            ]
        except Exception as error:  # torch checks little, and raises nearly anything
            shapes, trouble = [], f"{type(error).__name__}: {shortened(error, 200)}"
        else:
            trouble = "moments of another shape"
            if all(given == expected for given, expected in shapes):
                return
        raise checkpoints.CheckpointError(
            f"{source}: Adam's state for the tensors that this run learns expected, got another "
            f"({trouble}). Use another checkpoint."
        )

    def step(self, found: MetaGradient, decay: float) -> dict[str, Tensor]:
        """One outer step by the mean gradient; gives the norms before clipping.

        Not in the paper: where a pair's inner loop blows up and the gradient is not finite, Adam
        steps on by its momentum alone, as if the gradient were 0.
        """
        clip = self._config.outer_loop.clip_norm
        norms = {}
        gradients = (("weights", self._weights, found.weights), ("rates", self._rates, found.rates))
        for kind, tensors, sums in gradients:
            for name, tensor in tensors.items():
                tensor.grad = sums[name] / found.num_pairs
            if tensors:
                norms[kind] = torch.nn.utils.clip_grad_norm_(list(tensors.values()), clip)
        is_finite = torch.stack([norm.isfinite() for norm in norms.values()]).all()
        for tensor in [*self._weights.values(), *self._rates.values()]:
            if tensor.grad is not None:
                tensor.grad = torch.where(is_finite, tensor.grad, 0.0)
        self._num_failures = torch.where(is_finite, 0, self._num_failures + 1)
        self._most_failures = torch.maximum(self._most_failures, self._num_failures)
        for group, rate in zip(self.adam.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * decay
        self.adam.step()
        self.iteration += 1
        return norms

    def checkpoint(self) -> Checkpoint:
        """Everything that a resumed run needs."""
        return Checkpoint(
            config=self._config,
            weights={name: weight.detach() for name, weight in self.learner.weights.items()},
            rates={name: rate.detach() for name, rate in self.learner.rates.items()},
            optimizer=self.adam.state_dict(),
            iteration=self.iteration,
        )


def _network_of(config: TrainConfig) -> tuple[object, ...]:
    """What two runs must share for one to start from the other."""
    detector = asdict(config.detector)
    detector["network"]["backbone"]["weights"] = ""
    for name in getattr(config.detector, "LOSS_FIELDS", ()):
        del detector[name]
    return detector, config.inner_loop.adapts, config.rates.granularity


def require_start(config: TrainConfig, init_from: Path | str | None) -> None:
    """Raises before a run is begun what each of its workers would raise, time and again.

    Raises:
        ShardError: the shards do not read, or hold nothing to train on or to validate with.
        CheckpointError: ``init_from`` does not load, or holds another network.
        ValueError: the file of the backbone's weights is missing or is not a ResNet-18's.
    """
    EpisodeStream(config.shards, config.sampling, split="train", seed=config.seed)
    validation_stream(config.shards, config.sampling)
    if init_from:
        _learner_of(init_from, config)
    elif config.detector.network.backbone.weights not in ("imagenet", "random"):
        _new_learner(config)


def _learner_of(checkpoint: Path | str, config: TrainConfig) -> Learner:
    """Another run's weights and rates under this run's losses."""
    loaded = checkpoints.load(checkpoint)
    theirs, ours = _network_of(loaded.config), _network_of(config)
    if theirs != ours:
        raise checkpoints.CheckpointError(
            f"{checkpoint}: holds another network than this run's; start from it with the same "
            f"detector. Theirs: {theirs}. This run's: {ours}"
        )
    return replace(loaded.learner, config=config.detector)


def _new_learner(config: TrainConfig) -> Learner:
    generator = torch.Generator().manual_seed(config.seed)
    return initial_learner(
        config.detector, config.rates, adapts=config.inner_loop.adapts, generator=generator
    )


def _first_learner(
    config: TrainConfig, stream: EpisodeStream, init_from: Path | str | None
) -> Learner:
    """Another run's learner, or a new one; a random backbone is calibrated on training crops."""
    if init_from:
        return _learner_of(init_from, config)
    learner = _new_learner(config)
    if config.detector.network.backbone.weights != "random":
        return learner
    crops = [stream.episode(lane, 0).query_images for lane in range(config.outer_loop.batch_pairs)]
    images = torch.cat([torch.from_numpy(crop) for crop in crops]).movedim(-1, -3)
    return replace(learner, weights=calibrate(learner.weights, images))
