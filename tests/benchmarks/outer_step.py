"""One outer step of ours against `higher`'s and `torchopt`'s: time, memory, share of the ceiling.

Usage: ``python tests/benchmarks/outer_step.py [--cases features network everything] [--pairs 2]``.
Needs the extra ``bench``; a peer that is not installed is said so and left out. Runs without an
installation of the project too: ``PYTHONPATH=. python tests/benchmarks/outer_step.py``, with
``--device cuda`` on a GPU.

Cases:

- features: the head's input features are given to everyone; the heads adapt and are learned;
- network: everyone starts from images; the heads adapt, block-4 and the heads are learned;
- everything: everyone starts from images; block-4 and the heads adapt and are learned.

All compute the same gradient, which is checked first. Then the contestants take turns in this one
process; a ratio is that of two medians, its range that of the single rounds. On one thread, time is
the process's own CPU time, so that neighbours count little; else, and on a GPU, the clock's.
Operations and memory (the most that tensors held at one time, less what was given) are counted on
tensors without data at the same sizes, in fp32, kernels' workspaces apart.

Precisions: ours in ``bf16`` rounds the heads and the backbone's derivatives, in ``bf16-all`` the
whole network, as `OuterLoopConfig.precision` does; peers have autocast around everything in both.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from peer_steps import PEERS, Gradient, Pair
from torch.utils.flop_counter import FlopCounterMode

from meta_train.boundary_gradient import gradient_from_boundary
from meta_train.detectors import Detector
from meta_train.detectors.backbone import BRANCHES, BackboneConfig, Weights, calibrate
from meta_train.detectors.fcos import Fcos, FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import (
    Adapts,
    Features,
    NetworkConfig,
    adapted_names,
    initial_weights,
)
from meta_train.gamma_schedule import PAPER_GAMMAS
from meta_train.kernel_rates import KernelRatesConfig, Rates, initial_rates
from meta_train.live_memory import LiveMemory
from meta_train.outer_step import (
    Episodes,
    Learns,
    OuterStep,
    boundary_features,
    label_episodes,
    meta_gradient,
)
from meta_train.task_gradient import Task

ORDERS = ("first", "second")
PRECISIONS = ("fp32", "bf16", "bf16-all")


class Case(NamedTuple):
    """What is given, and what adapts."""

    adapts: Adapts
    learns: Learns
    from_features: bool


CASES = {
    "features": Case("head", "head", True),
    "network": Case("head", "head+block4", False),
    "everything": Case("head+block4", "head+block4", False),
}

BARS = {
    ("features", "first"): (1.0, 1.8),
    ("features", "second"): (1.0, 1.8),
    ("network", "first"): (1.25, 2.3),
    ("network", "second"): (1.8, 3.4),
    ("everything", "first"): (1.0, None),
    ("everything", "second"): (1.0, None),
}
"""Least ratio of a peer's time in fp32 to ours, in fp32 and in bf16."""

MEMORY_BARS = {"first": 0.75, "second": 1.05}
"""Largest ratio of our peak memory to a peer's."""


class Problem(NamedTuple):
    """One outer step to take, whoever takes it."""

    detector: Detector
    weights: Weights
    rates: Rates
    episodes: Episodes
    tasks: Task
    setup: OuterStep
    from_features: bool


def make_problem(
    case: Case, order: str, options: argparse.Namespace, device: torch.device
) -> Problem:
    """Random images of realistic sizes; a random backbone, calibrated on them."""
    network = NetworkConfig(
        backbone=BackboneConfig(width=options.width, weights="random"),
        head=HeadConfig(hidden_channels=options.hidden),
    )
    detector = Fcos(FcosConfig(network=network))
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> torch.Tensor:
        coarse = torch.rand(options.pairs * count, 3, 17, 17, generator=generator) * 255
        pixels = F.interpolate(coarse, size=263, mode="bilinear").to(torch.uint8)
        last = pixels.contiguous(memory_format=torch.channels_last)  # as episodes come
        return last.unflatten(0, (options.pairs, count)).to(device)

    def boxes(count: int) -> torch.Tensor:
        corner = torch.rand(options.pairs, count, 2, generator=generator) * 60 + 60
        return torch.cat([corner, corner + 64], dim=-1).to(device)

    present = torch.ones(options.pairs, 1, dtype=torch.bool, device=device)
    episodes = Episodes(images(3), boxes(3), images(1), boxes(1), present)
    weights = initial_weights(network, generator)
    weights = {name: weight.to(device) for name, weight in weights.items()}
    weights = calibrate(weights, episodes.support_images[0])
    adapted = {name: weights[name] for name in adapted_names(weights, case.adapts, BRANCHES)}
    rates = initial_rates(KernelRatesConfig(initial=options.rate), adapted)
    with torch.no_grad():
        support = boundary_features(detector, weights, episodes.support_images, case.adapts)
        query = boundary_features(detector, weights, episodes.query_images, case.adapts)
    query_labels, support_labels = label_episodes(detector, episodes)
    gammas = PAPER_GAMMAS[: options.steps + 1]
    return Problem(
        detector=detector,
        weights={n: w for n, w in weights.items() if n in adapted or not case.from_features},
        rates=rates,
        episodes=episodes,
        tasks=Task(support, support_labels, query, query_labels),
        setup=OuterStep(
            gammas=gammas,
            adapts=case.adapts,
            learns=case.learns,
            second_order=order == "second",
        ),
        from_features=case.from_features,
    )


def ours(problem: Problem) -> Gradient:
    """Our outer step."""
    detector, weights, rates, episodes, tasks, setup, from_features = problem
    if from_features:
        found = gradient_from_boundary(detector, weights, rates, tasks, setup)
    else:
        found = meta_gradient(detector, weights, rates, episodes, setup)
    return Gradient(found.weights, found.rates)


def peers_pairs(problem: Problem) -> list[Pair]:
    """The same pairs, one by one, as a module takes them."""
    num_pairs = len(problem.episodes.query_present)

    def rows(labels: tuple, pair: int) -> tuple:
        return type(labels)(*(field.unflatten(0, (num_pairs, -1))[pair] for field in labels))

    def features(given: Features, pair: int) -> Features:
        return {branch: x[pair] for branch, x in given.items()}

    tasks, images = problem.tasks, problem.episodes
    return [
        Pair(
            features(tasks.support, i) if problem.from_features else images.support_images[i],
            rows(tasks.support_labels, i),
            features(tasks.query, i) if problem.from_features else images.query_images[i],
            rows(tasks.query_labels, i),
        )
        for i in range(num_pairs)
    ]


def contestant(name: str, precision: str, problem: Problem) -> Callable[[], Gradient]:
    """One outer step by name."""
    detector, weights, rates, setup = (
        problem.detector,
        problem.weights,
        problem.rates,
        replace(problem.setup, exact_backbone=precision == "bf16"),
    )
    device = problem.episodes.query_boxes.device.type

    def rounded(caches: bool) -> torch.autocast:
        return torch.autocast(device, torch.bfloat16, cache_enabled=caches)

    def run() -> Gradient:
        # Ours: its cache would keep every inner step's weights. Peers: autocast as it comes.
        with nullcontext() if precision == "fp32" else rounded(name != "ours"):
            if name == "ours":
                return ours(problem._replace(setup=setup))
            return PEERS[name](detector, weights, rates, peers_pairs(problem), setup)

    return run


def seconds(run: Callable[[], object], device: str) -> float:
    """CPU seconds of one thread, or seconds on the clock where several or a GPU work."""
    if device == "cpu" and torch.get_num_threads() == 1:
        before = time.process_time()
        run()
        return time.process_time() - before
    wait = torch.cuda.synchronize if device != "cpu" else lambda: None
    wait()
    before = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - before


def cosine_and_error(found: Gradient, expected: Gradient) -> tuple[float, float]:
    """Of all weights' gradients as one vector (cosine), and the larger relative error of both."""
    cosine, errors = 1.0, []
    for a, b in zip(found, expected, strict=True):
        one = torch.cat([a[name].double().flatten() for name in b])
        other = torch.cat([b[name].double().flatten() for name in b])
        cosine = min(cosine, float(F.cosine_similarity(one, other, dim=0)))
        errors.append(float((one - other).norm() / other.norm()))
    return cosine, max(errors)


def ceiling(precision: str, device: str) -> Callable[[], float]:
    """GFLOP/s of block-4's 3x3 convolution, four images, forward and both backward passes."""
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    last = torch.channels_last
    x = torch.randn(4, 256, 33, 33, device=device).to(dtype, memory_format=last).requires_grad_()
    weight = torch.randn(256, 256, 3, 3, device=device).to(dtype, memory_format=last)
    weight.requires_grad_()
    arriving = torch.randn(4, 256, 33, 33, device=device).to(dtype, memory_format=last)
    work = 3 * 2 * 4 * 33 * 33 * 256 * 256 * 9 / 1e9

    def run() -> None:
        torch.autograd.grad(F.conv2d(x, weight, None, 1, 1), [x, weight], arriving)

    return lambda: work / seconds(run, device)


def counted(name: str, problem: Problem) -> tuple[float, float]:
    """GFLOP and peak MiB of one outer step on tensors without data."""
    with LiveMemory() as memory, FlopCounterMode(display=False) as counter:
        contestant(name, "fp32", problem)()
    return counter.get_total_flops() / 1e9, memory.peak_bytes / 2**20


def compare(
    case: str, order: str, names: list[str], precisions: list[str], options: argparse.Namespace
) -> list[list[str]]:
    """Prints one case in one order; gives a row of the table for each precision."""
    print(f"\n{case}, {order} order", flush=True)
    blank = make_problem(CASES[case], order, options, torch.device("meta"))
    counts = {name: counted(name, blank) for name in ("ours", *names)}
    work, mebibytes = counts["ours"]
    for name, (operations, peak) in counts.items():
        ratio = "" if name == "ours" else f"; ours {mebibytes / peak:.2f}x"
        bar = "" if name == "ours" else f" (bar: at most {MEMORY_BARS[order]})"
        print(
            f"  {name:9}{operations / options.pairs:.0f} GFLOP a pair, "
            f"peak memory {peak:.0f} MiB{ratio}{bar}",
            flush=True,
        )

    if not options.repeats:
        return []
    problem = make_problem(CASES[case], order, options, torch.device(options.device))
    theirs = list(dict.fromkeys("fp32" if p == "fp32" else "bf16-all" for p in precisions))
    entries = [("ours", p) for p in precisions] + [(n, p) for n in names for p in theirs]
    runs = {entry: contestant(*entry, problem) for entry in entries}
    reference = contestant("ours", "fp32", problem)()
    for (name, precision), run in runs.items():  # also warms up
        is_reference = (name, precision) == ("ours", "fp32")
        cosine, error = cosine_and_error(reference if is_reference else run(), reference)
        if not (error < 2e-4 if precision == "fp32" else cosine > 0.98):
            raise AssertionError(
                f"{name} in {precision} finds another gradient than ours in fp32: "
                f"cosine {cosine:.6f}, relative error {error:.1e}"
            )
        print(f"  {name:9}{precision:9}cosine {cosine:.6f}, error {error:.0e}", flush=True)

    times: dict[tuple[str, str], list[float]] = {entry: [] for entry in entries}
    ceilings = {precision: ceiling(precision, options.device) for precision in theirs}
    tops: dict[str, list[float]] = {precision: [] for precision in theirs}
    for _ in range(options.repeats):
        for entry, run in runs.items():
            times[entry].append(seconds(run, options.device))
            print(f"    {' in '.join(entry)}: {times[entry][-1]:.2f} s", flush=True)
        for precision, measure in ceilings.items():
            tops[precision] += [measure() for _ in range(3)]
    rows = []
    for precision in precisions:
        mine = times["ours", precision]
        middle = statistics.median(mine)
        top = statistics.median(tops["fp32" if precision == "fp32" else "bf16-all"])
        share = f"{work / middle / top:.0%}"
        print(
            f"  ours in {precision}: {middle / options.pairs:.2f} s a pair, {share} of the ceiling "
            f"({top:.0f} GFLOP/s)"
        )
        row = [case, order, precision]
        for name in names:
            ratio = statistics.median(times[name, "fp32"]) / middle
            row += [f"{ratio:.2f}", f"{mebibytes / counts[name][1]:.2f}"]
        rows.append([*row, share])
        bar = BARS[case, order][0 if precision == "fp32" else 1]
        for name, other in times:
            if name != "ours" and (other == "fp32" or precision != "fp32"):
                ratios = [t / m for t, m in zip(times[name, other], mine, strict=True)]
                ratio = statistics.median(times[name, other]) / middle
                counts_here = bar is not None and other == "fp32"
                verdict = "reached" if counts_here and ratio >= bar else "MISSED"
                print(
                    f"    {name} in {other} takes {ratio:.2f}x as long "
                    f"({min(ratios):.2f} to {max(ratios):.2f})"
                    + (f", bar {bar}: {verdict}" if counts_here else ""),
                    flush=True,
                )
    return rows


def supported(device: str) -> list[str]:
    """Precisions that the machine computes in; the others are printed as not applicable."""
    if device == "cpu":  # x86 has it in AVX-512 or AMX, Arm under its own name
        has = torch.cpu.get_capabilities()
        capable = any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    else:
        capable = torch.cuda.is_bf16_supported(including_emulation=False)
    return [p for p in PRECISIONS if p == "fp32" or capable]


def main() -> None:
    """Parses, compares, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=ORDERS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS[:2])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4, choices=range(1, 5))
    parser.add_argument("--repeats", type=int, default=3, help="0: count only")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--rate", type=float, default=0.003)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, for everyone
    for name in options.peers:
        if importlib.util.find_spec(name) is None:
            print(f"{name}: not installed (pip install -e '.[bench]')")
    names = [name for name in options.peers if importlib.util.find_spec(name)]
    able = supported(options.device)
    for precision in options.precisions:
        if precision not in able:
            print(f"{precision}: not applicable, this machine computes in no bf16")
    precisions = [p for p in options.precisions if p in able]
    rows = []
    for case in options.cases:
        for order in options.orders:
            rows += compare(case, order, names, precisions, options)
    head = ["case", "order", "precision"]
    head += [text for name in names for text in (f"{name} in fp32 / ours", "memory")]
    print()
    for row in ([*head, "of ceiling"], *rows) if rows else ():
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
