"""Looks at MLflow's own pages in a real browser: the run list, a run, a study's comparison, charts.

python tests/browse_mlflow.py --study ablation_kllr --output pages     # needs Chromium
python tests/browse_mlflow.py --runs 9498...,a34a...

Starts `mlflow ui` on the loopback, opens each page in headless Chromium, requires that it shows the
names that it must (of runs, parameters, metrics), and leaves a picture of each to be looked at. Of
a study it opens the page whose address the study printed. Without --study and --runs it takes the
newest four finished runs of the experiment.
"""

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from meta_train.run_log import absolute_uri
from meta_train.run_store import MlflowClient
from search_spaces.comparison import compare_url

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE_SECONDS = 120
RUN_SHOWS = ("Metrics", "Parameters")


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page and what its text must hold."""

    name: str
    url: str
    expected: tuple[str, ...]
    height_px: int = 2400
    """Of the window: charts outside it are not drawn."""


def main() -> None:
    """Opens the pages and says what they show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracking-uri", default="sqlite:///mlflow.db")
    parser.add_argument("--experiment", default="tracking-maml")
    parser.add_argument("--study", default="", help="its newest run's trials, by the study's name")
    parser.add_argument("--runs", default="", help="ids to compare, with commas between")
    parser.add_argument("--output", type=Path, default=Path("mlflow_pages"))
    arguments = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"a Chromium expected on the PATH ({', '.join(BROWSERS)}), there is none")
    uri = absolute_uri(arguments.tracking_uri, Path.cwd())
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(arguments.experiment)
    if experiment is None:
        sys.exit(f"{uri}: no experiment {arguments.experiment!r}; train something first")
    if arguments.study:
        runs = study_runs(client, experiment.experiment_id, arguments.study)
    elif arguments.runs:
        runs = arguments.runs.split(",")
    else:
        runs = newest(client, experiment.experiment_id)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with interface(uri) as home:
        for page in pages(client, home, experiment.experiment_id, runs, arguments.study):
            look(browser, page, arguments.output)


def newest(client: MlflowClient, experiment_id: str) -> list[str]:
    """The newest four finished runs."""
    found = client.search_runs([experiment_id], "attributes.status = 'FINISHED'", max_results=4)
    return [run.info.run_id for run in found]


def study_runs(client: MlflowClient, experiment_id: str, study: str) -> list[str]:
    """The runs on the page whose address the newest run of a study holds."""
    wanted = f"tags.study = '{study}' and tags.kind = 'study'"
    found = client.search_runs([experiment_id], wanted, max_results=1)
    if not found:
        sys.exit(f"no study {study!r} in MLflow; run search_spaces/{study}.py first")
    query = urlsplit(urlsplit(found[0].data.tags["compare_url"]).fragment).query
    return list(json.loads(parse_qs(query)["runs"][0]))


@contextlib.contextmanager
def interface(tracking_uri: str) -> Iterator[str]:
    """MLflow's pages on a free port of the loopback, for the time of a block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking_uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    home = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{home}/health"):
                break
            time.sleep(0.5)
        yield home
    finally:
        server.terminate()
        server.wait()


def pages(
    client: MlflowClient, home: str, experiment: str, runs: Sequence[str], study: str
) -> Iterator[Page]:
    """What is opened, and what must be seen there: names of runs, parameters and metrics."""
    found = [client.get_run(run) for run in runs]
    names = tuple(run.info.run_name or "" for run in found)
    knobs, metrics = varying_params(found), shared_metrics(found)
    base = f"{home}/#/experiments/{experiment}"
    wanted = f"tags.study = '{study}' and tags.kind = 'trial'" if study else ""
    only = f"searchFilter={quote(wanted)}"
    yield Page(name="runs", url=f"{base}/runs?{only}", expected=names)
    charts = f"{base}/runs?{only}&compareRunsMode=CHART"
    yield Page(name="charts", url=charts, expected=(*names, *metrics), height_px=9000)
    expected = (names[0], *RUN_SHOWS, *metrics, *knobs)
    yield Page(name="run", url=f"{base}/runs/{runs[0]}", expected=expected)
    # Its table of metrics draws the rows in view alone, the first by name.
    first = min(set.intersection(*(set(run.data.metrics) for run in found)))
    compare = compare_url(home, experiment, runs)
    yield Page(name="compare", url=compare, expected=(*names, *RUN_SHOWS, first, *knobs))


def varying_params(runs: Sequence[Any]) -> tuple[str, ...]:
    """Parameters that all runs have and in which they differ: what the study varies."""
    shared = set.intersection(*(set(run.data.params) for run in runs))
    return tuple(sorted(n for n in shared if len({run.data.params[n] for run in runs}) > 1))


def shared_metrics(runs: Sequence[Any]) -> tuple[str, ...]:
    """What all runs were judged by, under the same names."""
    shared = set.intersection(*(set(run.data.metrics) for run in runs))
    return tuple(sorted(name for name in shared if name.startswith(("tracking/", "val/query"))))


def look(browser: str, page: Page, output: Path) -> None:
    """A picture of a page; exits if its text lacks what it must hold."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    flags += [f"--window-size=1600,{page.height_px}", "--virtual-time-budget=60000"]
    picture = output / f"{page.name}.png"
    for _ in range(2):  # the first visit fills the server's caches
        command = [browser, *flags, f"--screenshot={picture}", page.url]
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_SECONDS)
        command = [browser, *flags, "--dump-dom", page.url]
        found = subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_SECONDS)
        missing = [text for text in page.expected if text not in found.stdout.decode()]
        if not missing:
            print(f"{page.name}: shows {', '.join(page.expected)}   {picture}", flush=True)
            return
    sys.exit(f"{page.name}: {page.url} does not show {missing}; see {picture}")


if __name__ == "__main__":
    main()
