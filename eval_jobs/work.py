"""What an evaluation has to do: which trackers over which sequences, and what is done already."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval_jobs.benchmarks import Benchmark, IncompleteResultsError, Selection, select
from eval_jobs.protocols import ResetConfig, Trajectory, same_result
from eval_jobs.results import ResultStore, file_name
from eval_jobs.scores import TrackerScore, score_tracker
from eval_jobs.sequence_job import SequenceJob
from eval_jobs.tracker_specs import OnlineSpec, TrackerSpec, device_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """One tracker on one benchmark."""

    selection: Selection
    """The benchmark's sequences."""

    store: ResultStore
    """Takes the tracker's trajectories."""

    setting: str
    """What the benchmark's row changed of the tracker's constants."""

    jobs: tuple[SequenceJob, ...]
    """One per sequence."""

    @property
    def is_complete(self) -> bool:
        """Whether all of its runs have a result."""
        return all(
            _has_results(due(job)) for due in (first_runs, further_runs) for job in self.jobs
        )

    def trajectories(self) -> list[list[Trajectory]]:
        """The runs over each sequence.

        Raises:
            ResultError: one has no result, or a damaged one.
        """
        return [
            [run.store.read_existing(run.track) for run in first_runs(job) + further_runs(job)]
            for job in self.jobs
        ]

    def score(self, trajectories: list[list[Trajectory]]) -> TrackerScore:
        """What the tracker reached, from `trajectories`."""
        store = self.store
        return score_tracker(
            store.tracker, store.fingerprint, self.selection, trajectories, setting=self.setting
        )


def plan_work(
    specs: Sequence[TrackerSpec],
    places: Sequence[tuple[Benchmark, Path]],
    output: Path,
    *,
    partial: bool = False,
    max_sequences: int | None = None,
    max_frames: int | None = None,
    num_threads: int = 1,
    num_processes: int = 1,
    own_settings: bool = False,
) -> list[list[Work]]:
    """For each place, each tracker's work there; arguments as of `jobs.evaluate_all`, and how many
    processes share the trackers' device.

    Raises:
        IncompleteResultsError: sequences are missing; it names each.
        DatasetError: a folder is not what its layout promises.
        ValueError: two trackers have one name.
    """
    names = [spec.name for spec in specs]
    if len(set(map(file_name, names))) != len(names):
        raise ValueError(f"trackers need different names, got {', '.join(names)}")
    works: list[list[Work]] = []
    for benchmark, folder in places:
        works.append([])
        selection = select(
            benchmark,
            folder.absolute(),
            partial=partial,
            max_sequences=max_sequences,
            max_frames=max_frames,
        )
        for given in specs:
            spec, setting = (given, "") if own_settings else as_row_asks(given, benchmark)
            store = ResultStore(
                folder=output.absolute(),
                tracker=spec.name,
                fingerprint=spec.fingerprint,
                max_frames=max_frames,
                setup=f"{device_of(spec)}, {num_threads} threads, {num_processes} processes",
            )
            jobs = tuple(
                SequenceJob(
                    spec=spec,
                    store=store,
                    benchmarks=(benchmark,),
                    track=track,
                    num_threads=num_threads,
                )
                for track in selection.tracks
            )
            works[-1].append(Work(selection=selection, store=store, setting=setting, jobs=jobs))
    return works


def _has_results(runs: Iterable[SequenceJob]) -> bool:
    return all(run.store.read(run.track) is not None for run in runs)


def once_each(jobs: Iterable[SequenceJob]) -> list[SequenceJob]:
    """The jobs, those that would write the same results made one: of one pass, or with resets."""
    by_result: dict[tuple[Path, ResetConfig | None], SequenceJob] = {}
    for job in jobs:
        key = job.store.path(job.track), job.resets
        same = by_result.get(key)
        shared = () if same is None else same.benchmarks
        by_result[key] = replace(job, benchmarks=tuple(dict.fromkeys(shared + job.benchmarks)))
    return list(by_result.values())


def as_row_asks(spec: TrackerSpec, benchmark: Benchmark) -> tuple[TrackerSpec, str]:
    """The tracker with the constants of the benchmark's row, and what that changed."""
    branches = benchmark.update_branches
    if not isinstance(spec, OnlineSpec) or branches in (None, spec.config.update_branches):
        return spec, ""
    if spec.config.update_interval_frames is None:
        return spec, ""
    config = replace(spec.config, update_branches=branches)
    return replace(spec, config=config), f"online updates of {' and '.join(branches)}"


def first_runs(job: SequenceJob) -> list[SequenceJob]:
    """The run over a sequence, or the repetitions that show whether a tracker is deterministic."""
    resets = job.resets
    if resets is None:
        return [job]
    return [job.repeated(number) for number in range(resets.identical_repetitions)]


def further_runs(job: SequenceJob) -> list[SequenceJob]:
    """The other repetitions; none where the first ones, which must be there, are identical."""
    resets = job.resets
    if resets is None:
        return []
    if same_result([run.store.read_existing(run.track) for run in first_runs(job)]):
        return []
    return [
        job.repeated(number)
        for number in range(resets.identical_repetitions, resets.num_repetitions)
    ]


def failed_runs(failures: Sequence[tuple[str, Exception]], num_runs: int) -> IncompleteResultsError:
    """The error of an evaluation of which some runs failed, each with its name and cause."""
    lines = [f"- {name}: {type(cause).__name__}: {cause}" for name, cause in failures]
    return IncompleteResultsError(
        f"{len(failures)} of {num_runs} runs failed; the others are kept, and the same command "
        "goes on from there:\n" + "\n".join(lines),
        causes=tuple(cause for _, cause in failures),
    )
