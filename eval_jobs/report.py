"""What an evaluation shows: tables, the paper's figures beside ours, and all of it in MLflow."""

import math
from collections.abc import Mapping, Sequence

from eval_jobs.attributes import CHALLENGES, attribute_scores, attributes_of
from eval_jobs.benchmarks import Benchmark, sequence_name
from eval_jobs.plots import attribute_figure, curve_figures
from eval_jobs.published import PublishedScore, published_scores
from eval_jobs.results import file_name
from eval_jobs.row_tables import Row, csv_table, table_number, table_rows, table_speed, text_table
from eval_jobs.scores import TrackerScore, worst_first
from meta_train.run_log import RunLog


def paper_rows(scores: Sequence[TrackerScore]) -> list[Row]:
    """Our scores on one benchmark and the paper's, in columns of their own; ours come first.

    A tracker that the paper calls by the same name shares its row; a number that is not there is
    None. No rows at all where the paper says nothing of the benchmark, or nothing was measured.
    """
    published = {
        each.tracker.casefold(): each for each in published_scores(_benchmark(scores).name)
    }
    if not published or not scores[0].values:
        return []
    pairs = [(score, published.pop(score.tracker.casefold(), None)) for score in scores]
    pairs_of_paper = [(None, each) for each in published.values()]
    given = {metric for _, paper in [*pairs, *pairs_of_paper] if paper for metric in paper.values}
    metrics = {name: name in given for name in scores[0].values}
    return [_beside(ours, paper, metrics) for ours, paper in [*pairs, *pairs_of_paper]]


def sequence_rows(scores: Sequence[TrackerScore]) -> list[Row]:
    """One row per score and sequence; each tracker's worst sequences come first."""
    attributes = _sequence_attributes(scores)
    return [
        {"tracker": score.tracker, "sequence": each.sequence, "frames": each.num_frames}
        | {name: table_number(value) for name, value in each.values.items()}
        | {"lost_frames": each.num_lost, "fps": table_speed(each.fps)}
        | {"attributes": attributes[each.sequence]}
        for score in scores
        for each in worst_first(score)
    ]


def attribute_rows(scores: Sequence[TrackerScore]) -> list[Row]:
    """One row per attribute: how many sequences have it, and each tracker's first metric on them.

    No rows where no sequence has an attribute, or nothing was measured.
    """
    if not scores[0].values:
        return []
    metric = _benchmark(scores).metrics[0].name
    by_tracker = {score.tracker: attribute_scores(score) for score in scores}
    return [
        {
            "attribute": each.attribute,
            "challenge": CHALLENGES.get(each.attribute, each.attribute),
            "sequences": each.num_sequences,
        }
        | {
            f"{tracker}: {metric}": table_number(of_tracker[index].values[metric])
            for tracker, of_tracker in by_tracker.items()
        }
        for index, each in enumerate(by_tracker[scores[0].tracker])
    ]


def report_text(scores: Sequence[TrackerScore]) -> str:
    """Everything that a script prints of the scores on one benchmark, the summary last."""
    coverage = scores[0].selection.coverage
    tables = {
        f"{coverage}, worst first": sequence_rows(scores),
        f"By attribute, over {coverage}": attribute_rows(scores),
        "Beside the paper's figures": paper_rows(scores),
        _benchmark(scores).title: table_rows(scores),
    }
    return "\n".join(text_table(rows, title) for title, rows in tables.items() if rows)


def summary_metrics(scores: Sequence[TrackerScore], primary: str) -> dict[str, float]:
    """The scores under the names that they have in MLflow.

    The primary tracker's are ``otb100/auc``, ``otb100/attr/OCC/auc``, ``otb100/fps`` and
    ``speed/fps``, the last benchmark's, so that runs compare; another tracker's are
    ``otb100/<tracker>/auc`` and so on. A partial score is no score of the benchmark and has a name
    of its own, ``otb100-8of100/auc``. A speed that was not measured has none.
    """
    metrics: dict[str, float] = {}
    for score in scores:
        own = "" if score.tracker == primary else f"/{file_name(score.tracker)}"
        prefix = f"{score.selection.metric_prefix}{own}"
        metrics |= {f"{prefix}/{name}": value for name, value in score.values.items()}
        metrics |= {
            f"{prefix}/attr/{file_name(each.attribute)}/{name}": value
            for each in attribute_scores(score)
            for name, value in each.values.items()
        }
        metrics[f"{prefix}/num_sequences"] = float(len(score.sequences))
        if math.isfinite(score.fps):
            metrics |= {f"speed{own}/fps": score.fps, f"{prefix}/fps": score.fps}
    return metrics


def log_scores(
    run_log: RunLog, scores: Sequence[TrackerScore], *, primary: str | None = None, step: int = 0
) -> None:
    """Logs the scores of trackers on one benchmark: metrics, tables, plots, and as a tag whose
    metrics have the short names.

    Args:
        run_log: the run.
        scores: at least one.
        primary: the tracker whose metrics have the short names; the first where not given.
        step: of the metrics.

    Raises:
        ValueError: there is no score, or none of the primary tracker.
    """
    if not scores:
        raise ValueError("at least one score is needed for a report, got none")
    name = scores[0].tracker if primary is None else primary
    if name not in {score.tracker for score in scores}:
        raise ValueError(
            f"primary must be one of {[score.tracker for score in scores]}, got {name!r}"
        )
    run_log.log_metrics(summary_metrics(scores, name), step=step)
    run_log.set_tags({"primary_tracker": name})
    prefix = scores[0].selection.metric_prefix
    tables = {
        prefix: table_rows(scores),
        f"{prefix}_sequences": sequence_rows(scores),
        f"{prefix}_attributes": attribute_rows(scores),
        f"{prefix}_paper": paper_rows(scores),
    }
    for table, rows in tables.items():
        if rows:
            run_log.log_table(rows, f"tables/{table}.json")
    run_log.log_text(report_text(scores), f"tables/{prefix}.txt")
    run_log.log_text(csv_table(sequence_rows(scores)), f"tables/{prefix}_sequences.csv")
    figures = curve_figures(scores)
    if tables[f"{prefix}_attributes"]:
        figures["attributes"] = attribute_figure(scores)
    for plot, figure in figures.items():
        run_log.log_figure(figure, f"plots/{prefix}_{plot}.png")


def _benchmark(scores: Sequence[TrackerScore]) -> Benchmark:
    return scores[0].selection.benchmark


def _sequence_attributes(scores: Sequence[TrackerScore]) -> dict[str, str]:
    """The attributes of each sequence, with spaces between."""
    return {
        sequence_name(track): " ".join(attributes_of(track)) for track in scores[0].selection.tracks
    }


def _beside(
    ours: TrackerScore | None, paper: PublishedScore | None, metrics: Mapping[str, bool]
) -> Row:
    """One tracker's numbers, ours and the paper's, and where they come from; one may be missing.

    Args:
        ours: what was measured here.
        paper: what the paper says.
        metrics: the benchmark's, and whether the paper has them.
    """
    named = ours or paper
    assert named is not None
    row: Row = {"tracker": named.tracker}
    for name, is_given in metrics.items():
        row[name] = None if ours is None else table_number(ours.values[name])
        if is_given:
            row[f"paper: {name}"] = None if paper is None else paper.values.get(name)
    return row | {
        "fps": None if ours is None else table_speed(ours.fps),
        "paper: fps": None if paper is None else paper.fps,
        "protocol": "" if ours is None else ours.label,
        "paper": "" if paper is None else f"Table {paper.table}",
    }
