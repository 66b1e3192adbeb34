"""Scores OTB result files with got10k's code, once for each line on standard input.

Started by `evaluation.py` with the Python of an environment of its own, since the package does not
run with today's NumPy (``pip install got10k==0.1.3 'numpy<2' six``). Imports nothing of this
project.

Usage: ``python got10k_scoring.py OTB_FOLDER RESULTS_FOLDER TRACKER``. Answers each line with a line
of JSON: the seconds it took, without plots, and the scores.
"""

import contextlib
import io
import json
import sys
import tempfile
import time


def main() -> None:
    """Answers until the input ends."""
    import matplotlib

    matplotlib.use("Agg")
    from got10k.experiments import ExperimentOTB

    folder, results, tracker = sys.argv[1:]
    for _ in sys.stdin:
        with tempfile.TemporaryDirectory() as reports, contextlib.redirect_stdout(io.StringIO()):
            begin = time.perf_counter()
            experiment = ExperimentOTB(folder, "tb100", result_dir=results, report_dir=reports)
            experiment.result_dir = results
            experiment.plot_curves = lambda names: None
            scores = experiment.report([tracker])[tracker]
            seconds = time.perf_counter() - begin
        answer = {
            "seconds": seconds,
            "auc": scores["overall"]["success_score"],
            "precision_20": scores["overall"]["precision_score"],
            "sequences": {
                name: [each["success_score"], each["precision_score"]]
                for name, each in scores["seq_wise"].items()
            },
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
