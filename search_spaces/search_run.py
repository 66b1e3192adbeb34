"""A search from its plan to its report: try, take the best, compare them on other sequences."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure

from data_pipeline.clear_errors import shortened
from eval_jobs.row_tables import Row, text_table
from meta_train.run_log import RunLog
from search_spaces.comparison import compare_url
from search_spaces.plan import cost_of, cost_text, tracking_seconds, training_seconds
from search_spaces.search import Interval, Search, SearchKind
from search_spaces.search_ledger import OBJECTIVE, Tried, finalists
from search_spaces.sequence_parts import SequenceSet
from search_spaces.study import Trial, trials
from search_spaces.study_run import run
from search_spaces.training import find_trained, train_once, with_absolute_paths
from search_spaces.tune_search import ledger_of, run_search

MOST_COMPARED = 30
"""So many of a search's runs, the best, are filled in on MLflow's compare page."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search gave."""

    tried: tuple[Tried, ...]
    """Every choice that was tried."""

    text: str
    """The tried choices, and the finalists' table."""

    compare_url: str
    """MLflow's page that compares the best of the tried choices."""

    finals_url: str
    """MLflow's page that compares the finalists' trials."""


def run_whole_search(search: Search[Any], kind: SearchKind, *, trained: bool) -> SearchResult:
    """Searches, or goes on with it, and reports the best choices on other sequences.

    The caller has started Ray, with `tune_trials.DRIVER_RESOURCES`.

    Args:
        search: what is searched.
        kind: how.
        trained: all choices track with one detector, so train the base's, or find it, unless the
            search names a checkpoint.

    Raises:
        ValueError: the data are missing, the cluster is too small, or no choice ended well.
    """
    tuning = tuning_of(search)  # all data that are needed are looked at before anything starts
    base = with_absolute_paths(search.base, trains=not search.checkpoint)
    search = replace(search, base=base, tuning=search.tuning.resolved())
    if trained and not search.checkpoint:
        config = search.config({})
        tags = {"study": search.name, "seed": str(config.train.seed)}
        search = replace(search, checkpoint=train_once(config, tags=tags).best)
    tried = run_search(search, tuning, kind)
    chosen = finalists(tried, search.num_finalists, search.starting_values)
    rows = tried_rows(search, tried)

    def attach(run_log: RunLog) -> None:
        run_log.log_table(rows, "tables/search.json")
        run_log.log_figure(search_figure(search, tried), "plots/search.png")

    result = run(search.finals(chosen), attach)
    ranked = [each.mlflow_run_id for each in _ranked(tried) if each.mlflow_run_id]
    return SearchResult(
        tried=tuple(tried),
        text="\n".join([text_table(rows[:20], f"{search.title}: tried"), result.text]),
        compare_url=compare_url(result.tracking_uri, result.experiment_id, ranked[:MOST_COMPARED]),
        finals_url=result.compare_url,
    )


def tuning_of(search: Search[Any]) -> SequenceSet:
    """The sequences by which a search chooses.

    Raises:
        ValueError: as `trials`.
    """
    tuning = trials(search.finals({}))[0].sequences.tuning
    if tuning is None:
        raise ValueError(f"search {search.name!r} has no tuning sequences")
    benchmark = tuning.benchmark
    if benchmark.resets is not None or not benchmark.metrics[0].per_sequence:
        raise ValueError(
            f"a search needs a score of each sequence in one pass, which {benchmark.title} "
            f"({benchmark.protocol}) does not give; set a tuning benchmark and folder"
        )
    return tuning


def search_plan(search: Search[Any], kind: SearchKind, *, trained: bool) -> str:
    """What a search will try, in which order, and what that costs at most; nothing is started.

    Raises:
        ValueError: as `trials`, or it has fewer choices than finalists.
    """
    finals = trials(search.finals({}))
    known = find_trained(search.config({})) if trained and not search.checkpoint else None
    if known is not None:
        search = replace(search, checkpoint=known.best)
    count, tuning = search.num_choices(kind), tuning_of(search)
    if search.num_finalists > count:
        raise ValueError(
            f"num_finalists must be at most the number of choices to try, {count}, got "
            f"{search.num_finalists}"
        )
    order = "one after the other as listed" if kind == "grid" else "as TPE suggests, start first"
    stop = "" if kind == "grid" else "; ASHA stops about half of them early"
    space: list[Row] = [
        {
            "knob": name,
            "values": f"{knob.low:g} to {knob.high:g}{', log' if knob.log else ''}"
            if isinstance(knob, Interval)
            else ", ".join(str(value) for value in knob.values),
            "start": str(search.starting_values[name]),
        }
        for name, knob in search.space.items()
    ]
    done = 0
    if search.checkpoint or not trained:
        done = sum(each.is_done(kind) for each in ledger_of(search, tuning).read())
    left = max(0, count - done)
    seconds = _seconds(search, tuning, left, trained=trained) + _finals_seconds(search, finals)
    return (
        text_table(space, search.title)
        + f"{finals[0].sequences.text}\n"
        + f"To try: {left} of {count} choices, {order}{stop}; then {search.num_finalists} "
        f"finalists and the start over {len(search.seeds)} seeds.\n"
        f"All of it: at most {cost_text(seconds, search.config({}))}"
    )


def _seconds(search: Search[Any], tuning: SequenceSet, left: int, *, trained: bool) -> float:
    """What the choices that are left cost in CPU-seconds, if none is stopped, roughly."""
    config, cost = search.config({}), cost_of(search.base)
    is_updated = config.evaluation.phases[0] == "online"
    per_frame = cost.updated_frame_seconds if is_updated else cost.frame_seconds
    tracking = tuning.num_frames * per_frame
    if search.checkpoint:
        return left * tracking
    if trained:
        return training_seconds(config) + left * tracking
    return left * (training_seconds(config) + config.train.outer_loop.num_epochs * tracking)


def _finals_seconds(search: Search[Any], finals: Sequence[Trial]) -> float:
    """What reporting costs, as if all finalists were like the start; with the first seed, they are
    trained by then.
    """
    trained = 1 if search.checkpoint else len({trial.variant.seed for trial in finals})
    training = (trained - 1) * training_seconds(search.config({}))
    return (1 + search.num_finalists) * (training + sum(map(tracking_seconds, finals)))


def tried_rows(search: Search[Any], tried: Sequence[Tried]) -> list[Row]:
    """One row per choice, best first."""
    return [
        {"rank": rank}
        | {name: str(each.values[name]) for name in search.space}
        | {
            OBJECTIVE: "" if each.objective is None else f"{each.objective:.4f}",
            "ending": each.ending,
            "seconds": round(each.seconds, 1),
            "error": shortened(each.error.partition("\n")[0], 80),
        }
        for rank, each in enumerate(_ranked(tried), start=1)
    ]


def search_figure(search: Search[Any], tried: Sequence[Tried]) -> Figure:
    """A panel per knob: the score of each choice over the knob's value, whole trials filled."""
    figure = Figure(figsize=(3.2 * len(search.space), 3.2), layout="constrained")
    panels = figure.subplots(1, len(search.space), squeeze=False)[0]
    scored = [each for each in tried if each.objective is not None]
    for axes, (name, knob) in zip(panels, search.space.items(), strict=True):
        if isinstance(knob, Interval):
            axes.set_xscale("log" if knob.log else "linear")
            places = {each.trial_id: float(each.values[name] or 0.0) for each in scored}
        else:
            axes.set_xticks(range(len(knob.values)), [str(value) for value in knob.values])
            places = {each.trial_id: float(knob.values.index(each.values[name])) for each in scored}
        for filled in (True, False):
            group = [each for each in scored if (each.ending == "finished") == filled]
            axes.scatter(
                [places[each.trial_id] for each in group],
                [each.objective for each in group],
                facecolors="C0" if filled else "none",
                edgecolors="C0",
                alpha=0.7,
            )
        axes.set_title(name, fontsize=9)
        axes.grid(alpha=0.3)
    figure.suptitle(f"{search.title}: {OBJECTIVE}; hollow: stopped early", size=9)
    return figure


def _ranked(tried: Sequence[Tried]) -> list[Tried]:
    """Whole trials first, best first."""
    return sorted(
        tried,
        key=lambda each: (
            each.ending != "finished",
            -(each.objective if each.objective is not None else -1.0),
        ),
    )
