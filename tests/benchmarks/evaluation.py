"""Is evaluation fast? Scoring, parallel tracking, and the tracker itself, in one run.

python tests/benchmarks/evaluation.py --peer-python PEER/bin/python       # ten minutes on two cores
python tests/benchmarks/evaluation.py --cases tracking --rounds 5

- scoring: all of OTB-100 for one tracker, from files to scores, against got10k's code on the same
  files, which runs in an environment of its own: ``python -m venv PEER && PEER/bin/pip install
  got10k==0.1.3 'numpy<2' six``; left out where --peer-python does not say which;
- jobs: single-threaded workers on Ray against loops over the sequences, in one process and in as
  many as there are workers, start-up excluded; a network of half the width, for minutes;
- tracking: frames and updates beside their convolutions alone (the ceiling), a full support set
  beside no updating, and OpenCV's MIL on the same frames.

Contestants take turns in one process (got10k in its own), figures are medians over the rounds. Exit
code 1 where a figure misses what is expected of it; nothing else should run meanwhile.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from jobs_case import measure_jobs
from scoring_case import measure_scoring
from tracking_case import measure_tracking

CASES: dict[str, Callable[[argparse.Namespace], bool]] = {
    "scoring": lambda options: measure_scoring(options.peer_python, options.boxes, options.rounds),
    "jobs": lambda options: measure_jobs(
        max(1, options.rounds // 2),
        options.jobs_width,
        options.jobs_hidden_channels,
        options.workers,
        options.videos,
        options.frames,
    ),
    "tracking": lambda options: measure_tracking(
        options.rounds, options.width, options.hidden_channels, options.threads
    ),
}


def main() -> int:
    """Runs the cases that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--width", type=int, default=64, help="tracking: the backbone's, as ResNet-18's"
    )
    parser.add_argument("--hidden-channels", type=int, default=256, help="tracking: of the heads")
    parser.add_argument("--peer-python", type=Path, help="scoring: a Python that has got10k")
    parser.add_argument(
        "--boxes",
        type=Path,
        help="scoring: JSON with real annotations (gt) and boxes (trackers, NAME, predictions) of "
        "OTB-100's sequences; made up where not given",
    )
    parser.add_argument("--threads", type=int, default=1, help="tracking: as a task on Ray has")
    parser.add_argument("--workers", type=int, default=2, help="jobs: on Ray")
    parser.add_argument("--jobs-width", type=int, default=32, help="jobs: the backbone's")
    parser.add_argument("--jobs-hidden-channels", type=int, default=128, help="jobs: of the heads")
    parser.add_argument("--videos", type=int, default=6, help="jobs: how many")
    parser.add_argument("--frames", type=int, default=12, help="jobs: of each video")
    options = parser.parse_args()
    verdicts = [CASES[name](options) for name in options.cases]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
