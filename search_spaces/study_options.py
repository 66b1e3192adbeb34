"""What a study's command line offers, and the base config that it makes: preset, data, scale."""

from dataclasses import dataclass, field, replace
from typing import Literal

from data_pipeline.ray_session import default_address
from eval_jobs.pipeline import EvaluationConfig, PipelineConfig
from eval_jobs.presets import PRESETS
from meta_train.run_log import MlflowConfig
from meta_train.train_config import ScalingConfig, TrainConfig
from search_spaces.sequence_parts import TuningConfig

SHORT_PAIRS = 280
"""Training pairs of a shortened quickstart trial."""

SHORT_SEQUENCES = 8
"""Sequences that it tracks."""

Preset = Literal[
    "quickstart", "small", "paper", "quickstart-retina", "small-retina", "paper-retina"
]
"""Names of `PRESETS`, for the command line."""


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """How a study is run."""

    preset: Preset = "quickstart"
    """What every trial starts from. A quickstart is shortened, so that a study takes minutes."""

    seeds: tuple[int, ...] = (0, 1)
    """Each cell runs once with each."""

    short_pairs: int = SHORT_PAIRS
    """Training pairs of a shortened quickstart; 0: the whole one. Others have their own."""

    shards: str = ""
    """Folder of preprocessed crops; ``quickstart`` makes its own where this is not set."""

    benchmark: tuple[str, ...] = ()
    """Rows of BENCHMARKS; the preset's where none is given. An ablation makes a table for each, on
    the same trainings."""

    benchmark_folder: tuple[str, ...] = ()
    """The sequences of each; ``quickstart`` makes its own where none is given."""

    partial: bool = False
    """Accept that sequences of the benchmark are missing; the table says so."""

    max_sequences: int | None = None
    """Report on the first so many only; the preset's where not given."""

    max_frames: int | None = None
    """Track the first so many frames of each only."""

    tuning: TuningConfig = TuningConfig()
    """What is chosen by, where anything is; never what is reported on."""

    iterations_per_epoch: int | None = None
    """Outer steps in an epoch; the preset's where not given."""

    num_epochs: int | None = None
    """Epochs; the preset's where not given, whose schedules shrink or stretch with them."""

    validation_pairs: int | None = None
    """Held-out pairs of a validation; the preset's where not given."""

    backbone_weights: str | None = None
    """``imagenet``, ``random`` or a file; the preset's where not given."""

    num_workers: int = 1
    """Training processes of a trial."""

    cpus_per_worker: int = 1
    """CPUs, and threads, of each; as many trials run at once as the cluster has room for."""

    use_gpu: bool = False
    """One GPU for each worker; trackers share GPUs too."""

    storage: str = "runs"
    """Folder or URI of the trials: checkpoints, results, synthetic data."""

    mlflow: MlflowConfig = field(default_factory=MlflowConfig)
    """Where it is logged."""

    plan: bool = False
    """Only print the trials, their cost and their order."""

    address: str = field(default_factory=default_address)
    """Ray cluster: ``local`` starts one here, ``auto`` finds the one that this machine is in.
    RAY_ADDRESS where that is set."""

    @property
    def is_quickstart(self) -> bool:
        """Whether the preset is a quickstart, of whichever detector."""
        return self.preset.startswith("quickstart")


def each_benchmark(options: StudyOptions) -> list[StudyOptions]:
    """The options once for each of their benchmarks.

    Raises:
        ValueError: not as many folders as benchmarks.
    """
    _require_folders(options)
    names, folders = options.benchmark, options.benchmark_folder
    if len(names) < 2:
        return [options]
    return [
        replace(options, benchmark=(name,), benchmark_folder=(folder,))
        for name, folder in zip(names, folders, strict=True)
    ]


def _require_folders(options: StudyOptions) -> None:
    """Refuses a benchmark without a folder, and a folder without a benchmark; a preset's own needs
    no name, and its synthetic videos no folder.
    """
    names, folders = options.benchmark, options.benchmark_folder
    own = PRESETS[options.preset][1].evaluation.benchmark
    is_own = names in ((), (own,)) and len(folders) == (own != "synthetic")
    if len(names) != len(folders) and not is_own:
        raise ValueError(
            "--benchmark and --benchmark-folder go together, a folder for each, got "
            f"{', '.join(names) or 'no benchmark'} and {', '.join(folders) or 'no folder'}"
        )


def the_seed(options: StudyOptions) -> int:
    """The seed of a study or search that trains once.

    Raises:
        ValueError: several seeds, or none.
    """
    if len(options.seeds) != 1:
        raise ValueError(
            f"one seed expected here, since all rows share a training, got {options.seeds}"
        )
    return options.seeds[0]


def require_no_training(options: StudyOptions, usual: StudyOptions) -> None:
    """Refuses options of training, for a study of a given checkpoint.

    Raises:
        ValueError: it names those that differ from the usual ones.
    """
    names = (
        "short_pairs",
        "iterations_per_epoch",
        "num_epochs",
        "validation_pairs",
        "backbone_weights",
    )
    given = [name for name in names if getattr(options, name) != getattr(usual, name)]
    if given:
        raise ValueError(
            "with --checkpoint nothing is trained, so there are no options of training, got "
            f"{', '.join(given)}; leave them out"
        )


def require_no_tracking(options: StudyOptions) -> None:
    """Refuses options of tracking, for a study that does not track.

    Raises:
        ValueError: it names those that were given.
    """
    usual = StudyOptions()
    names = ("benchmark", "benchmark_folder", "partial", "max_sequences", "max_frames", "tuning")
    given = [name for name in names if getattr(options, name) != getattr(usual, name)]
    if given:
        raise ValueError(
            "this study compares by held-out pair tasks and tracks nothing, so it takes no "
            f"options of tracking, got {', '.join(given)}; leave them out"
        )


def base_config(options: StudyOptions) -> PipelineConfig:
    """What all cells of a study share.

    Raises:
        ValueError: the options make no valid config, or name several benchmarks, or one without
            its folder.
    """
    if len(options.benchmark) > 1 or len(options.benchmark_folder) > 1:
        raise ValueError(
            f"one benchmark expected here, got {', '.join(options.benchmark)} in "
            f"{', '.join(options.benchmark_folder)}"
        )
    _require_folders(options)
    base = PRESETS[options.preset][1]
    if options.is_quickstart and options.short_pairs:
        base = shortened(base, options.short_pairs)
    return replace(
        base,
        train=_training(base.train, options),
        evaluation=_evaluation(base.evaluation, options),
        storage=options.storage,
        mlflow=options.mlflow,
    )


def shortened(preset: PipelineConfig, pairs: int) -> PipelineConfig:
    """The quickstart preset with few pairs, one validation and few sequences; all else as it is.

    Raises:
        ValueError: fewer pairs than one outer step an epoch takes.
    """
    outer = preset.train.outer_loop
    if pairs < (least := outer.batch_pairs * outer.num_epochs):
        raise ValueError(
            f"short_pairs must be at least {least}, one outer step in each of {outer.num_epochs} "
            f"epochs, or 0 for the whole quickstart; got {pairs}"
        )
    iterations = pairs // least
    validation = preset.train.validation
    few = min(validation.num_pairs, 6 * validation.batch_pairs)
    validation = replace(validation, num_pairs=few, every_epochs=outer.num_epochs)
    return replace(
        preset,
        train=replace(
            preset.train,
            outer_loop=replace(outer, iterations_per_epoch=iterations),
            validation=validation,
        ),
        evaluation=replace(preset.evaluation, max_sequences=SHORT_SEQUENCES),
    )


def _training(train: TrainConfig, options: StudyOptions) -> TrainConfig:
    network = train.detector.network
    weights = options.backbone_weights or network.backbone.weights
    network = replace(network, backbone=replace(network.backbone, weights=weights))
    validation = train.validation
    if options.validation_pairs is not None:
        batch = min(validation.batch_pairs, options.validation_pairs)
        validation = replace(validation, num_pairs=options.validation_pairs, batch_pairs=batch)
    scaling = ScalingConfig(
        num_workers=options.num_workers,
        cpus_per_worker=options.cpus_per_worker,
        use_gpu=options.use_gpu,
        max_failures=train.scaling.max_failures,
        timeout_seconds=train.scaling.timeout_seconds,
    )
    train = replace(
        train,
        shards=options.shards or train.shards,
        detector=replace(train.detector, network=network),
        validation=validation,
        scaling=scaling,
    )
    if options.num_epochs is not None:
        train = with_epochs(train, options.num_epochs)
    if options.iterations_per_epoch is not None:
        outer = replace(train.outer_loop, iterations_per_epoch=options.iterations_per_epoch)
        train = replace(train, outer_loop=outer)
    return train


def with_epochs(train: TrainConfig, num_epochs: int) -> TrainConfig:
    """The training over so many epochs; second order and annealing keep their share of them.

    Where there was second order at all, the last epoch has it.

    Raises:
        ValueError: not one epoch.
    """
    outer = train.outer_loop
    factor = num_epochs / outer.num_epochs
    second = round(outer.second_order_from_epoch * factor)
    if outer.second_order_from_epoch < outer.num_epochs:
        second = min(second, num_epochs - 1)
    return replace(
        train,
        outer_loop=replace(outer, num_epochs=num_epochs, second_order_from_epoch=second),
        gammas=replace(train.gammas, annealing_epochs=train.gammas.annealing_epochs * factor),
    )


def _evaluation(evaluation: EvaluationConfig, options: StudyOptions) -> EvaluationConfig:
    (name,), (folder,) = options.benchmark or ("",), options.benchmark_folder or ("",)
    # A preset's limit is for its own sequences.
    own = None if name or folder else evaluation.max_sequences
    return replace(
        evaluation,
        benchmark=name or evaluation.benchmark,
        folder=folder,
        partial=options.partial or evaluation.partial,
        max_sequences=own if options.max_sequences is None else options.max_sequences,
        max_frames=options.max_frames,
        device="cuda" if options.use_gpu else "cpu",
    )
