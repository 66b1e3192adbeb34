"""A study: cells x seeds, each a complete config that a typed function made from a choice.

A trial trains and evaluates one variant. Its id names study, cell and seed and ends in a digest of
all that its numbers depend on, so the same variant has the same id whenever it is run: a study that
was killed goes on, and a finished trial serves every later study of the same name.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from data_pipeline.manifest import read_manifest
from data_pipeline.readers.synthetic import fingerprint as synthetic_fingerprint
from eval_jobs.benchmarks import find_benchmark, select
from eval_jobs.pipeline import PipelineConfig
from eval_jobs.tracker_specs import TRACKER_VERSION
from meta_train.run_log import flatten_config
from meta_train.train_config import fingerprint

Choice = TypeVar("Choice")

Published = Mapping[str, tuple[float, ...]]
"""Figures of the paper by column; several where the paper does not tell which one it is."""


@dataclass(frozen=True, kw_only=True)
class Cell(Generic[Choice]):
    """One row of a study's table."""

    name: str
    """How tables, plots and trial ids call it."""

    choice: Choice
    """What is varied: a dataclass, whose fields become parameters in MLflow."""

    published: Published = field(default_factory=dict)
    """What the paper measured for it."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One cell with one seed: a trial to be run."""

    cell: str
    """Its cell's name."""

    seed: int
    """Of the first weights and of every draw of data."""

    params: Mapping[str, object]
    """The choice's values by name."""

    config: PipelineConfig
    """All of the run."""

    published: Published = field(default_factory=dict)
    """What the paper measured for the cell."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number by which cells are compared."""

    name: str
    """Among a trial's metrics: ``online/auc``, ``val/query_loss_ratio``."""

    title: str
    """How tables and plots write it."""

    higher_is_better: bool
    """Which way is better."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is tried, and by what it is compared."""

    name: str
    """How trial ids and MLflow's tag ``study`` call it."""

    title: str
    """How tables and plots write it."""

    variants: tuple[Variant, ...]
    """The trials, in the order in which they start."""

    measures: tuple[Measure, ...]
    """The table's columns."""

    def __post_init__(self) -> None:
        if not self.variants or not self.measures:
            raise ValueError(
                f"study {self.name!r} needs at least one variant and one measure, got "
                f"{len(self.variants)} and {len(self.measures)}"
            )
        keys = [(variant.cell, variant.seed) for variant in self.variants]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"study {self.name!r} has these cells and seeds twice: {twice}")
        homes = {(variant.config.storage, variant.config.mlflow) for variant in self.variants}
        if len(homes) > 1:
            raise ValueError(
                f"the variants of study {self.name!r} must share storage and MLflow, got {homes}"
            )

    @property
    def cells(self) -> list[str]:
        """The cells' names, in their order."""
        return list(dict.fromkeys(variant.cell for variant in self.variants))


def grid(
    cells: Sequence[Cell[Choice]],
    configure: Callable[[Choice, PipelineConfig], PipelineConfig],
    base: PipelineConfig,
    seeds: Sequence[int],
) -> tuple[Variant, ...]:
    """Every cell with every seed; the first seed of all cells comes first.

    So a study that is stopped early has compared what it has.

    Args:
        cells: the choices.
        configure: makes a complete config from a choice and the base.
        base: what all cells share.
        seeds: at least one.

    Raises:
        ValueError: there is nothing to try, or a choice makes an invalid config: it names each.
    """
    if not cells or not seeds:
        raise ValueError(
            f"a grid needs at least one cell and one seed, got {len(cells)} and {len(seeds)}"
        )
    configs: dict[str, PipelineConfig] = {}
    refused = []
    for cell in cells:
        try:
            configs[cell.name] = configure(cell.choice, base)
        except (ValueError, LookupError, TypeError) as error:
            refused.append(f"- {cell.name}, {cell.choice}: {type(error).__name__}: {error}")
    if refused:
        raise ValueError(
            f"{len(refused)} of {len(cells)} choices make no valid config, so nothing was "
            "started; mend or remove them:\n" + "\n".join(refused)
        )
    return tuple(
        Variant(
            cell=cell.name,
            seed=seed,
            params=flatten_config(cell.choice),
            config=_seeded(configs[cell.name], seed),
            published=cell.published,
        )
        for seed in seeds
        for cell in cells
    )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A variant that was checked, with its id."""

    trial_id: str
    """Also its run id, its run's name in MLflow and its folder in the storage."""

    variant: Variant
    """What it runs."""

    num_frames: int
    """Frames of the sequences that it tracks, in each phase."""


def trials(study: Study) -> list[Trial]:
    """The study's trials with their ids, after a look at all data that they need.

    Raises:
        ValueError: a variant has no data, or nothing to be evaluated on; `ShardError`,
            `DatasetError` and `IncompleteResultsError` are such, and say what to do.
    """
    looked_at: dict[str, tuple[str, str, int]] = {}
    found = []
    for variant in study.variants:
        key = json.dumps(_data_key(variant.config), default=str)
        if key not in looked_at:
            looked_at[key] = _look_at_data(variant.config)
        shards, sequences, num_frames = looked_at[key]
        digest = _digest(variant.config, shards, sequences)
        found.append(
            Trial(
                trial_id=f"{study.name}-{variant.cell}-seed{variant.seed}-{digest}",
                variant=variant,
                num_frames=num_frames,
            )
        )
    return found


def study_id(study: Study, found: Sequence[Trial]) -> str:
    """The study's name and a digest of its trials."""
    digest = hashlib.sha256("\n".join(trial.trial_id for trial in found).encode()).hexdigest()
    return f"{study.name}-{digest[:8]}"


def _seeded(config: PipelineConfig, seed: int) -> PipelineConfig:
    return replace(config, train=replace(config.train, seed=seed))


def _data_key(config: PipelineConfig) -> list[object]:
    """What decides which data a variant reads."""
    evaluation = config.evaluation
    return [
        config.train.shards,
        None if config.synthetic is None else asdict(config.synthetic),
        *(evaluation.benchmark, evaluation.folder, evaluation.partial),
        *(evaluation.max_sequences, evaluation.max_frames),
    ]


def _look_at_data(config: PipelineConfig) -> tuple[str, str, int]:
    """Fingerprints of the shards and of the sequences, and the sequences' frames in all."""
    evaluation, videos = config.evaluation, config.synthetic
    benchmark = find_benchmark(evaluation.benchmark)
    shards = ""
    if config.train.shards:
        shards = read_manifest(config.train.shards).fingerprint
    elif videos is not None:
        shards = synthetic_fingerprint(videos)
    else:
        raise ValueError(
            "train.shards: the folder of preprocessed crops is not set; make one with "
            "data_pipeline/preprocess.py"
        )
    if evaluation.folder:
        selection = select(
            benchmark,
            Path(evaluation.folder).absolute(),
            partial=evaluation.partial,
            max_sequences=evaluation.max_sequences,
            max_frames=evaluation.max_frames,
        )
        lengths = {track.name: len(track) for track in selection.tracks}
        return shards, json.dumps(lengths), sum(lengths.values())
    if videos is None or config.train.shards:
        raise ValueError(
            "evaluation.folder: a study compares trackers on a benchmark, so it needs the folder "
            f"of {benchmark.title}'s sequences; it is not set"
        )
    num_videos = min(videos.num_val_videos, evaluation.max_sequences or videos.num_val_videos)
    length = min(videos.frames_per_video, evaluation.max_frames or videos.frames_per_video)
    return shards, f"synthetic {num_videos} x {length}", num_videos * length


def _digest(config: PipelineConfig, shards: str, sequences: str) -> str:
    """Of all that a trial's numbers depend on; where and on what it runs does not count."""
    evaluation = replace(config.evaluation, folder="", device="cpu", gpus_per_task=0.0)
    content = {
        "train": fingerprint(config.train, shards),
        "evaluation": asdict(evaluation),
        "sequences": sequences,
        "tracker": TRACKER_VERSION,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
