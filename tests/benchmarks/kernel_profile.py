"""What a device does in one step, kernel by kernel."""

from collections import Counter
from collections.abc import Callable

import torch
from outer_step import seconds


def profile(run: Callable[[], object], title: str, device: str) -> None:
    """Prints the kernels of one step by time."""
    run()
    wall = seconds(run, device)
    on_gpu = device != "cpu"
    with torch.profiler.profile(
        activities=[
            torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
        ]
    ) as found:
        run()
        if on_gpu:
            torch.cuda.synchronize()
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for event in found.events():
        kind = getattr(event, "device_type", None)
        if on_gpu and "CUDA" not in str(kind):
            continue
        span = event.time_range
        times[event.name] += span.end - span.start
        counts[event.name] += 1
    total = sum(times.values()) or 1
    print(
        f"  {title}: {wall * 1e3:.1f} ms; kernels take {total / 1e3:.1f} ms in "
        f"{sum(counts.values())} launches",
        flush=True,
    )
    for name, spent in times.most_common(22):
        print(
            f"    {spent / total:6.1%} {spent / 1e3:8.2f} ms {counts[name]:6} x "
            f"{spent / counts[name]:7.1f} us  {name[:110]}"
        )
