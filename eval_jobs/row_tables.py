"""Tables as rows: the form in which MLflow, a terminal and a file of values show the same."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from eval_jobs.scores import TrackerScore

Row = dict[str, Any]
"""A row of a table: its columns by name."""


def table_rows(scores: Sequence[TrackerScore]) -> list[Row]:
    """One row per score: tracker, benchmark, its protocol and coverage, the metrics, the speed."""
    return [
        {"tracker": score.tracker, "benchmark": score.selection.benchmark.title}
        | {name: table_number(value) for name, value in score.values.items()}
        | {"fps": table_speed(score.fps), "protocol": score.label}
        for score in scores
    ]


def text_table(rows: Sequence[Row], title: str = "") -> str:
    """Rows, which share their columns, as a table of text."""
    table = Table(title=title or None)
    for column in rows[0] if rows else {}:
        is_number = any(isinstance(row[column], int | float) for row in rows)
        table.add_column(column, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(_cell(column, value) for column, value in row.items()))
    console = Console(file=io.StringIO(), width=160, markup=False)
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def csv_table(rows: Sequence[Row]) -> str:
    """Rows, which share their columns, as comma-separated values with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def table_number(value: float) -> float | None:
    """A number for a table, whose JSON knows no NaN; None where there was nothing to measure.

    VOT has no accuracy of a run that always fails before its burn-in is over.
    """
    return round(value, 4) if math.isfinite(value) else None


def table_speed(fps: float) -> float | None:
    """Alike, of a speed."""
    return round(fps, 1) if math.isfinite(fps) else None


def _cell(column: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}" if value >= 10 or column.endswith("fps") else f"{value:.3f}"
    return str(value)
