"""README's tables say what the MLflow runs in `reference_runs.json` hold."""

import re
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest

from eval_jobs.reference_runs import ReferenceRun, read_runs
from search_spaces.comparison import mean_and_spread

README = (Path(__file__).parents[1] / "README.md").read_text()
RUNS = read_runs()
MAML, FEW_MAML = [[f"MAML-{seed}" for seed in range(count)] for count in (5, 3)]
BASELINE = [f"BASE-{seed}" for seed in range(3)]
RETINA, BLOCK4, NONE, CLS, REG = [
    [f"{name}-0"] for name in ("RETINA", "BLOCK4", "NONE", "CLS", "REG")
]
ALL, ALIKE = "", "look_alike/"
KINDS = {"train", "training", "trial", "evaluation", "pair_tasks", "update_variants"}
BOTH_BRANCHES, CLS_ALONE = "('cls', 'reg')", "('cls',)"
ALL_TRIGGERS, DISTRACTORS = "('interval', 'distractor')", "('distractor',)"


def figure(values: Sequence[float]) -> str:
    """A mean as README writes it, with the standard deviation where there are several."""
    return re.sub(r"\b0\.", ".", mean_and_spread(values))


def opponent(name: str) -> str:
    """AUC of a tracker that is none of ours, the same in each run that has it."""
    metric = f"otb100-8of100/{name}/auc"
    (value,) = {run.last(metric) for run in RUNS if metric in run.metrics}
    return figure([value])


def otb(
    names: Sequence[str],
    phase: str,
    branches: str = CLS_ALONE,
    window: str = "0.4",
    triggers: str = ALL_TRIGGERS,
) -> str:
    """AUC of the trackers of several seeds, from their sequences."""
    each = [sequences(name, phase, branches, window, triggers) for name in names]
    return figure([statistics.mean(found.values()) for found in each])


def sequences(
    name: str,
    phase: str,
    branches: str = CLS_ALONE,
    window: str = "0.4",
    triggers: str = ALL_TRIGGERS,
) -> dict[str, float]:
    """AUC of one tracker on each of the eight."""
    settings = {"tracker.update_branches": branches, "tracker.window_weight": window}
    found = {
        metric.split("/")[2]: run.last(metric)
        for run in RUNS
        if settings.items() <= run.params.items()
        and run.params.get("tracker.update_triggers", ALL_TRIGGERS) == triggers
        for metric in run.metrics
        if re.fullmatch(rf"otb100_sequences/{name}__{phase}/[^/]+/auc", metric)
    }
    assert len(found) == 8, (name, phase, list(found))
    return found


def pairs(names: Sequence[str], subset: str, step: int, rates: str = "learned") -> str:
    """Overlap at the peak after so many steps."""
    (run,) = [
        run for run in RUNS if run.tags["kind"] == "pair_tasks" and run.params["num_steps"] == "5"
    ]
    values = []
    for name in names:
        is_first = run.name == f"pair tasks {name}"  # whose metrics have the short names
        own = "" if is_first else rf"{name}__{rates.replace(' ', '_')}[^/]*/"
        (metric,) = [
            each for each in run.metrics if re.fullmatch(f"pair_tasks/{own}{subset}iou", each)
        ]
        values.append(run.metrics[metric][step])
    return figure(values)


def validated(name: str) -> list[str]:
    """A short training's held-out overlaps, as README's table of open points gives them."""
    (run,) = [run for run in RUNS if run.name == f"cell-{name}"]
    names = [f"val/{subset}iou_{step}" for subset in ("", "look_alike_") for step in (0, 4)]
    return [figure([run.last(each)]) for each in names]


def table(title: str) -> dict[str, list[str]]:
    """The rows under a header line that begins so; bold, and the label's own column, taken off."""
    lines = README.splitlines()
    (start,) = [at for at, line in enumerate(lines) if line.startswith(title)]
    rows: dict[str, list[str]] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        label, *cells = [
            cell.strip().replace("**", "") for cell in line.strip().strip("|").split("|")
        ]
        rows[label] = cells
    return rows


def pair_row(names: Sequence[str], rates: str = "learned") -> list[str]:
    return [pairs(names, subset, step, rates) for subset in (ALL, ALIKE) for step in (0, 5)]


def test_pair_tasks() -> None:
    assert table("| pair tasks |") == {
        "FCOS-MAML, learned rates": pair_row(MAML),
        "baseline, rate .001": pair_row(BASELINE, "initial"),
        "baseline, its best constant": pair_row(BASELINE, "best constant"),
        "FCOS-MAML, block-4 adapts too, one seed": pair_row(BLOCK4),
        "Retina-MAML, one seed": pair_row(RETINA),
    }


def test_otb() -> None:
    phases = ("before_adaptation", "after_adaptation", "online_updating")
    constants = [f"BASE-CONST-{seed}" for seed in range(3)]
    assert table("| OTB | before |") == {
        "FCOS-MAML": [
            *(otb(MAML, each) for each in phases[:2]),
            otb(MAML, phases[2], triggers=DISTRACTORS),
            otb(MAML, phases[2]),
            otb(MAML, phases[2], BOTH_BRANCHES),
        ],
        "FCOS-MAML, without the cosine window, three seeds": [
            *(otb(FEW_MAML, each, window="0.0") for each in phases[:2]),
            *("", "", ""),
        ],
        "baseline, rate .001": [
            *(otb(BASELINE, each) for each in phases[:2]),
            "",
            otb(BASELINE, phases[2]),
            otb(BASELINE, phases[2], BOTH_BRANCHES),
        ],
        "baseline, its best constant": ["", otb(constants, phases[1]), "", "", ""],
        "Retina-MAML, one seed": [
            *(otb(RETINA, each) for each in phases[:2]),
            otb(RETINA, phases[2], triggers=DISTRACTORS),
            otb(RETINA, phases[2]),
            "",
        ],
        "a box that never moves": ["", opponent("Static_box"), "", "", ""],
        **{f"OpenCV's {name}": ["", opponent(name), "", "", ""] for name in ("CSRT", "MIL", "KCF")},
    }


def test_gains_by_updates() -> None:
    gains = [
        updated - sequences(name, "after_adaptation")[sequence]
        for name in MAML
        for sequence, updated in sequences(name, "online_updating", triggers=DISTRACTORS).items()
    ]
    up, down = sum(gain > 0.02 for gain in gains), sum(gain < -0.02 for gain in gains)
    said = f"of {len(gains)} runs {up} gain more than .02, {down} lose more than .02"
    assert said in " ".join(README.split())


def test_kernel_wise_rates() -> None:
    rows = table("| Table 2, learned rates in |")
    cells = [NONE, REG, CLS, MAML[:1]]
    for label, subset in (("300 pair tasks, after", ALL), ("150 with a look-alike, after", ALIKE)):
        assert rows[label] == [
            pairs(NONE, subset, 5, "initial"),
            pairs(NONE, subset, 5, "best constant"),
            *(pairs(cell, subset, 5) for cell in cells[1:]),
        ]
    for label, phase in (
        ("after five steps", "after_adaptation"),
        ("updates of cls", "online_updating"),
    ):
        none, *others = [otb(cell, phase) for cell in cells]
        assert rows[f"OTB, {label}"] == [none, "", *others]


CELLS = {
    "none": "start",
    "block-4 adapts too": "adapts_block4",
    "all negatives count": "all_negatives",
    "score's weight 4": "cls_half",
    "inner rates learned at 1e-4": "rates_third",
    "block-4 learned at 3e-4": "block4_triple",
    "block-4 frozen": "block4_frozen",
    "heads of 128 channels": "fourfold_width",
    "the heads' input as it is": "raw_input",
}


def test_open_points() -> None:
    assert table("| change | before |") == {label: validated(name) for label, name in CELLS.items()}


def test_table_3() -> None:
    one = MAML[:1]
    assert table("| Table 3, online updating |")["OTB"] == [
        otb(one, "after_adaptation"),
        otb(one, "online_updating"),
        otb(one, "online_updating", BOTH_BRANCHES),
    ]


def test_ways_to_update() -> None:
    """On held-out videos, played as they are, or made harder."""
    rows = {
        "as they are, three seeds": ("1", "1.0"),
        "every third frame, five seeds": ("3", "1.0"),
        "every second frame, the middle .6 of each target, three seeds": ("2", "0.6"),
    }
    said = table("| held-out videos, updates | none |")
    assert list(said) == list(rows)
    for label, playing in rows.items():
        (run,) = [
            run
            for run in RUNS
            if run.tags["kind"] == "update_variants"
            and (run.params.get("stride", "1"), run.params.get("part", "1.0")) == playing
        ]
        names = ["no_updates", "heads__cls__distractors", "heads__cls"]
        metrics = [f"update_variants/{name}/auc" for name in names]
        assert said[label] == [
            figure([run.last(each)]) if each in run.metrics else "" for each in metrics
        ]


def starter(phase: str) -> str:
    return otb(["starter"], phase, BOTH_BRANCHES)


def test_the_tracker_to_start_with() -> None:
    before, after, online = map(
        starter, ("before_adaptation", "after_adaptation", "online_updating")
    )
    said = f"AUC is {before} before adaptation, {after} after it and {online} with online updating"
    assert said in " ".join(README.split())


def trials(study: str, *cells: str, metric: str = "tracking/auc") -> list[str]:
    """A metric of a study's cells, over their seeds."""
    runs = [run for run in RUNS if run.tags.get("study") == study]
    by_cell = [[run for run in runs if run.tags["cell"] == cell] for cell in cells]
    return [figure([run.last(metric) for run in each]) for each in by_cell]


def test_studies_on_synthetic_videos() -> None:
    one = {label: cells[:2] for label, cells in table("| Table 1, updating off |").items()}
    study = "ablation_maml"
    assert one == {
        "baseline": trials(study, "baseline_before", "baseline_after"),
        "baseline, adapted at its best constant rate": [
            "",
            *trials(study, "baseline_after_best_rate"),
        ],
        "FCOS-MAML": trials(study, "maml_before", "maml_after"),
    }
    two = table("| Table 2, online updating |")
    assert two["ours"] == trials("ablation_kllr", "none", "none_best_rate", "reg", "cls", "both")
    three, cells = table("| Table 3 |"), ("none", "cls", "both", "both_every_5", "both_every_20")
    assert three["AUC"] == trials("ablation_online_update", *cells)
    found = [
        run.last("tracking/fps")
        for cell in cells
        for run in RUNS
        if run.tags.get("study") == "ablation_online_update" and run.tags["cell"] == cell
    ]
    assert three["frames a second, ours on one core"] == [f"{fps:.0f}" for fps in found]


def test_searches_on_synthetic_videos() -> None:
    text = " ".join(README.split())
    best, second, start = trials("search_tracker", "best1", "best2", "start")
    said = f"have {best} and {second} on the report's, the starting point {start}"
    assert said in text
    best, start = trials("search_inner_loop", "best1", "start")
    assert f"the best has {best} on the report's sequences, the starting point {start}" in text


def test_quickstart() -> None:
    runs = {run.params["seed"]: run for run in RUNS if run.tags.get("preset") == "quickstart"}
    rows = {
        "FCOS-MAML, before adaptation": "synthetic/FCOS-MAML__before_adaptation/auc",
        "FCOS-MAML, after five steps on the first frame": "synthetic/auc",
        "FCOS-MAML, with online updating": "synthetic/FCOS-MAML__online_updating/auc",
        "a box that never moves": "synthetic/Static_box/auc",
        "OpenCV's MIL (one run: it cannot be seeded)": "synthetic/OpenCV_MIL/auc",
    }
    said = table("| tracker | seed 0 |")
    for label, metric in rows.items():
        values = [runs[str(seed)].last(metric) for seed in range(3)]
        mean = figure([statistics.mean(values)])
        each = [figure([value]) if "FCOS" in label else "" for value in values]
        assert said[label] == [*each, mean]
    for metric, text in (
        ("query_loss_ratio", "query loss to"),
        ("iou_0", "peak from"),
        ("iou_4", "to"),
    ):
        a, b, c = [f"{runs[str(seed)].last(f'val/{metric}'):.2f}"[1:] for seed in range(3)]
        assert f"{text} {a}, {b} and {c}" in " ".join(README.split())


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_each_run_says_what_it_was(run: ReferenceRun) -> None:
    assert run.params and run.metrics
    assert run.tags["kind"] in KINDS
