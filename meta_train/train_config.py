"""`TrainConfig`: everything one meta-training run depends on, as one tree."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from data_pipeline.sampling import SAMPLING_VERSION, SamplingConfig
from data_pipeline.uris import expect_no_secret
from meta_train.detectors import DetectorConfig
from meta_train.detectors.fcos import FcosConfig
from meta_train.gamma_schedule import GammaConfig
from meta_train.inner_loop import InnerLoopConfig
from meta_train.kernel_rates import KernelRatesConfig
from meta_train.outer_step import Learns
from meta_train.precision import Precision


@dataclass(frozen=True, kw_only=True)
class OuterLoopConfig:
    """How the first weights and the rates are learned (Sec. 3 and 4.2)."""

    num_epochs: int = 20
    """Epochs in all."""

    iterations_per_epoch: int = 10_000
    """Outer steps in an epoch."""

    batch_pairs: int = 32
    """Pairs in an outer step, over all workers."""

    pairs_at_once: int = 32
    """Pairs that one worker holds in memory at a time; a larger share of the batch is split."""

    second_order_from_epoch: int = 15
    """First epoch whose gradients go through the inner gradients; before it, first order."""

    learns: Learns = "head+block4"
    """The part whose first weights are learned: the trunk stays as it came (Fig. 4)."""

    learning_rate: float = 1e-4
    """Adam's rate for the heads."""

    backbone_learning_rate: float = 1e-4
    """Adam's rate for block-4, and for the trunk where it is learned."""

    rates_learning_rate: float = 1e-4
    """Adam's rate for the inner loop's rates."""

    decay_at: tuple[float, ...] = ()
    """Fractions of the run at which Adam's rates are multiplied by ``decay_factor``. Not in the
    paper, which gives a "starting" rate and no schedule."""

    decay_factor: float = 0.3
    """See ``decay_at``."""

    clip_norm: float = 10.0
    """Largest norm of the gradient, of weights and of rates apart; ``inf``: any. Not in the
    paper."""

    method: Literal["maml", "baseline"] = "maml"
    """``baseline`` trains the same detector by ordinary gradient descent on all four images of each
    pair, without an inner loop (Table 1)."""

    precision: Precision = "fp32"
    """Arithmetic of the convolutions; weights and sums stay in fp32. ``tf32``: on NVIDIA's GPUs.
    ``bf16``: the heads' wholly, of trunk and block-4 the derivatives; the meta-gradient's cosine
    with fp32's is above .9999, that of block-4's part above .9998 (tests/test_precision.py).
    ``bf16-all``: everything; faster, but a rounded backbone decides anew which of its ReLUs are 0,
    so that the gradient's error grows with the square root of the rounding: cosines of .97 to .99
    in block-4's part."""

    def __post_init__(self) -> None:
        for name in ("num_epochs", "iterations_per_epoch", "batch_pairs", "pairs_at_once"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        rates = ("learning_rate", "backbone_learning_rate", "rates_learning_rate", "decay_factor")
        for name in (*rates, "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.second_order_from_epoch < 0:
            raise ValueError(
                "second_order_from_epoch must not be negative (num_epochs: never), "
                f"got {self.second_order_from_epoch}"
            )
        if any(not 0 < at < 1 for at in self.decay_at):
            raise ValueError(f"decay_at holds fractions between 0 and 1, got {self.decay_at}")

    @property
    def num_iterations(self) -> int:
        """Outer steps in all."""
        return self.num_epochs * self.iterations_per_epoch

    def decay(self, iteration: int) -> float:
        """Factor of Adam's rates at an iteration."""
        passed = sum(iteration >= at * self.num_iterations for at in self.decay_at)
        return float(self.decay_factor**passed)


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """The held-out pair tasks that tell whether adaptation works."""

    num_pairs: int = 320
    """Pairs of the validation split, the same at each validation."""

    batch_pairs: int = 16
    """Lanes that the pairs are drawn from, which the workers share; each tries a pair at a time."""

    every_epochs: int = 1
    """Epochs between validations; the last epoch always ends with one."""

    def __post_init__(self) -> None:
        for name in ("num_pairs", "batch_pairs", "every_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_pairs % self.batch_pairs:
            raise ValueError(
                f"num_pairs must be a multiple of batch_pairs, got {self.num_pairs} and "
                f"{self.batch_pairs}"
            )


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """Where a run runs. Changes nothing in what it computes."""

    num_workers: int = 1
    """Training processes; each takes an equal share of every batch."""

    min_workers: int | None = None
    """Elastic training: fewer workers, down to this number, while the cluster has no room for all,
    and more again when it has. Off where None. Only numbers that divide the batch are used, so the
    samples stay the same and the weights within rounding."""

    resize_every_seconds: float = 60.0
    """How often elastic training looks whether the cluster has grown."""

    use_gpu: bool = False
    """One GPU for each worker."""

    cuda_graphs: bool = True
    """On a GPU, launch the work of each pair as one graph, which is captured at the first outer
    step of each order: 2.5 to 15 times as fast by precision (README, on an H200). What cannot be
    captured is launched operation by operation, after a warning."""

    cpus_per_worker: int = 2
    """CPUs that Ray reserves for each worker; also its number of threads."""

    max_failures: int = 3
    """How often Ray restarts the workers from the last checkpoint before the run fails; -1: always.
    A machine that is taken away with a notice to Ray does not count."""

    timeout_seconds: int = 600
    """Longest wait for another worker in a collective operation."""

    def __post_init__(self) -> None:
        if self.num_workers < 1 or self.cpus_per_worker < 1:
            raise ValueError(
                "a run needs at least one worker with at least one CPU, got "
                f"num_workers={self.num_workers}, cpus_per_worker={self.cpus_per_worker}"
            )
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise ValueError(
                f"min_workers must lie between 1 and num_workers ({self.num_workers}), "
                f"got {self.min_workers}"
            )
        if self.max_failures < -1 or self.timeout_seconds < 1:
            raise ValueError(
                "max_failures must be at least -1 and timeout_seconds at least 1, got "
                f"{self.max_failures} and {self.timeout_seconds}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One meta-training run. The defaults are the paper's."""

    __pydantic_config__: ClassVar = {"ser_json_inf_nan": "constants"}

    shards: str = ""
    """Folder or URI of the Parquet shards (data_pipeline/preprocess.py)."""

    detector: DetectorConfig = FcosConfig()
    """The detector that becomes a tracker."""

    inner_loop: InnerLoopConfig = InnerLoopConfig()
    """How it learns one target."""

    rates: KernelRatesConfig = KernelRatesConfig()
    """The learning rates of that."""

    gammas: GammaConfig = GammaConfig()
    """The weights of the multi-step loss."""

    outer_loop: OuterLoopConfig = OuterLoopConfig()
    """How it learns to learn."""

    sampling: SamplingConfig = SamplingConfig()
    """Which pairs it sees."""

    loading: Literal["lanes", "ray"] = "lanes"
    """Where pairs are made: in the training process, or by Ray Data on any node of the cluster that
    has CPUs to spare. With ``ray`` their order differs from run to run, and a resumed run starts at
    the first pair again: it is not exact. Experimental: no whole run has been shown on it yet."""

    validation: ValidationConfig = ValidationConfig()
    """How it is judged on the way."""

    scaling: ScalingConfig = ScalingConfig()
    """Where it runs."""

    checkpoint_every: int = 500
    """Outer steps between checkpoints; an epoch's end always has one."""

    log_every: int = 20
    """Outer steps between points of the curves."""

    seed: int = 0
    """Of the first weights and of every draw of data."""

    def __post_init__(self) -> None:
        expect_no_secret(self.shards, "shards")
        for name in ("num_workers", "min_workers"):
            count = getattr(self.scaling, name)
            if count is not None and self.outer_loop.batch_pairs % count:
                raise ValueError(
                    f"batch_pairs ({self.outer_loop.batch_pairs}) must be a multiple of {name} "
                    f"({count}), so that each worker takes the same share"
                )
        if self.seed < 0 or self.checkpoint_every < 1 or self.log_every < 1:
            raise ValueError(
                "seed must not be negative, checkpoint_every and log_every at least 1, got "
                f"{self.seed}, {self.checkpoint_every} and {self.log_every}"
            )


@cache
def _adapter() -> Any:
    """Pydantic's; what only computes runs without that package."""
    from pydantic import TypeAdapter

    return TypeAdapter(TrainConfig)


def to_json(config: TrainConfig) -> str:
    """The whole config as JSON; `from_json` reads it back."""
    content: bytes = _adapter().dump_json(config, indent=1)
    return content.decode()


def from_json(text: str | bytes) -> TrainConfig:
    """The config that `to_json` wrote.

    Raises:
        ValueError: it is not one, or holds an invalid value (pydantic names the field) or a field
            that there is not.
    """
    config: TrainConfig = _adapter().validate_json(text)
    if unknown := _unknown(json.loads(text), json.loads(to_json(config))):
        raise ValueError(f"the fields of TrainConfig expected, got also {unknown}")
    return config


def _unknown(given: object, known: object) -> list[str]:
    """Names, at any depth, of what is given beyond what is known."""
    if not (isinstance(given, dict) and isinstance(known, dict)):
        return []
    deeper = [_unknown(value, known[name]) for name, value in given.items() if name in known]
    return [name for name in given if name not in known] + [
        name for each in deeper for name in each
    ]


def resolved(config: TrainConfig) -> TrainConfig:
    """The config with its local paths made absolute: workers run in another directory."""
    if not config.shards:
        raise ValueError(
            "shards: the folder of preprocessed crops is not set. "
            "Make one with data_pipeline/preprocess.py and pass it with --train.shards."
        )
    network = config.detector.network
    source = network.backbone.weights
    if source not in ("imagenet", "random"):
        source = str(Path(source).absolute())
    network = replace(network, backbone=replace(network.backbone, weights=source))
    return replace(
        config,
        shards=config.shards if "://" in config.shards else str(Path(config.shards).absolute()),
        detector=replace(config.detector, network=network),
    )


def fingerprint(config: TrainConfig, data_fingerprint: str) -> str:
    """A digest of all that the trained weights depend on: the config, the content of the shards and
    of a file of first weights, and how pairs are drawn.

    Where it runs, what it holds in memory at a time, where the shards and the file lie and how
    often it logs do not count.
    """
    network = config.detector.network
    source = _content_of(network.backbone.weights)
    network = replace(network, backbone=replace(network.backbone, weights=source))
    usual = OuterLoopConfig.pairs_at_once
    neutral = replace(
        config,
        shards=data_fingerprint,
        detector=replace(config.detector, network=network),
        outer_loop=replace(config.outer_loop, pairs_at_once=usual),
        scaling=ScalingConfig(cuda_graphs=False),  # as it was when digests were first kept
        checkpoint_every=1,
        log_every=1,
    )
    content: bytes = _adapter().dump_json(neutral, indent=1)
    return hashlib.sha256(b"%d %s" % (SAMPLING_VERSION, content)).hexdigest()[:16]


def _content_of(weights: str) -> str:
    """What stands for the backbone's first weights in a digest: of a file, its own."""
    path = Path(weights)
    if weights in ("imagenet", "random") or not path.is_file():
        return weights
    return _file_digest(path.absolute(), path.stat().st_mtime_ns)


@cache
def _file_digest(path: Path, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
