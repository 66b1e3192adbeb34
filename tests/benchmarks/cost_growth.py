"""How an outer step's time and memory grow with pairs and with inner steps; writes a plot.

Usage: ``python tests/benchmarks/cost_growth.py [--output cost_growth.png]``. Under a minute of one
core; heads adapt, block-4 and heads are learned, a slim network.

Time is the median of CPU seconds on one thread; the least-squares line is printed with the largest
distance of a point from it. Memory is the most that tensors held at one time, counted without data.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure

from meta_train.detectors.backbone import BackboneConfig
from meta_train.detectors.fcos import FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import NetworkConfig
from meta_train.plan import peak_bytes, random_learner, take_step
from meta_train.train_config import TrainConfig

SLIM = NetworkConfig(
    backbone=BackboneConfig(width=16, weights="random"), head=HeadConfig(hidden_channels=64)
)
CONFIG = TrainConfig(detector=FcosConfig(network=SLIM))
PAIRS = (1, 2, 4, 6, 8)
STEPS = (1, 2, 4, 6, 8)
ORDERS = ("first", "second")


def with_steps(num_steps: int) -> TrainConfig:
    """The same run with another number of inner steps."""
    return replace(CONFIG, inner_loop=replace(CONFIG.inner_loop, num_steps=num_steps))


def cpu_seconds(run: Callable[[], None], repeats: int) -> float:
    """Median CPU time of this process, after a run that warms up."""
    run()
    found = []
    for _ in range(repeats):
        before = time.process_time()
        run()
        found.append(time.process_time() - before)
    return statistics.median(found)


def measure(config: TrainConfig, order: str, num_pairs: int, repeats: int) -> tuple[float, float]:
    """Seconds and MiB of one outer step."""
    learner = random_learner(config)
    seconds = cpu_seconds(lambda: take_step(config, learner, order, num_pairs), repeats)
    return seconds, peak_bytes(config, learner, order, num_pairs) / 2**20


def report(name: str, sizes: tuple[int, ...], points: np.ndarray) -> None:
    """The numbers of one curve, and how straight it is."""
    seconds, mebibytes = points.T
    line = np.polynomial.Polynomial.fit(sizes, seconds, 1)
    off = np.abs(seconds / line(np.array(sizes)) - 1).max()
    print(f"{name}: {', '.join(map(str, sizes))}")
    print(f"  seconds {', '.join(f'{s:.3f}' for s in seconds)}; at most {off:.0%} off a line")
    print(f"  MiB     {', '.join(f'{m:.1f}' for m in mebibytes)}", flush=True)


def main() -> None:
    """Measures, prints, draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", default="cost_growth.png")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figure = Figure(figsize=(9, 6), layout="constrained")
    panels = figure.subplots(2, 2)
    for order in ORDERS:
        curves = {
            "pairs": (PAIRS, [measure(CONFIG, order, n, options.repeats) for n in PAIRS]),
            "inner steps": (
                STEPS,
                [measure(with_steps(k), order, 2, options.repeats) for k in STEPS],
            ),
        }
        for column, (axis, (sizes, rows)) in enumerate(curves.items()):
            points = np.array(rows)
            report(f"{order} order, {axis}", sizes, points)
            for row, label in enumerate(("CPU seconds", "MiB of tensors")):
                panels[row, column].plot(sizes, points[:, row], marker="o", label=f"{order} order")
                panels[row, column].set(xlabel=axis, ylabel=label)
                panels[row, column].grid(alpha=0.3)
    for panel in panels.flat:  # once all curves are in
        panel.set(xlim=(0, None), ylim=(0, None))
    panels[0, 0].legend()
    panels[0, 0].set_title(f"{CONFIG.inner_loop.num_steps} inner steps")
    panels[0, 1].set_title("2 pairs")
    figure.savefig(options.output, dpi=120)
    print(f"plot in {options.output}")


if __name__ == "__main__":
    main()
