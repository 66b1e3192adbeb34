"""A study: cells x seeds, each a complete config that a typed function made from a choice.

A trial trains and evaluates one variant. Its id names study, cell and seed and ends in a digest of
all that its numbers depend on, so the same variant has the same id whenever it is run: a study that
was killed goes on, and no finished trial is run again. Trials that differ only in how they track
share one training, and so do studies.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from data_pipeline.manifest import read_manifest
from data_pipeline.readers.synthetic import fingerprint as synthetic_fingerprint
from data_pipeline.shards import read_index
from eval_jobs.benchmarks import select
from eval_jobs.held_out import require_disjoint
from eval_jobs.pipeline import PipelineConfig
from eval_jobs.tracker_specs import TRACKER_VERSION, UPDATES_VERSION
from meta_train.checkpoint import content_digest
from meta_train.run_log import flatten_config
from meta_train.train_config import fingerprint
from search_spaces.measures import Measure, Published, require_reported
from search_spaces.sequence_parts import StudySequences, TuningConfig, study_sequences

Choice = TypeVar("Choice")


@dataclass(frozen=True, kw_only=True)
class Cell(Generic[Choice]):
    """One row of a study's table."""

    name: str
    """How tables, plots and trial ids call it."""

    choice: Choice
    """What is varied: a dataclass, whose fields become parameters in MLflow."""

    published: Published = field(default_factory=dict)
    """What the paper measured for it, on all of its benchmarks."""

    constant_rates: tuple[float, ...] = ()
    """Inner-loop rates to try while tracking, in place of the checkpoint's own: the one that is
    best on the tuning sequences is reported on. None: the checkpoint's own."""


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

    constant_rates: tuple[float, ...] = ()
    """As its cell's."""

    checkpoint: str = ""
    """Folder of a trained detector to take as it is; empty: the config's is trained, or found
    among the storage's finished runs."""


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

    tuning: TuningConfig | None = None
    """The sequences by which it chooses; None where it chooses nothing, and reports on all."""

    own_settings: bool = False
    """Keep a cell's tracker constants where the benchmark's row asks for others (LaSOT's rows ask
    for online updates of cls only)."""

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
        if self.tuning is None and any(variant.constant_rates for variant in self.variants):
            raise ValueError(
                f"study {self.name!r} chooses constant rates, so it needs tuning sequences: set "
                "tuning"
            )
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
    *,
    checkpoint: str = "",
) -> tuple[Variant, ...]:
    """Every cell with every seed; the first seed of all cells comes first.

    So a study that is stopped early has compared what it has.

    Args:
        cells: the choices.
        configure: makes a complete config from a choice and the base.
        base: what all cells share.
        seeds: at least one.
        checkpoint: a trained detector for all cells; empty: each trains its own.

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
            constant_rates=cell.constant_rates,
            checkpoint=checkpoint,
        )
        for seed in seeds
        for cell in cells
    )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A variant that was checked, with its id."""

    trial_id: str
    """Also its run's name in MLflow and its folder in the storage."""

    variant: Variant
    """What it runs."""

    training: str
    """Fingerprint of what it trains, or a digest of its checkpoint; trials that share it share the
    training."""

    sequences: StudySequences
    """What it runs on."""


def trials(study: Study) -> list[Trial]:
    """The study's trials with their ids, after a look at all data that they need.

    Raises:
        ValueError: a variant has no data, or nothing to be evaluated on; `ShardError`,
            `DatasetError`, `CheckpointError`, `IncompleteResultsError` and
            `ContaminatedTrainingError` are such, and say what to do.
    """
    require_reported(study.measures, [variant.config.evaluation for variant in study.variants])
    looked_at: dict[str, tuple[str, StudySequences]] = {}
    found = []
    for variant in study.variants:
        key = json.dumps([variant.checkpoint, _data_key(variant.config)], default=str)
        if key not in looked_at:
            looked_at[key] = _look_at_data(variant, study.tuning)
        data, sequences = looked_at[key]
        training = fingerprint(variant.config.train, data)
        if variant.checkpoint:
            training = content_digest(variant.checkpoint)
        digest = _digest(variant, training, sequences)
        found.append(
            Trial(
                trial_id=f"{study.name}-{variant.cell}-seed{variant.seed}-{digest}",
                variant=variant,
                training=training,
                sequences=sequences,
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


def _look_at_data(variant: Variant, tuning: TuningConfig | None) -> tuple[str, StudySequences]:
    """Fingerprint of the shards, empty where none are needed, and the sequences."""
    config = variant.config
    shards, videos = config.train.shards, config.synthetic
    if not (variant.checkpoint or shards or videos):
        raise ValueError(
            "train.shards: the folder of preprocessed crops is not set; make one with "
            "data_pipeline/preprocess.py"
        )
    data = "" if variant.checkpoint or not shards else read_manifest(shards).fingerprint
    sequences = study_sequences(config.evaluation, tuning, None if shards else videos)
    if variant.checkpoint:
        return "", sequences
    if shards:
        _require_held_out(config, sequences, tuning)
        return data, sequences
    assert videos is not None
    return synthetic_fingerprint(videos), sequences


def _require_held_out(
    config: PipelineConfig, sequences: StudySequences, tuning: TuningConfig | None
) -> None:
    """No sequence that the study runs on may be among the training videos."""
    evaluation = config.evaluation
    if not evaluation.folder:
        return
    trained_on = read_index(config.train.shards)["video"].unique().to_pylist()
    sets = [(sequences.report, evaluation.folder)]
    if sequences.tuning is not None and tuning is not None:
        sets.append((sequences.tuning, tuning.folder or evaluation.folder))
    for chosen, folder in sets:
        require_disjoint(trained_on, select(chosen.benchmark, Path(folder).absolute()))


def _digest(variant: Variant, training: str, sequences: StudySequences) -> str:
    """Of all that a trial's numbers depend on; where and on what it runs does not count."""
    evaluation = replace(variant.config.evaluation, folder="", device="cpu", gpus_per_task=0.0)
    content = {
        "training": training,
        "evaluation": asdict(evaluation),
        "constant_rates": variant.constant_rates,
        "sequences": sequences.fingerprint,
        "tracker": [TRACKER_VERSION, UPDATES_VERSION],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
