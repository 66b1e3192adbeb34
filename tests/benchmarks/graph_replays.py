"""An outer step with a pair's work as CUDA graphs against the same step launch by launch.

Usage: ``PYTHONPATH=. python tests/benchmarks/graph_replays.py [--profile]``, on a GPU. Needs what
the heart of the project imports: no Ray, no MLflow; and the extra ``bench`` for ``--peers``.

1. agreement: largest relative difference between a gradient with graphs (three pairs on two lanes)
   and one without, beside that between two without (kernels that add in any order), by detector,
   part that adapts, order and precision;
2. time: the paper's network from images, FCOS-MAML, heads adapting, block-4 and heads learned. With
   graphs also several pairs at a time, each on a stream of its own (lanes). Contestants take turns;
   medians. The floors: operations of the convolutions, counted on tensors without data, over the
   rates that a large convolution and a large product of matrices reach in bf16. With ``--peers``
   also the loops of `higher` and `torchopt` afterwards, launch by launch on eight pairs, and how
   many times as long they take for a pair as our best; under autocast for both kinds of bf16;
3. with ``--profile``: what the GPU does in one step with graphs, by kernel.

A case that fails prints why, and the next one goes on; after ``--budget`` seconds none is begun.
"""

import argparse
import logging
import math
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from kernel_profile import profile
from outer_step import CASES, Problem, make_problem, peers_pairs, seconds
from peer_steps import PEERS, Gradient
from torch.utils.flop_counter import FlopCounterMode

from meta_train import cuda_graphs
from meta_train.detectors import Detector
from meta_train.detectors.fcos import Fcos, FcosConfig
from meta_train.detectors.network import NetworkConfig
from meta_train.detectors.retina import Retina, RetinaConfig
from meta_train.outer_step import MetaGradient, boundary_features, meta_gradient
from meta_train.precision import Precision, rounding

PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16", "bf16-all")


def detectors(network: NetworkConfig) -> dict[str, Detector]:
    """Every way in which a loss chooses its kernels."""
    return {
        "fcos": Fcos(FcosConfig(network=network)),
        "fcos, worst negatives": Fcos(FcosConfig(network=network, negatives_per_positive=3.0)),
        "retina": Retina(RetinaConfig(network=network)),
    }


def step_of(problem: Problem, precision: Precision, lanes: int) -> Callable[[], MetaGradient]:
    """One outer step; without graphs for 0 lanes."""
    setup = replace(
        problem.setup, cuda_graphs=lanes > 0, exact_backbone=precision == "bf16", diverges_at=1e9
    )
    device = problem.episodes.query_boxes.device

    def run() -> MetaGradient:
        cuda_graphs.GRAPHS.num_lanes = max(lanes, 1)
        with rounding(precision, device):
            return meta_gradient(
                problem.detector, problem.weights, problem.rates, problem.episodes, setup
            )

    return run


def peer_step(name: str, problem: Problem, precision: Precision) -> Callable[[], Gradient]:
    """A peer's outer step of eight pairs at most."""
    pairs = peers_pairs(problem)[:8]
    device = problem.episodes.query_boxes.device

    def run() -> Gradient:
        autocast = torch.autocast(device.type, torch.bfloat16, enabled="bf16" in precision)
        with rounding("tf32" if precision == "tf32" else "fp32", device), autocast:
            return PEERS[name](
                problem.detector, problem.weights, problem.rates, pairs, problem.setup
            )

    return run


def difference(found: MetaGradient, expected: MetaGradient) -> float:
    """The largest over all tensors, relative to the norm of each."""
    worst = 0.0
    for a, b in zip(found[:3], expected[:3], strict=True):
        for name, value in b.items():
            norm = value.double().norm().clamp(min=1e-12)
            worst = max(worst, float((a[name].double() - value.double()).norm() / norm))
    return worst if found.num_pairs == expected.num_pairs else float("inf")


def compare(options: argparse.Namespace, until: float) -> None:
    """Prints the differences."""
    for case in ("network", "everything"):
        for order in ("first", "second"):
            problem = make_problem(CASES[case], order, options, torch.device(options.device))
            for name, detector in detectors(problem.detector.network).items():
                if "worst" in name and (case, order) != ("network", "first"):
                    continue
                for precision in PRECISIONS if name == "fcos" else ("fp32", "bf16"):
                    title = f"{name}, {CASES[case].adapts}, {order} order, {precision}"
                    attempt(title, until, compare_one, problem, detector, precision, title)


def compare_one(problem: Problem, detector: Detector, precision: Precision, title: str) -> None:
    """One line. The second replay has other weights, rates and gammas than were captured."""
    problem = problem._replace(detector=detector)
    refused = len(cuda_graphs.GRAPHS._refused)
    step_of(problem, precision, 2)()
    gammas = tuple(reversed(problem.setup.gammas))
    other = problem._replace(
        weights={name: weight * 1.01 for name, weight in problem.weights.items()},
        rates={name: rate * 1.5 for name, rate in problem.rates.items()},
        setup=replace(problem.setup, gammas=gammas),
    )
    found = []
    for each in (problem, other):
        eager = step_of(each, precision, 0)()
        again = step_of(each, precision, 0)()
        replayed = step_of(each, precision, 2)()
        found.append((difference(replayed, eager), difference(again, eager), eager.num_pairs))
    fell_back = "" if len(cuda_graphs.GRAPHS._refused) == refused else "  FELL BACK TO EAGER"
    numbers = ", ".join(f"{mine:.1e} (eager {noise:.1e})" for mine, noise, _ in found)
    print(f"  {title}: {numbers}, {int(found[0][2])} pairs{fell_back}", flush=True)


def rates_of(options: argparse.Namespace) -> dict[str, float]:
    """TFLOP/s of a large convolution and of a large product, forward and backward."""
    dtype = torch.bfloat16
    small = options.device == "cpu"
    count, side, size = (1, 9, 64) if small else (128, 33, 8192)
    channels = 8 if small else 256
    last = torch.channels_last
    x = torch.randn(count, channels, side, side, device=options.device)
    x = x.to(dtype, memory_format=last).requires_grad_()
    kernels = torch.randn(channels, channels, 3, 3, device=options.device)
    kernels = kernels.to(dtype, memory_format=last).requires_grad_()
    given = torch.randn_like(x)
    a = torch.randn(size, size, device=options.device, dtype=dtype)

    def convolution() -> None:
        torch.autograd.grad(F.conv2d(x, kernels, None, 1, 1), [x, kernels], given)

    works = {
        "convolution": (convolution, 3 * 2 * count * side**2 * channels**2 * 9),
        "product": (lambda: a @ a, 2 * size**3),
    }
    rates = {}
    for name, (run, operations) in works.items():
        run()

        def several(run: Callable[[], Any] = run) -> None:
            for _ in range(5):
                run()

        times = [seconds(several, options.device) / 5 for _ in range(3)]
        rates[name] = operations / statistics.median(times) / 1e12
    return rates


def teraflops(order: str, options: argparse.Namespace) -> float:
    """Of one pair, counted."""
    alone = argparse.Namespace(**(vars(options) | {"pairs": 1}))
    problem = make_problem(CASES["network"], order, alone, torch.device("meta"))
    with FlopCounterMode(display=False) as counter:
        step_of(problem, "fp32", 0)()
    return counter.get_total_flops() / 1e12


def race(
    problem: Problem,
    order: str,
    precision: Precision,
    work: float,
    rates: dict[str, float],
    options: argparse.Namespace,
) -> None:
    """One size, order and precision: eager and each number of lanes, in turns."""
    pairs, on_gpu = len(problem.episodes.query_boxes), options.device != "cpu"
    runs = {lanes: step_of(problem, precision, lanes) for lanes in (0, *options.lanes)}
    runs = {lanes: run for lanes, run in runs.items() if lanes <= pairs}
    refused, memory = len(cuda_graphs.GRAPHS._refused), {}
    for lanes, run in runs.items():
        captured = seconds(run, options.device) if lanes else 0.0
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        run()
        if on_gpu:
            memory[lanes] = (
                f", peak {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB of tensors,"
                f" {torch.cuda.max_memory_reserved() / 2**20:.0f} reserved, first {captured:.2f} s"
            )
    times: dict[int, list[float]] = {lanes: [] for lanes in runs}
    for i in range(options.rounds):
        for lanes, run in runs.items():
            if lanes or i < 2 or pairs < 8:
                times[lanes].append(seconds(run, options.device))
    eager = statistics.median(times[0])
    print(f"  {pairs} pairs, {order} order, {precision}:", flush=True)
    for lanes, each in times.items():
        middle = statistics.median(each)
        who = f"{lanes} lane{'s' if lanes > 1 else ' '}" if lanes else "eager  "
        floor = ", ".join(f"{pairs * work / middle / rate:.1%} ({n})" for n, rate in rates.items())
        print(
            f"    {who} {middle * 1e3:8.1f} ms ({min(each) * 1e3:.1f} to {max(each) * 1e3:.1f}), "
            f"{eager / middle:5.2f}x, of the bf16 floor {floor}"
            f"{memory.get(lanes, '')}",
            flush=True,
        )
    if len(cuda_graphs.GRAPHS._refused) > refused:
        print("    FELL BACK TO EAGER", flush=True)
    if pairs == max(options.pairs):
        features = seconds_of_features(problem, precision, options.device)
        print(f"    of it, features up to the boundary: {features * 1e3:.1f} ms", flush=True)
        best = min(statistics.median(each) for each in times.values()) / pairs
        for name in options.peers:
            attempt(name, math.inf, time_peer, name, problem, precision, best)


def time_peer(name: str, problem: Problem, precision: Precision, best: float) -> None:
    """One line; ``best`` is our time for a pair, in seconds."""
    device = problem.episodes.query_boxes.device.type
    peer, count = peer_step(name, problem, precision), min(len(problem.episodes.query_boxes), 8)
    peer()
    middle = statistics.median(seconds(peer, device) for _ in range(3)) / count
    print(f"    {name}: {middle * 1e3:.1f} ms a pair, {middle / best:.2f}x our best", flush=True)


def seconds_of_features(problem: Problem, precision: Precision, device: str) -> float:
    """Trunk and block-4 of all images, without their backward pass."""
    images = (problem.episodes.query_images, problem.episodes.support_images)

    def run() -> None:
        with torch.no_grad(), rounding(precision, torch.device(device)):
            for each in images:
                boundary_features(
                    problem.detector, problem.weights, each, "head", exact=precision == "bf16"
                )

    run()
    return statistics.median(seconds(run, device) for _ in range(3))


def attempt(title: str, until: float, run: Callable[..., None], *args: Any) -> None:
    """Does it, unless the time is up; says what went wrong."""
    if time.monotonic() > until:
        print(f"  {title}: left out, the time is up", flush=True)
        return
    try:
        run(*args)
    except Exception:
        print(f"  {title}: FAILED\n{traceback.format_exc()}", flush=True)


def main() -> None:
    """Parses, compares, times, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, nargs="+", default=[32, 4, 1])
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=["bf16", "fp32", "tf32"]
    )
    parser.add_argument("--lanes", type=int, nargs="*", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=5, help="eager: two for many pairs")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[], help="also time these")
    parser.add_argument("--skip-comparison", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--rate", type=float, default=0.003)
    parser.add_argument("--steps", type=int, default=4, choices=range(1, 5))
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    start = time.monotonic()
    until = start + options.budget
    logging.basicConfig(level=logging.WARNING)
    cuda_graphs.logger.setLevel(logging.DEBUG)  # a refusal's traceback
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    device = torch.device(options.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}", flush=True)

    def sized(pairs: int) -> argparse.Namespace:
        return argparse.Namespace(**(vars(options) | {"pairs": pairs}))

    def elapsed() -> str:
        return f"({time.monotonic() - start:.0f} s)"

    rates: dict[str, float] = {}
    work = dict.fromkeys(("first", "second"), 0.0)

    def measure() -> None:
        rates.update(rates_of(options))
        work.update({order: teraflops(order, options) for order in work})
        by_order = ", ".join(f"{order} order {each:.3f}" for order, each in work.items())
        measured = ", ".join(f"{name} {each:.1f}" for name, each in rates.items())
        print(f"TFLOP a pair: {by_order}; TFLOP/s in bf16: {measured}", flush=True)

    attempt("floor", until, measure)
    if not options.skip_comparison:
        print(f"\nagreement, norm of the difference over the norm, worst tensor {elapsed()}")
        compare(sized(3), start + options.budget * 0.4)
    print(f"\ntime {elapsed()}")
    reserve = 8.0 if options.profile else 0.0
    for precision in options.precisions:
        for order in work:
            for pairs in options.pairs:
                title = f"{pairs} pairs, {order} order, {precision}"

                def timed(
                    pairs: int = pairs, order: str = order, precision: Precision = precision
                ) -> None:
                    problem = make_problem(CASES["network"], order, sized(pairs), device)
                    race(problem, order, precision, work[order], rates, options)

                attempt(title, until - reserve, timed)
    if options.profile:
        print(f"\nkernels {elapsed()}")
        for order in work:
            problem = make_problem(CASES["network"], order, sized(4), device)
            precision = options.precisions[0]
            title = f"4 pairs, {order} order, {precision}, one lane"
            args = (step_of(problem, precision, 1), title, options.device)
            attempt(title, until + 5, profile, *args)
    print(f"\ndone {elapsed()}")


if __name__ == "__main__":
    main()
