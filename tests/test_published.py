"""`eval_jobs.published`: the paper's tables agree with each other and with our benchmarks."""

import pytest

from eval_jobs.benchmarks import BENCHMARKS
from eval_jobs.published import FPS, TABLES, PublishedTable, published_figures, published_scores


def cell(table: int, tracker: str, column: str) -> float | None:
    found = TABLES[table - 1]
    return found.rows[tracker][found.columns.index(column)]


def test_tables_stand_in_the_paper_s_order() -> None:
    assert [table.number for table in TABLES] == [1, 2, 3, 4, 5, 6]
    assert [len(table.rows) for table in TABLES] == [4, 4, 3, 25, 9, 8]


def test_what_the_paper_says_twice_is_the_same_twice() -> None:
    adapted, updated = "FCOS-MAML, after adaptation", "FCOS-MAML, online updating"
    both, cls = "FCOS-MAML, online updating of cls and reg", "FCOS-MAML, online updating of cls"
    learned = "FCOS-MAML, rates learned in both branches"
    for column in TABLES[0].columns:
        assert cell(1, adapted, column) == cell(3, "FCOS-MAML, no online updating", column)
    assert cell(2, learned, "otb100/auc") == cell(3, both, "otb100/auc") == 0.704
    assert cell(4, updated, "otb100/auc") == 0.704
    assert cell(2, learned, "lasot/auc") == cell(3, cls, "lasot/auc") == 0.523
    assert cell(6, updated, "lasot/auc") == 0.523
    assert cell(5, updated, "vot2018/eao") == cell(3, both, "vot2018/eao") == 0.392
    assert cell(4, updated, FPS) == cell(3, both, FPS) == 42


def test_a_benchmark_s_rows_are_found_by_its_name() -> None:
    rows = {score.tracker: score for score in published_scores("otb100")}
    assert rows["SiamFC"].values == {"auc": 0.582}
    assert rows["SiamFC"].fps == 86
    assert rows["SiamFC"].table == 4
    assert rows["Meta-Tracker"].fps is None
    assert "RTINet" not in {score.tracker for score in published_scores("otb2013")}  # a dash
    assert published_scores("synthetic") == []


@pytest.mark.parametrize("column", sorted({c for table in TABLES for c in table.columns} - {FPS}))
def test_columns_are_metrics_of_our_benchmarks(column: str) -> None:
    benchmark, metric = column.split("/")
    if BENCHMARKS[benchmark].server is None:  # else nothing is measured here
        assert metric in {each.name for each in BENCHMARKS[benchmark].metrics}


@pytest.mark.parametrize("benchmark", ["otb2013", "otb50", "otb100", "vot2018", "lasot"])
def test_a_tracker_has_one_row_on_a_benchmark(benchmark: str) -> None:
    names = [score.tracker.casefold() for score in published_scores(benchmark)]
    assert names
    assert len(set(names)) == len(names)


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="Table 9, mine: 1 entries expected, got 2"):
        PublishedTable(number=9, title="", columns=(FPS,), rows={"mine": (1.0, 2.0)})


def test_rows_that_cannot_be_told_apart_give_a_figure_each() -> None:
    middle = (
        "FCOS-MAML, rates learned in one branch",
        "FCOS-MAML, rates learned in the other branch",
    )
    assert published_figures(2, *middle)["otb100/auc"] == (0.661, 0.676)
    with pytest.raises(ValueError, match="Table 2 has no rows"):
        published_figures(2, "FCOS-MAML, after adaptation")
