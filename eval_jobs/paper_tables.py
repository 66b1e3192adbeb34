"""The paper's Tables 1 to 6 as it prints them, our trackers' rows below the published ones."""

from collections.abc import Sequence

from eval_jobs.published import FPS, TABLES, PublishedTable
from eval_jobs.row_tables import Row, table_number
from eval_jobs.scores import TrackerScore


def paper_tables(scores: Sequence[TrackerScore]) -> dict[str, list[Row]]:
    """Those of the paper's tables that have a column for what was measured here, by name.

    Args:
        scores: of any trackers on any benchmarks.
    """
    tables = {f"paper_table_{table.number}": _rows(table, scores) for table in TABLES}
    return {name: rows for name, rows in tables.items() if rows}


def _rows(table: PublishedTable, scores: Sequence[TrackerScore]) -> list[Row]:
    """The published rows and then ours; none where the table has no column that we measured.

    The last column says how each benchmark was run here, and how much of it.
    """
    benchmarks = {column.partition("/")[0] for column in table.columns if column != FPS}
    shared = [each for each in scores if each.selection.benchmark.name in benchmarks]
    measured = [each for each in shared if each.values]
    if not measured:
        return []
    rows: list[Row] = [
        {"tracker": tracker, "from": "paper"}
        | dict(zip(table.columns, row, strict=True))
        | {"protocol": ""}
        for tracker, row in table.rows.items()
    ]
    for tracker in dict.fromkeys(each.tracker for each in measured):
        own = {each.selection.benchmark.name: each for each in measured if each.tracker == tracker}
        values = [_entry(column, own) for column in table.columns]
        protocols = "; ".join(
            f"{each.selection.benchmark.title}: {each.label}" for each in own.values()
        )
        rows.append(
            {"tracker": tracker, "from": "here"}
            | dict(zip(table.columns, values, strict=True))
            | {"protocol": protocols}
        )
    return rows


def _entry(column: str, by_benchmark: dict[str, TrackerScore]) -> float | None:
    """A tracker's number in a column; None where it was not measured. Speeds are not compared:
    theirs are of a P100.
    """
    benchmark, _, metric = column.partition("/")
    if benchmark not in by_benchmark:
        return None
    value = by_benchmark[benchmark].values.get(metric)
    return None if value is None else table_number(value)
